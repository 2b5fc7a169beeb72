"""The shape of a model and the settings of a run, as frozen values.

Nouns: `ModelConfig`, `Parameters`, `PRESETS`, and settings, which are any nested frozen dataclasses. Published
`config.json` files are translated here, parameters and FLOPs are counted here; no tensor is ever seen.
"""

from gorae.config.count import (
    CacheType,
    Parameters,
    cache_bytes_per_token,
    cache_type_of,
    count_parameters,
    experts_chosen,
    forward_flops,
    pass_bytes_per_token,
    training_flops,
    weights_read,
)
from gorae.config.load import from_published, to_published
from gorae.config.model import ModelConfig, RopeScaling
from gorae.config.presets import PRESETS
from gorae.config.settings import as_dict, from_dict, listing, override, read, save

__all__ = [
    "PRESETS",
    "CacheType",
    "ModelConfig",
    "Parameters",
    "RopeScaling",
    "as_dict",
    "cache_bytes_per_token",
    "cache_type_of",
    "count_parameters",
    "experts_chosen",
    "forward_flops",
    "from_dict",
    "from_published",
    "listing",
    "override",
    "pass_bytes_per_token",
    "read",
    "save",
    "to_published",
    "training_flops",
    "weights_read",
]
