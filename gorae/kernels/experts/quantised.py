"""`expert_mlp` by the compiled kernel of panels of 4 and 8 bits (quantised.cc)."""

from typing import Any

import torch
from torch import Tensor

from gorae.kernels.backend import in_rows, row_stride
from gorae.kernels.weights import HeldExperts


def expert_mlp_quantised(
    native: Any, x: Tensor, experts: Tensor, weights: Tensor, gate: HeldExperts, up: HeldExperts, down: HeldExperts
) -> Tensor:
    """Experts for which `are_few_bits`."""
    first, last = gate.panels, down.panels
    assert first, "experts held otherwise go through `linear`"
    assert last, "experts held otherwise go through `linear`"
    x, experts, weights = in_rows(x), experts.contiguous(), weights.contiguous()
    (num_tokens, width), inner = x.shape, first.shape[0]
    assert (first.shape[1], *last.shape) == (width, width, inner), f"x is {width} wide, experts {first.shape}"
    y = torch.empty(num_tokens, width)
    native.panel_experts(
        x.data_ptr(),
        num_tokens,
        width,
        row_stride(x),
        experts.data_ptr(),
        weights.data_ptr(),
        experts.shape[1],
        len(gate),
        inner,
        gate.addresses.data_ptr(),
        up.addresses.data_ptr(),
        down.addresses.data_ptr(),
        first.bits,
        last.bits,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


def are_few_bits(gate: HeldExperts, up: HeldExperts, down: HeldExperts) -> bool:
    """Whether all are panels of 4 or 8 bits, gate and up of the same ones."""
    if gate.panels is None or up.panels is None or down.panels is None:
        return False
    bits, shape = gate.panels.bits, gate.panels.shape
    return (bits, shape) == up.panels[1:] and max(bits, down.panels.bits) < 16 and down.panels.packed.is_cpu
