"""Rows of numbers in a little more than a byte each: what fast mode may remember of a token.

Nouns: a group is 32 numbers of a row, the last one perhaps fewer. A group's bfloat16 scale stands before its numbers,
which are int8: so the first groups of a row are the row of the first numbers.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.byte_rows.cpu import byte_rows_cpu
from gorae.kernels.byte_rows.reference import byte_rows_reference, row_bytes, row_width, wide_rows

__all__ = ["byte_rows", "row_bytes", "row_width", "wide_rows"]


def byte_rows(x: Float[Tensor, "*rows K"]) -> Int8[Tensor, "*rows bytes"]:
    """round(x / scale) with scale = bfloat16(max |x| / 127) of the group; float32 only, [*rows, row_bytes(K)].

    One number that is not finite makes its group no number. There is no gradient.
    """
    assert x.dtype == torch.float32, f"rows of {x.dtype}"
    native = native_for(x)
    return byte_rows_reference(x) if native is None else byte_rows_cpu(native, x)
