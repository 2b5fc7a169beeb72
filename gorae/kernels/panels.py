"""A matrix in the order in which the kernels read it: panels of 16 outputs, an input after the other.

Nouns: a panel holds 16 rows of a weight [O, I], the outputs; a group is 32 inputs in a row that share a scale; a block
is two groups. This is also the layout on disk, so that a mapped file needs no repacking; `LAYOUT` is its version.

    16 bits   for each input, 16 bfloat16: outputs 0, 8, 1, 9, … 7, 15, so that a 32-bit lane holds two, 8 apart
     8 bits   for each block, 2 x 16 float16 scales, then for each group 8 x 16 x 4 int8: quads of inputs by outputs
     4 bits   for each block, the scales, then for each group 4 x 16 x 4 bytes: quad j in the lower halves, quad
              j + 4 in the upper ones, each number plus 8

Outputs and, but for 16 bits, inputs are filled up with zeros to whole panels and blocks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 16  # outputs side by side
GROUP = 32  # inputs that share a scale
PANEL_BLOCK = 2 * GROUP
LAYOUT = 1
PANEL_BITS = (4, 8, 16)

_QUAD = 4  # inputs whose products one instruction adds
_SCALE_BYTES = PANEL_BLOCK // GROUP * PANEL * 2
# What the scale of a group of 4 bits is tried with: the largest magnitude may be clipped for the others' sake.
_STRETCHES = (1.0, 0.92, 0.85, 1.08)


class Panels(NamedTuple):
    """A matrix of `shape` [O, I] at 4, 8 or 16 `bits` a number; packed uint8 [panels, bytes of a panel]."""

    packed: Tensor
    bits: int
    shape: torch.Size


def panel_bytes(num_inputs: int, bits: int) -> int:
    """Bytes of one panel."""
    if bits == 16:
        return num_inputs * PANEL * 2
    return -(-num_inputs // PANEL_BLOCK) * (_SCALE_BYTES + PANEL_BLOCK * PANEL * bits // 8)


def pack(weight: Tensor, bits: int) -> Panels:
    """Pack a matrix in any float type; at 16 bits its numbers are rounded to bfloat16, at 8 and 4 bits quantised.

    Raises ValueError for numbers that are not finite, or beyond what float16 scales reach.
    """
    num_outputs, num_inputs = weight.shape
    sizes = -(-num_outputs // PANEL), panel_bytes(num_inputs, bits)
    packed = torch.empty(sizes, dtype=torch.uint8, device=weight.device)
    rows_at_once = PANEL * max(1, (1 << 18) // max(1, num_inputs * PANEL))
    for begin in range(0, num_outputs, rows_at_once):
        rows = weight[begin : begin + rows_at_once].float()
        if not rows.isfinite().all():
            raise ValueError(f"rows {begin} to {begin + len(rows)} hold what is no finite number; mend the source")
        filled = F.pad(rows, (0, 0, 0, -len(rows) % PANEL)).unflatten(0, (-1, PANEL))
        packed[begin // PANEL :][: len(filled)] = _pack_halves(filled) if bits == 16 else _pack_groups(filled, bits)
    return Panels(packed, bits, weight.shape)


def unpack(panels: Panels, first: int = 0, last: int | None = None) -> Tensor:
    """The float32 rows [·, I] of panels `first` to `last`, or all."""
    packed = panels.packed[first:last]
    filled = _unpack_halves(packed) if panels.bits == 16 else _unpack_groups(packed, panels.bits)
    num_outputs, num_inputs = panels.shape
    return filled.flatten(0, 1)[: max(0, num_outputs - first * PANEL), :num_inputs]


def _pack_halves(filled: Tensor) -> Tensor:
    """Float [panels, 16, I] to bytes [panels, ·] of bfloat16."""
    pairs = filled.bfloat16().unflatten(1, (2, PANEL // 2)).permute(0, 3, 2, 1)
    return pairs.contiguous().view(torch.uint8).flatten(1)


def _unpack_halves(packed: Tensor) -> Tensor:
    pairs = packed.contiguous().view(torch.bfloat16).unflatten(1, (-1, PANEL // 2, 2))
    return pairs.permute(0, 3, 2, 1).flatten(1, 2).float()


def _pack_groups(filled: Tensor, bits: int) -> Tensor:
    groups = F.pad(filled, (0, -filled.shape[-1] % PANEL_BLOCK)).unflatten(-1, (-1, GROUP))  # [panels, 16, groups, 32]
    numbers, scales = _quantised(groups, bits)
    quads = numbers.unflatten(-1, (-1, _QUAD)).permute(0, 2, 3, 1, 4).contiguous()  # [panels, groups, 8, 16, 4]
    if bits == 4:
        low, high = (quads + 8).to(torch.uint8).chunk(2, dim=2)
        quads = low | (high << 4)
    stored = quads.view(torch.uint8).flatten(2).unflatten(1, (-1, 2)).flatten(2)  # [panels, blocks, bytes]
    scale_bytes = scales.transpose(1, 2).contiguous().view(torch.uint8).unflatten(1, (-1, 2)).flatten(2)
    return torch.cat((scale_bytes, stored), dim=-1).flatten(1)


def _unpack_groups(packed: Tensor, bits: int) -> Tensor:
    blocks = packed.unflatten(1, (-1, _SCALE_BYTES + PANEL_BLOCK * PANEL * bits // 8))
    scale_bytes, stored = blocks[..., :_SCALE_BYTES], blocks[..., _SCALE_BYTES:]
    scales = (
        scale_bytes.contiguous().view(torch.float16).unflatten(-1, (2, PANEL)).flatten(1, 2)
    )  # [panels, groups, 16]
    quads = stored.unflatten(-1, (2, -1, PANEL, _QUAD)).flatten(1, 2)  # [panels, groups, 4 or 8, 16, 4]
    if bits == 4:
        quads = torch.cat((quads & 15, quads >> 4), dim=2).to(torch.int8) - 8
    numbers = quads.view(torch.int8).permute(0, 3, 1, 2, 4).flatten(3)  # [panels, 16, groups, 32]
    return (numbers.float() * scales.float().transpose(1, 2)[..., None]).flatten(2)


def _quantised(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers int8 like `groups` [..., 32], and their float16 scales [...]."""
    if bits == 8:
        scales = _held(groups.abs().amax(-1) / 127, groups)
        return _rounded(groups, scales, 127, 127).to(torch.int8), scales
    largest, smallest = groups.amax(-1), groups.amin(-1)
    at_largest = torch.where(largest >= -smallest, largest, smallest)
    best_scales = _held(at_largest / -8, groups)
    least = _squared_error(groups, best_scales)
    for stretch in _STRETCHES[1:]:
        scales = _held(at_largest / -8 * stretch, groups)
        error = _squared_error(groups, scales)
        best_scales = torch.where(error < least, scales, best_scales)
        least = torch.minimum(error, least)
    return _rounded(groups, best_scales, 8, 7).to(torch.int8), best_scales


def _held(scales: Tensor, groups: Tensor) -> Tensor:
    held = scales.half()
    if not held.isfinite().all():
        raise ValueError(f"numbers of up to {groups.abs().max().item():.3g} are beyond what float16 scales reach")
    return held


def _rounded(groups: Tensor, scales: Tensor, below: int, above: int) -> Tensor:
    wide = scales.float()[..., None]
    inverse = torch.where(wide == 0, 0.0, 1 / wide)
    return (groups * inverse).round_().clamp_(-below, above)


def _squared_error(groups: Tensor, scales: Tensor) -> Tensor:
    """Of 4 bits."""
    return _rounded(groups, scales, 8, 7).mul_(scales.float()[..., None]).sub_(groups).square_().sum(-1)
