"""`route` by the compiled kernel (cpu.cc); the gradient of scores and weights by PyTorch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import in_rows, row_stride, wants_gradient


class Rule(NamedTuple):
    """How experts are chosen and weighed; `scale` is 1 where weights are not scaled."""

    num_active: int
    is_softmax: bool
    num_groups: int
    num_active_groups: int
    normalize: bool
    scale: float


def route_cpu(native: Any, logits_NE: Tensor, bias_E: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, experts, weights."""
    if wants_gradient(logits_NE):
        return NativeRouting.apply(native, logits_NE, bias_E, rule)  # pyright: ignore[reportReturnType]
    return routed(native, logits_NE, bias_E, rule)


class NativeRouting(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, logits_NE: Tensor, bias_E: Tensor | None, rule: Rule):
        scores_NE, experts_NA, weights_NA = routed(native, logits_NE, bias_E, rule)
        ctx.save_for_backward(scores_NE, experts_NA, weights_NA)
        ctx.rule = rule
        ctx.mark_non_differentiable(experts_NA)
        return scores_NE, experts_NA, weights_NA

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NE: Tensor, _, grad_NA: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        scores_NE, experts_NA, weights_NA = ctx.saved_tensors
        rule: Rule = ctx.rule
        grad_chosen_NA = grad_NA * rule.scale
        if rule.normalize:  # weights = scale · chosen / Σ chosen
            total_N1 = scores_NE.gather(-1, experts_NA).sum(-1, keepdim=True) + 1e-20
            grad_chosen_NA = (grad_chosen_NA - (grad_NA * weights_NA).sum(-1, keepdim=True)) / total_N1
        grad_scores_NE = grad_NE.scatter_add(-1, experts_NA, grad_chosen_NA)
        if rule.is_softmax:
            weighted_NE = grad_scores_NE * scores_NE
            return None, weighted_NE - scores_NE * weighted_NE.sum(-1, keepdim=True), None, None
        return None, grad_scores_NE * scores_NE * (1 - scores_NE), None, None


def routed(native: Any, logits_NE: Tensor, bias_E: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    logits_NE = in_rows(logits_NE)
    bias_E = None if bias_E is None else bias_E.contiguous()
    num_tokens, num_experts = logits_NE.shape
    assert rule.num_active <= num_experts, f"{rule.num_active} of {num_experts} experts cannot be chosen"
    assert num_experts % rule.num_groups == 0, f"{num_experts} experts make no {rule.num_groups} groups"
    scores_NE = torch.empty(num_tokens, num_experts)
    weights_NA = torch.empty(num_tokens, rule.num_active)
    experts_NA = torch.empty(num_tokens, rule.num_active, dtype=torch.long)
    native.route(
        logits_NE.data_ptr(),
        num_tokens,
        num_experts,
        row_stride(logits_NE),
        0 if bias_E is None else bias_E.data_ptr(),
        rule,
        scores_NE.data_ptr(),
        experts_NA.data_ptr(),
        weights_NA.data_ptr(),
        torch.get_num_threads(),
    )
    return scores_NE, experts_NA, weights_NA
