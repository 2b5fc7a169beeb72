"""Latent attention's up-projection ↔ the two matrices of its absorbed form (arXiv 2405.04434, section 2.1.2).

Keys are never expanded then: a query goes into the space of the latent, and what the latents are mixed to goes to the
values. The numbers are the same ones, in another order.
"""

import torch
from torch import Tensor

from gorae.config import ModelConfig
from gorae.model import Absorbed, Network


def absorbed_shapes(config: ModelConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of the two matrices."""
    assert config.latent_dim is not None, "plain attention has no latent to absorb into"
    heads, latent = config.num_heads, config.latent_dim
    return (heads * latent, config.nope_dim), (heads * config.value_dim, latent)


def expanded(pair: Absorbed, config: ModelConfig) -> Tensor:
    """The up-projection [H·(nope + V), C] that the two matrices were made from."""
    key_HCK, value_HVC = (held.unflatten(0, (config.num_heads, -1)) for held in pair)
    return torch.cat((key_HCK.transpose(1, 2), value_HVC), dim=1).flatten(0, 1)


def drop_expanded(network: Network) -> None:
    """Take the up-projection from latent attention that has what stands for it."""
    for attention in network.attentions():
        if hasattr(attention, "latent_up_HKVC"):
            del attention.latent_up_HKVC
