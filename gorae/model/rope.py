"""Rotary frequencies and the scales that go with them, as a config has them: plain, YaRN (arXiv 2309.00071), Llama 3.

Nouns: frequency (radians a position, one a pair), angle scale (what cosine and sine are multiplied by), softmax scale.
"""

import math

import torch
from torch import Tensor

from gorae.config import ModelConfig, RopeScaling


def rotary_frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Radians a position of each of the R/2 pairs, float32."""
    exponents = torch.arange(0, config.rope_dim, 2, dtype=torch.float32, device=device) / config.rope_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    kept = kept_by_pair(config, scaling, device) if scaling.kind == "yarn" else kept_by_turns(frequencies, scaling)
    return frequencies / scaling.factor * (1 - kept) + frequencies * kept


def kept_by_pair(config: ModelConfig, scaling: RopeScaling, device: torch.device) -> Tensor:
    """YaRN: 1 for the pairs that turn fast, 0 for the slow, linear in the pair's number between."""

    def pair_that_turns(turns: float) -> float:
        longest = scaling.original_positions / (turns * 2 * math.pi)
        return config.rope_dim * math.log(longest) / (2 * math.log(config.rope_theta))

    first = max(math.floor(pair_that_turns(scaling.fast_turns)), 0)
    last = min(math.ceil(pair_that_turns(scaling.slow_turns)), config.rope_dim - 1)
    pairs = torch.arange(config.rope_dim // 2, dtype=torch.float32, device=device)
    return 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)


def kept_by_turns(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: the same, linear in the turns a pair makes within the positions of pretraining."""
    turns = frequencies * (scaling.original_positions / (2 * math.pi))
    return ((turns - scaling.slow_turns) / (scaling.fast_turns - scaling.slow_turns)).clamp(0, 1)


def angle_scale(config: ModelConfig) -> float:
    """What YaRN multiplies cosine and sine by."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return growth(scaling, scaling.mscale) / growth(scaling, scaling.mscale_all_dim)
    return growth(scaling, 1.0)


def softmax_scale(config: ModelConfig) -> float:
    """What a query's product with a key is multiplied by; latent attention corrects it for YaRN by mscale_all_dim."""
    scaling = config.rope_scaling
    if config.latent_dim is None or scaling is None or not scaling.mscale_all_dim:
        return config.key_dim**-0.5
    return config.key_dim**-0.5 * growth(scaling, scaling.mscale_all_dim) ** 2


def growth(scaling: RopeScaling, mscale: float) -> float:
    """1 + mscale · ln(factor) / 10 (arXiv 2309.00071, equation 22), 1 where nothing is stretched."""
    return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
