"""What a product takes as its weight: a matrix in any float type, in DeepSeek's FP8, or in panels.

So a checkpoint's tensors can stay as they are stored, mapped. The compiled kernels read what has a `Place` as it lies;
anything else becomes float32 when it is used, some rows at a time.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gorae.kernels.panels import PANEL, Panels, unpack

BLOCK = 128  # rows and columns of DeepSeek's FP8 that share a scale

_BAND_ELEMENTS = 1 << 21  # widened at a time: 8 MiB of float32
_E4M3_BIAS, _BFLOAT16_BIAS = 7, 127
_LARGEST_E4M3 = 448.0


class BlockScaled(NamedTuple):
    """A matrix [O, I] as float8_e4m3fn values and a float32 scale for each block of 128 x 128, partial at the edges.

    DeepSeek-V3 (arXiv 2412.19437), section 3.3.
    """

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape


Weight = Tensor | BlockScaled | Panels


class Place(NamedTuple):
    """Where a weight lies, for a compiled kernel: addresses, and the numbers from a row to the next."""

    address: int
    scales: int = 0
    stride: int = 0
    scale_stride: int = 0


# The kinds of weights that the compiled kernels read, as native.cc numbers them.
FLOAT32, BFLOAT16, HALF_PANELS, BLOCK_SCALED = range(4)
_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}


def kind_of(weight: Weight | None) -> int | None:
    """The kind of a weight that the compiled kernels read as it lies; None if they do not."""
    if isinstance(weight, Tensor):
        return _KINDS.get(weight.dtype) if weight.is_cpu else None
    if isinstance(weight, Panels):
        return HALF_PANELS if weight.bits == 16 and weight.packed.is_cpu else None
    if isinstance(weight, BlockScaled):
        return BLOCK_SCALED if weight.values.is_cpu and weight.values.dtype == torch.float8_e4m3fn else None
    return None


def device_of(weight: Weight) -> torch.device:
    """Where a weight lies."""
    if isinstance(weight, Tensor):
        return weight.device
    return weight.packed.device if isinstance(weight, Panels) else weight.values.device


def place_of(weight: Weight) -> tuple[int, int, int, int]:
    """Of a weight that has a kind and contiguous rows; a plain tuple, since this is asked at every product."""
    if isinstance(weight, Tensor):
        return weight.data_ptr(), 0, weight.stride(0), 0
    if isinstance(weight, Panels):
        return weight.packed.data_ptr(), 0, 0, 0
    return weight.values.data_ptr(), weight.scales.data_ptr(), weight.values.stride(0), weight.scales.stride(0)


def with_contiguous_rows(weight: Weight) -> Weight:
    """`weight`, or a copy of it that a kernel can read."""
    if isinstance(weight, Tensor):
        return weight if weight.is_contiguous() or weight.stride(1) == 1 else weight.contiguous()
    if isinstance(weight, Panels):
        return weight if weight.packed.is_contiguous() else weight._replace(packed=weight.packed.contiguous())
    if weight.values.stride(1) == 1 and weight.scales.stride(1) == 1 and weight.scales.dtype == torch.float32:
        return weight
    return BlockScaled(weight.values.contiguous(), weight.scales.float().contiguous())


class HeldExperts(list[Weight]):
    """The matrices of a layer's experts, each held where it lies; the list is not changed once it is used."""

    @cached_property
    def kind(self) -> int | None:
        """Of all of them, where they are alike and lie as the compiled kernels read them. None where not."""
        kind = kind_of(self[0])
        if kind is None or any(kind_of(one) != kind or with_contiguous_rows(one) is not one for one in self):
            return None
        strides = {place_of(one)[2:] for one in self}
        return kind if len(strides) == 1 and len({one.shape for one in self}) == 1 else None

    @cached_property
    def place(self) -> Place:
        """The address of their addresses, that of their scales', and the strides they share."""
        return Place(self.addresses[0].data_ptr(), self.addresses[1].data_ptr(), *place_of(self[0])[2:])

    @cached_property
    def panels(self) -> Panels | None:
        """The first, where all are panels of its shape and bits. None where they are not."""
        first, *_ = self
        if not isinstance(first, Panels):
            return None
        is_like = (isinstance(one, Panels) and one[1:] == first[1:] and one.packed.is_contiguous() for one in self)
        return first if all(is_like) else None

    @cached_property
    def addresses(self) -> Tensor:
        """[2, E]: where each lies, and where its scales do."""
        return torch.tensor([place_of(one)[:2] for one in self]).T.contiguous()


def bands(weight: Weight) -> Iterator[Tensor]:
    """The rows of a matrix in float32, some whole blocks of them at a time; all at once if it is float32 already."""
    if isinstance(weight, Tensor) and weight.dtype == torch.float32:
        yield weight
        return
    num_rows, num_columns = weight.shape
    rows_at_once = max(1, _BAND_ELEMENTS // max(1, num_columns) // BLOCK) * BLOCK
    for begin in range(0, max(1, num_rows), rows_at_once):
        rows = slice(begin, begin + rows_at_once)
        if isinstance(weight, Panels):
            yield unpack(weight, begin // PANEL, rows.stop // PANEL)
        else:
            yield weight[rows].float() if isinstance(weight, Tensor) else _scaled(weight, rows)


def whole(weight: Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy of a matrix in one float type, filled some rows at a time, so that no second one is in memory."""
    filled, begin = torch.empty(weight.shape, dtype=dtype, device=device_of(weight)), 0
    for band in bands(weight):
        filled[begin : begin + len(band)] = band.detach()
        begin += len(band)
    return filled


def _scaled(weight: BlockScaled, rows: slice) -> Tensor:
    """The rows from a block's first on, in float32."""
    values = _from_e4m3(weight.values[rows])
    num_rows, num_columns = values.shape
    scales = weight.scales[rows.start // BLOCK :][: -(-num_rows // BLOCK)]
    spread = scales.repeat_interleave(BLOCK, 0)[:num_rows].repeat_interleave(BLOCK, 1)[:, :num_columns]
    return values.mul_(spread)


def _from_e4m3(values: Tensor) -> Tensor:
    """float8_e4m3fn to float32, exactly, in a fifth of the time PyTorch's own conversion takes on a CPU.

    Sign, exponent and mantissa are put where bfloat16 has them: that is the value but for the exponents' biases. Only
    the code of NaN comes out wrongly, as a number beyond the largest, and then PyTorch is asked.
    """
    bits = values.view(torch.int8).short().bitwise_left_shift_(4).bitwise_and_(-0x7810)
    widened = bits.view(torch.bfloat16).float().mul_(2.0 ** (_BFLOAT16_BIAS - _E4M3_BIAS))
    has_nan = widened.numel() and max(widened.amax().item(), -widened.amin().item()) > _LARGEST_E4M3
    return values.float() if has_nan else widened
