"""`expert_mlp` and `gated_mlp` by the compiled kernel of panels of 4 and 8 bits (quantised.cc)."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from gorae.kernels.backend import in_rows, row_stride
from gorae.kernels.panels import Panels
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


def gated_mlp_quantised(native: Any, x: Tensor, gate: Panels, up: Panels, down: Panels) -> Tensor:
    """One expert for all rows of x, without a weight."""
    x = in_rows(x)
    width, inner = x.shape[-1], gate.shape[0]
    assert (gate.shape[1], *down.shape) == (width, width, inner), f"x is {width} wide, gate is {tuple(gate.shape)}"
    y = torch.empty(x.shape)
    native.panel_mlp(
        x.data_ptr(),
        prod(x.shape[:-1]),
        width,
        row_stride(x),
        inner,
        gate.packed.data_ptr(),
        up.packed.data_ptr(),
        down.packed.data_ptr(),
        gate.bits,
        down.bits,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


def are_few_bits(gate: Panels | None, up: Panels | None, down: Panels | None) -> bool:
    """Whether all are panels of 4 or 8 bits, gate and up of the same ones."""
    if gate is None or up is None or down is None:
        return False
    return gate[1:] == up[1:] and max(gate.bits, down.bits) < 16 and down.packed.is_cpu
