"""The one network: latent attention, routed experts, multi-token prediction. Knows no rank, no request, no file."""

from gorae.model.cache import Cache, pages_for
from gorae.model.mla import Absorbed, absorbed_matrices
from gorae.model.moe import MixtureOfExperts, Replay
from gorae.model.network import Features, Network, made_fast
from gorae.model.pages import PageBook
from gorae.model.reading import tensors_held, weight_bytes_read
from gorae.model.repeated import RepeatedPasses
from gorae.model.tree import shared_tokens

__all__ = [
    "Absorbed",
    "Cache",
    "Features",
    "MixtureOfExperts",
    "Network",
    "PageBook",
    "RepeatedPasses",
    "Replay",
    "absorbed_matrices",
    "made_fast",
    "pages_for",
    "shared_tokens",
    "tensors_held",
    "weight_bytes_read",
]
