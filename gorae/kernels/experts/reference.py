"""The definition of the routed experts: sort the choices by expert, one product an expert, put back.

It goes through the doors of the product and of SwiGLU, so that it has the bits of the compiled experts beside compiled
ones: it serves the weights that those do not take.
"""

import torch
from torch import Tensor

from gorae.kernels.linear import linear
from gorae.kernels.swiglu import swiglu
from gorae.kernels.weights import HeldExperts

Experts = Tensor | HeldExperts


def expert_mlp_reference(
    x_ND: Tensor, experts_NA: Tensor, weights_NA: Tensor, gate_EFD: Experts, up_EFD: Experts, down_EDF: Experts
) -> Tensor:
    num_active = experts_NA.shape[-1]
    order = experts_NA.flatten().argsort(stable=True)
    load = experts_NA.flatten().bincount(minlength=len(gate_EFD)).tolist()
    inputs = x_ND.index_select(0, order // num_active).split(load)
    outputs = [
        linear(swiglu(linear(rows, gate), linear(rows, up)), down)
        for rows, gate, up, down in zip(inputs, gate_EFD, up_EFD, down_EDF, strict=True)
        if len(rows) or not len(x_ND)
    ]
    outputs_NAD = torch.cat(outputs).index_select(0, order.argsort()).unflatten(0, experts_NA.shape)
    y_ND = outputs_NAD[:, 0] * weights_NA[:, :1]
    for slot in range(1, num_active):
        y_ND = y_ND + outputs_NAD[:, slot] * weights_NA[:, slot : slot + 1]
    return y_ND
