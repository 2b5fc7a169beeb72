"""What a product takes as its weight: a matrix in any float type, in DeepSeek's FP8, or in panels of few bits.

So a checkpoint's tensors can stay as they are stored, mapped, until a product asks for them, some rows at a time.
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


class HeldExperts(list[Weight]):
    """The matrices of a layer's experts, each held where it lies; the list is not changed once it is used."""

    @cached_property
    def sample(self) -> Tensor | None:
        """The first, where all are like it: dense rows of one type. None where they are not."""
        first, *_ = self
        if not isinstance(first, Tensor):
            return None
        is_like = (isinstance(one, Tensor) and one.dtype == first.dtype and one.is_contiguous() for one in self)
        return first if all(is_like) else None

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
        """Where each lies, for a compiled kernel."""
        held = (one.packed if isinstance(one, Panels) else one for one in self)
        return torch.tensor([one.data_ptr() for one in held if isinstance(one, Tensor)])


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
