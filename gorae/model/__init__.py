"""The one network: latent attention, routed experts, multi-token prediction. Knows no rank, no request, no file."""

from gorae.model.cache import Cache, Page
from gorae.model.moe import MixtureOfExperts
from gorae.model.network import Features, Network, made_fast

__all__ = ["Cache", "Features", "MixtureOfExperts", "Network", "Page", "made_fast"]
