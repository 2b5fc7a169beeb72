"""`byte_rows` by the compiled kernel (cpu.cc), with the bits of the reference."""

from typing import Any

import torch
from torch import Tensor

from gorae.kernels.backend import in_rows, row_stride, wants_gradient
from gorae.kernels.byte_rows.reference import row_bytes


def byte_rows_cpu(native: Any, x: Tensor) -> Tensor:
    assert not wants_gradient(x), "rows of bytes have no gradient"
    x = in_rows(x)
    *leading, width = x.shape
    y = torch.empty(*leading, row_bytes(width), dtype=torch.int8)
    native.byte_rows(x.data_ptr(), x.shape[:-1].numel(), width, row_stride(x), y.data_ptr(), torch.get_num_threads())
    return y
