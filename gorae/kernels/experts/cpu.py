"""`expert_mlp` by the compiled kernel (cpu.cc); gradients by PyTorch's products, an expert at a time.

Sorted rows are one a choice (token and slot), by expert and, for one expert, by choice; P counts them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import in_rows, row_stride, wants_gradient
from gorae.kernels.swiglu.cpu import swiglu_gradients
from gorae.kernels.weights import HeldExperts, Place, kind_of

Experts = Tensor | HeldExperts


def shared_kind(*all_experts: Experts) -> int | None:
    """The kind of weight that all experts are of, if the kernel reads it."""
    first, *others = (held.kind if isinstance(held, HeldExperts) else kind_of(held) for held in all_experts)
    return first if all(kind == first for kind in others) else None


def expert_mlp_cpu(
    native: Any, kind: int, x: Tensor, experts: Tensor, weights: Tensor, gate: Experts, up: Experts, down: Experts
) -> Tensor:
    """Experts of one kind; those that are held one by one do not learn."""
    if isinstance(gate, HeldExperts) or isinstance(up, HeldExperts) or isinstance(down, HeldExperts):
        return mixed(native, kind, x, experts, weights, gate, up, down).y_ND
    if wants_gradient(x, weights, gate, up, down):
        return NativeExperts.apply(native, kind, x, experts, weights, gate, up, down)  # pyright: ignore[reportReturnType]
    return mixed(native, kind, x, experts, weights, gate, up, down).y_ND


class Mixed(NamedTuple):
    """The result, and what its gradient needs."""

    y_ND: Tensor
    gate_up_2PF: Tensor  # what goes into SwiGLU, sorted
    choices_P: Tensor  # of each sorted row
    starts: Tensor  # [E + 1]: the first sorted row of each expert, and P


class NativeExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, kind: int, x_ND, experts_NA, weights_NA, gate_EFD, up_EFD, down_EDF) -> Tensor:
        found = mixed(native, kind, x_ND, experts_NA, weights_NA, gate_EFD, up_EFD, down_EDF)
        ctx.save_for_backward(x_ND, weights_NA, gate_EFD, up_EFD, down_EDF, *found[1:])
        return found.y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_ND: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_ND, weights_NA, *held, gate_up_2PF, choices_P, starts = ctx.saved_tensors
        gate_EFD, up_EFD, down_EDF = (weight.to(x_ND.dtype) for weight in held)
        gate_PF, up_PF = gate_up_2PF
        tokens_P = choices_P // weights_NA.shape[1]
        weights_P1 = weights_NA.flatten()[choices_P][:, None]
        hidden_PF = gate_PF.sigmoid().mul_(gate_PF).mul_(up_PF)
        inputs_PD, grad_PD = x_ND[tokens_P], grad_ND[tokens_P]
        # before the choice's weight: its product with the hidden row is the weight's own gradient
        through_PF = torch.empty_like(hidden_PF)
        parts = [slice(first, last) for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        for part, down_DF in zip(parts, down_EDF, strict=True):
            torch.mm(grad_PD[part], down_DF, out=through_PF[part])
        grad_weights_P = (through_PF * hidden_PF).sum(-1)
        grad_gate_PF, grad_up_PF = swiglu_gradients(gate_PF, up_PF, through_PF.mul_(weights_P1))
        grad_gate_EFD, grad_up_EFD, grad_down_EDF = map(torch.empty_like, (gate_EFD, up_EFD, down_EDF))
        grad_inputs_PD = torch.empty_like(inputs_PD)
        weighted_PD = grad_PD.mul_(weights_P1)
        for expert, part in enumerate(parts):
            torch.mm(grad_gate_PF[part].T, inputs_PD[part], out=grad_gate_EFD[expert])
            torch.mm(grad_up_PF[part].T, inputs_PD[part], out=grad_up_EFD[expert])
            torch.mm(weighted_PD[part].T, hidden_PF[part], out=grad_down_EDF[expert])
            torch.mm(grad_gate_PF[part], gate_EFD[expert], out=grad_inputs_PD[part])
            grad_inputs_PD[part].addmm_(grad_up_PF[part], up_EFD[expert])
        grad_x_ND = in_slots(grad_inputs_PD, choices_P, weights_NA).sum(1)
        grad_weights_NA = in_slots(grad_weights_P, choices_P, weights_NA)
        grads = (grad.to(held[0].dtype) for grad in (grad_gate_EFD, grad_up_EFD, grad_down_EDF))
        return None, None, grad_x_ND, None, grad_weights_NA, *grads


def in_slots(rows: Tensor, choices_P: Tensor, weights_NA: Tensor) -> Tensor:
    """Sorted rows [P, ...] put back as [N, A, ...]."""
    return torch.empty_like(rows).index_copy_(0, choices_P, rows).unflatten(0, weights_NA.shape)


def mixed(
    native: Any, kind: int, x: Tensor, experts: Tensor, weights: Tensor, gate: Experts, up: Experts, down: Experts
) -> Mixed:
    x, experts, weights = in_rows(x), experts.contiguous(), weights.contiguous()
    num_tokens, width = x.shape
    num_active, num_experts, (inner, _) = experts.shape[1], len(gate), gate[0].shape
    num_choices = num_tokens * num_active
    sheet = torch.empty(2 * num_choices + num_experts + 1, dtype=torch.long)
    gate_up_2PF = torch.empty(2, num_choices, inner)
    workspace = torch.empty(num_choices, inner + 2 * width)
    y_ND = torch.empty(num_tokens, width)
    matrices = [held if isinstance(held, HeldExperts) else in_matrices(held) for held in (gate, up, down)]
    native.expert_mlp(
        x.data_ptr(),
        num_tokens,
        width,
        row_stride(x),
        experts.data_ptr(),
        weights.data_ptr(),
        num_active,
        num_experts,
        inner,
        kind,
        *map(place_of_experts, matrices),
        sheet.data_ptr(),
        gate_up_2PF.data_ptr(),
        workspace.data_ptr(),
        y_ND.data_ptr(),
        torch.get_num_threads(),
    )
    return Mixed(y_ND, gate_up_2PF, sheet[:num_choices], sheet[2 * num_choices :])


def place_of_experts(held: Experts) -> Place:
    """As native.cc takes it: stacked ones lie from an address on, with what lies between them as the last stride."""
    return held.place if isinstance(held, HeldExperts) else Place(0, held.data_ptr(), held.stride(1), held.stride(0))


def in_matrices(weight: Tensor) -> Tensor:
    """`weight`, or a copy of it, whose rows are contiguous."""
    return weight if weight.stride(2) == 1 else weight.contiguous()
