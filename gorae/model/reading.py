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
        for attribute, size in _held(module):
            if attribute == "embedding_WD":
                total += size * (num_tokens / config.vocab_size + config.tie_embeddings)
            elif isinstance(module, MixtureOfExperts) and attribute in ("gate_EFD", "up_EFD", "down_EDF"):
                total += size * share
            else:
                total += size
    return total


def _held(module: nn.Module) -> Iterator[tuple[str, int]]:
    """What a module itself holds, by attribute, in bytes: parameters, buffers, and what stands in their place."""
    for held in (module._parameters, module._buffers, vars(module)):
        for attribute, value in held.items():
            if not attribute.startswith("_"):
                yield attribute, _num_bytes(value)


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_num_bytes, value)) if isinstance(value, tuple | list) else 0
