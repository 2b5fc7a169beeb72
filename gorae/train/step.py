"""One update: gradient, optimizer, router biases."""

from collections.abc import Callable

import torch

from gorae.kernels import expert_load
from gorae.model import MixtureOfExperts, Network
from gorae.train.batch import Batch
from gorae.train.loss import Loss
from gorae.train.optimizer import HybridOptimizer


def update(
    network: Network, optimizer: HybridOptimizer, batch: Batch, loss: Callable[[Network, Batch], Loss], scale: float
) -> Loss:
    """Differentiate `loss` on `batch` and step; the returned loss is of the weights before the step."""
    result = loss(network, batch.to(network.device))
    result.total.backward()
    result.figures["grad_norm"] = optimizer.step(scale)
    return result


@torch.no_grad()
def move_router_biases(network: Network, loss: Loss, rate: float) -> None:
    """Lower the bias of experts busier than the mean and raise the others' by `rate` (arXiv 2408.15664).

    Routers that score by softmax have no bias, and stay as they are; so do those of MTP modules, which come last, where
    the loss has nothing of them.
    """
    routers = [module for module in network.modules() if isinstance(module, MixtureOfExperts)]
    for router, routing in zip(routers, loss.routings, strict=False):
        if router.bias_E is None:
            continue
        load_E = expert_load(routing.experts_NA, router.config.num_experts)
        router.bias_E.add_(torch.sign(load_E.mean() - load_E), alpha=rate)
