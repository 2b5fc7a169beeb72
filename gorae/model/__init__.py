"""The one network: latent attention, routed experts, multi-token prediction. Knows no rank, no request, no file."""

from gorae.model.cache import Cache, Page
from gorae.model.moe import MixtureOfExperts
from gorae.model.network import Features, Network
from gorae.model.reading import weight_bytes_read

__all__ = ["Cache", "Features", "MixtureOfExperts", "Network", "Page", "weight_bytes_read"]
