"""Latent attention's up-projection ↔ the two matrices of its absorbed form (arXiv 2405.04434, section 2.1.2).

Keys are never expanded then: a query goes into the space of the latent, and what the latents are mixed to goes to the
values. The numbers are the same ones, in another order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gorae.config import ModelConfig
from gorae.kernels import Panels, bands
from gorae.model import Network, absorbed_matrices


class Absorbed(NamedTuple):
    """key_absorb_HCK [H·C, nope]: row h·C + c has what query number k of head h adds to latent number c.

    value_up_HVC [H·V, C]: row h·V + v has what latent number c adds to value number v of head h.
    """

    key_absorb_HCK: Tensor
    value_up_HVC: Tensor


def absorbed_shapes(config: ModelConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of the two matrices."""
    assert config.latent_dim is not None, "plain attention has no latent to absorb into"
    heads, latent = config.num_heads, config.latent_dim
    return (heads * latent, config.nope_dim), (heads * config.value_dim, latent)


def absorbed(latent_up_HKVC: Tensor, config: ModelConfig) -> Absorbed:
    """The two matrices of an up-projection [H·(nope + V), C]."""
    return Absorbed(*absorbed_matrices(latent_up_HKVC, config))


def expanded(pair: Absorbed, config: ModelConfig) -> Tensor:
    """The up-projection [H·(nope + V), C] that the two matrices were made from."""
    key_HCK, value_HVC = (held.unflatten(0, (config.num_heads, -1)) for held in pair)
    return torch.cat((key_HCK.transpose(1, 2), value_HVC), dim=1).flatten(0, 1)


def drop_expanded(network: Network) -> None:
    """Take the up-projection from latent attention that has what stands for it."""
    for attention in network.attentions():
        if hasattr(attention, "latent_up_HKVC"):
            del attention.latent_up_HKVC


def unpacked(panels: Panels) -> Tensor:
    """The matrix that panels hold: bfloat16 if they have 16 bits, else float32."""
    weight, begin = torch.empty(panels.shape, dtype=torch.bfloat16 if panels.bits == 16 else torch.float32), 0
    for band in bands(panels):
        weight[begin : begin + len(band)] = band
        begin += len(band)
    return weight
