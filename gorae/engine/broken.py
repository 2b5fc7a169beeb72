"""Weights that are no numbers are noticed at the log-probabilities, and told by the layer they stand in."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gorae.engine.request import Request
from gorae.model import Network


def require_numbers(log_probs_NW: Tensor, network: Network, requests: Mapping[int, Request]) -> None:
    """Raise ValueError, naming the place in the network, if a row of log-probabilities that a request draws from holds
    NaN.
    """
    is_broken_N = log_probs_NW.isnan().any(-1).tolist()
    request = next((request for row, request in requests.items() if is_broken_N[row]), None)
    if request is None:
        return
    place = broken_place(network, [*request.prompt_ids, *request.token_ids])
    raise ValueError(
        f"a request's log-probabilities are not numbers, and {place} is where that begins: weights there are NaN or "
        "far too large; load a checkpoint that is whole, or an earlier one of this run"
    )


@torch.inference_mode()
def broken_place(network: Network, token_ids: list[int]) -> str:
    """The first part of the network whose output is not finite, in words."""
    ids_BT = torch.tensor([token_ids], device=network.device)
    if not network.embed(ids_BT).isfinite().all():
        return "the embedding"
    is_fine: list[bool] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: is_fine.append(bool(output[0].isfinite().all())))
        for block in network.blocks
    ]
    try:
        network(ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    if all(is_fine):
        return "the last norm or the head"
    return f"layer {is_fine.index(False)} of {len(is_fine)} (the first is 0)"
