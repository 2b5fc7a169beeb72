"""The definition of `byte_rows` in plain torch, the way back, and the sizes of both."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.kernels.panels import GROUP

LARGEST = 127
SCALE_BYTES = 2
GROUP_BYTES = SCALE_BYTES + GROUP


def row_bytes(width: int) -> int:
    """Bytes of a row of so many numbers."""
    return width + SCALE_BYTES * -(-width // GROUP)


def row_width(num_bytes: int) -> int:
    """Numbers of a row of so many bytes."""
    return num_bytes - SCALE_BYTES * -(-num_bytes // GROUP_BYTES)


def byte_rows_reference(x: Tensor) -> Tensor:
    width = x.shape[-1]
    groups = F.pad(x.detach(), (0, -width % GROUP)).unflatten(-1, (-1, GROUP))
    scales = (groups.abs().amax(-1) / LARGEST).bfloat16().unsqueeze(-1)
    scales.masked_fill_(~scales.isfinite(), float("nan"))
    inverses = scales.float().reciprocal()
    numbers = (groups * inverses.masked_fill_(inverses.isinf(), 0.0)).round_().clamp_(-LARGEST, LARGEST)
    numbers = numbers.masked_fill_(numbers.isnan() | scales.isnan(), 0.0).to(torch.int8)
    return torch.cat((scales.view(torch.int8), numbers), dim=-1).flatten(-2)[..., : row_bytes(width)].contiguous()


def wide_rows(rows: Tensor) -> Tensor:
    """The float32 numbers [*rows, K] of int8 [*rows, bytes]; exact, as a number takes 7 bits and a scale 8."""
    num_bytes = rows.shape[-1]
    groups = F.pad(rows, (0, -num_bytes % GROUP_BYTES)).unflatten(-1, (-1, GROUP_BYTES))
    scales = groups[..., :SCALE_BYTES].clone(memory_format=torch.contiguous_format).view(torch.bfloat16)
    return (groups[..., SCALE_BYTES:].float() * scales.float()).flatten(-2)[..., : row_width(num_bytes)]
