"""DeepSeek's FP8 weights: `float8_e4m3fn` values, and a float32 scale for each block of 128 x 128 beside them.

weight = value * scale, where the tensor of scales is called `<name>_scale_inv`. Blocks at the right and lower edge are
partial. Scales may be restricted to powers of two ("ue8m0"). DeepSeek-V3 (arXiv 2412.19437), section 3.3.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.checkpoint.safetensors import Layout
from gorae.checkpoint.shards import Shards, Tensors
from gorae.kernels import BLOCK, BlockScaled, Weight, whole

SCALES = "_scale_inv"  # what the name of the scales adds to that of the weight
POWERS_OF_TWO = "ue8m0"

_LARGEST = 448.0  # of float8_e4m3fn
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_BAND_ROWS = 8 * BLOCK  # worked on at a time, so that float32 copies stay small


def quantization_config(*, powers_of_two: bool) -> dict[str, Any]:
    """What config.json says of a checkpoint in this format."""
    told = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    return told | ({"scale_fmt": POWERS_OF_TWO} if powers_of_two else {})


def are_powers_of_two(scales: Tensor) -> bool:
    return bool((torch.frexp(scales).mantissa == 0.5).all())


def scales_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a matrix."""
    return tuple(-(-size // BLOCK) for size in shape)


def quantize(weight: Tensor, name: str, *, powers_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Return a matrix as float8_e4m3fn values and float32 scales; a block's largest element becomes at most 448.

    Raises ValueError, calling the matrix `name`, if an element is not finite.
    """
    values = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(scales_shape(tuple(weight.shape)))
    for rows, blocks in _bands(weight.shape[0]):
        band = weight[rows].float()
        largest = _blockwise_largest(band)
        if not largest.isfinite().all():
            raise ValueError(
                f"{name} has elements that are not finite numbers, which FP8 can not hold; mend the source"
            )
        scale = torch.where(largest > 0, (largest / _LARGEST).clamp_min(_SMALLEST_SCALE), 1.0)
        scales[blocks] = _rounded_up_to_power_of_two(scale) if powers_of_two else scale
        scaled = band / _spread(scales[blocks], band)
        values[rows] = scaled.clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return values, scales


def widen(values: Tensor, scales: Tensor, name: str) -> Tensor:
    """Return the float32 matrix that FP8 values and their scales stand for.

    Raises ValueError, calling the matrix `name`, if a scale is not a finite positive number.
    """
    require_scales(scales, name)
    return whole(BlockScaled(values, scales))


def read_widened(shards: Tensors, name: str) -> Tensor:
    """A tensor of a checkpoint, widened to float32 if it is held in FP8."""
    tensor = shards.tensor(name)
    return widen(tensor, shards.tensor(name + SCALES), name) if name + SCALES in shards else tensor


def read_kept(shards: Shards, name: str) -> Weight:
    """A tensor of a checkpoint as it is stored, mapped to stay."""
    tensor = shards.tensor(name, keep=True)
    return BlockScaled(tensor, shards.tensor(name + SCALES, keep=True)) if name + SCALES in shards else tensor


def is_scales(shards: Tensors, name: str) -> bool:
    """Whether a tensor of a checkpoint holds the scales of another."""
    return name.endswith(SCALES) and name.removesuffix(SCALES) in shards


def require_scales(scales: Tensor, name: str) -> None:
    """Raise ValueError if a scale of the matrix `name` is not a finite positive number."""
    wrong = scales[~(scales.isfinite() & (scales > 0))]
    if len(wrong):
        raise ValueError(
            f"{name + SCALES} has {len(wrong)} scales that are not finite positive numbers, such as {wrong[0].item()}; "
            "download the checkpoint again"
        )


def mismatches(shards: Shards) -> Iterator[str]:
    """What is wrong with the FP8 tensors of a checkpoint: each has its scales, of the right shape, type and sign."""
    for name in shards:
        layout = shards.layout(name)
        is_fp8 = layout.dtype == torch.float8_e4m3fn
        if is_fp8 and name + SCALES not in shards:
            yield f"missing: {name + SCALES}, the scales of {name}, which is {layout.type_name}"
        if not is_scales(shards, name):
            continue
        weight = shards.layout(name.removesuffix(SCALES))
        expected = Layout(torch.float32, scales_shape(weight.shape))
        if weight.dtype != torch.float8_e4m3fn or len(weight.shape) != 2:
            yield f"type: {name} scales {_told(weight)}; only matrices of F8_E4M3 can be scaled"
        elif layout != expected:
            yield f"shape: {name} is {_told(layout)}; {_told(weight)} takes {_told(expected)}"
        else:
            try:
                require_scales(shards.tensor(name), name.removesuffix(SCALES))
            except ValueError as error:
                yield f"value: {error}"


def _told(layout: Layout) -> str:
    return f"{layout.type_name} {list(layout.shape)}"


def _bands(num_rows: int) -> Iterator[tuple[slice, slice]]:
    """Runs of whole blocks: the rows of the matrix and the rows of its scales."""
    for begin in range(0, num_rows, _BAND_ROWS):
        end = min(begin + _BAND_ROWS, num_rows)
        yield slice(begin, end), slice(begin // BLOCK, -(-end // BLOCK))


def _blockwise_largest(band: Tensor) -> Tensor:
    """The largest magnitude in each block; what fills partial blocks is zero."""
    rows, columns = band.shape
    padded = F.pad(band, (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    return blocks.abs().amax((1, 3))


def _rounded_up_to_power_of_two(scale: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2 ** exponent, mantissa from 0.5 to below 1
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())


def _spread(scales: Tensor, band: Tensor) -> Tensor:
    """Each block's scale in place of the block's elements."""
    rows, columns = band.shape
    return scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
