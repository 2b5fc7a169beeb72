"""How many bytes of weights a step reads, in whatever form the network holds them."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from gorae.config import experts_chosen
from gorae.model.moe import MixtureOfExperts
from gorae.model.network import Network


def weight_bytes_read(network: Network, num_tokens: float = 1) -> float:
    """Bytes of weights that one step over `num_tokens` tokens reads, without the MTP modules.

    As `gorae.config.weights_read` counts them: every matrix once, of the embedding a row a token, of the routed experts
    those that a token chose, on average and if all are as likely.
    """
    config = network.config
    share = experts_chosen(config, num_tokens) / config.num_experts if config.num_experts else 0.0
    total = 0.0
    for name, module in network.named_modules():
        if name.startswith("mtp."):
            continue
        for attribute, tensor in tensors_held(module):
            if attribute == "embedding_WD":
                total += tensor.nbytes * (num_tokens / config.vocab_size + config.tie_embeddings)
            elif isinstance(module, MixtureOfExperts) and attribute in ("gate_EFD", "up_EFD", "down_EDF"):
                total += tensor.nbytes * share
            else:
                total += tensor.nbytes
    return total


def tensors_held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module itself holds, by attribute: parameters, buffers, and the tensors of what stands in their place."""
    for held in (module._parameters, module._buffers, vars(module)):
        for attribute, value in held.items():
            if not attribute.startswith("_"):
                yield from ((attribute, tensor) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
