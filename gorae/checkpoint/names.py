"""Published tensor names ↔ ours: with `config/load.py`, the one place where foreign names live.

Nouns: a `Place` is a parameter or buffer of our network, or one expert's slice of it; a kind is what a tensor is for,
told from its published name alone. Layouts agree but for the experts, which we stack. Knows no tensor and no file.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from gorae.config import ModelConfig

EMBEDDING, HEAD = "embedding_WD", "head_WD"

_HEAD_NAME = "lm_head.weight"

_NETWORK = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.norm.weight": "norm_D",
}

_BLOCK = {
    "input_layernorm.weight": "attention_norm_D",
    "self_attn.o_proj.weight": "attention.output_DHV",
    "post_attention_layernorm.weight": "feed_forward_norm_D",
}

_QUERY = {
    "self_attn.q_proj.weight": "attention.query_HKD",
}

_LATENT_QUERY = {
    "self_attn.q_a_proj.weight": "attention.query_down_QD",
    "self_attn.q_a_layernorm.weight": "attention.query_norm_Q",
    "self_attn.q_b_proj.weight": "attention.query_up_HKQ",
}

_LATENT = {
    "self_attn.kv_a_proj_with_mqa.weight": "attention.latent_down_CRD",
    "self_attn.kv_a_layernorm.weight": "attention.latent_norm_C",
}

_EXPANDED = {
    "self_attn.kv_b_proj.weight": "attention.latent_up_HKVC",
}

# what a quantised checkpoint has in its place, under names of our own
_ABSORBED = {
    "self_attn.key_absorb_proj.weight": "attention.key_absorb_HCK",
    "self_attn.value_up_proj.weight": "attention.value_up_HVC",
}

_GROUPED = {
    "self_attn.k_proj.weight": "attention.key_JKD",
    "self_attn.v_proj.weight": "attention.value_JVD",
}

_ATTENTION_BIAS = {
    "self_attn.q_proj.bias": "attention.query_bias_HK",
    "self_attn.k_proj.bias": "attention.key_bias_JK",
    "self_attn.v_proj.bias": "attention.value_bias_JV",
}

_OUTPUT_BIAS = {
    "self_attn.o_proj.bias": "attention.output_bias_D",
}

_DENSE = {
    "mlp.gate_proj.weight": "feed_forward.gate_FD",
    "mlp.up_proj.weight": "feed_forward.up_FD",
    "mlp.down_proj.weight": "feed_forward.down_DF",
}

_DENSE_BIAS = {
    "mlp.gate_proj.bias": "feed_forward.gate_bias_F",
    "mlp.up_proj.bias": "feed_forward.up_bias_F",
    "mlp.down_proj.bias": "feed_forward.down_bias_D",
}

_ROUTER_BIAS = {
    "mlp.gate.e_score_correction_bias": "feed_forward.bias_E",
}

_MIXTURE = {
    "mlp.gate.weight": "feed_forward.router_ED",
    "mlp.shared_experts.gate_proj.weight": "feed_forward.shared.gate_FD",
    "mlp.shared_experts.up_proj.weight": "feed_forward.shared.up_FD",
    "mlp.shared_experts.down_proj.weight": "feed_forward.shared.down_DF",
}

_EXPERT = {
    "gate_proj.weight": "feed_forward.gate_EFD",
    "up_proj.weight": "feed_forward.up_EFD",
    "down_proj.weight": "feed_forward.down_EDF",
}

_MTP = {
    "enorm.weight": "embedding_norm_D",
    "hnorm.weight": "hidden_norm_D",
    "eh_proj.weight": "join_DDD",  # [embedding ; hidden] on both sides
    "shared_head.norm.weight": "head_norm_D",
}

_MTP_COPIES = {
    "embed_tokens.weight": EMBEDDING,
    "shared_head.head.weight": HEAD,
}

# the first pattern found in a name tells its kind
_KINDS = {
    r"\.self_attn\.(?:key_absorb|value_up)_proj": "absorbed",
    r"\.self_attn\.\w+_proj": "attention",
    r"\.mlp\.experts\.": "experts",
    r"\.mlp\.shared_experts\.": "shared experts",
    r"\.mlp\.gate\.": "router",
    r"\.mlp\.": "dense",
    r"\.eh_proj\.": "mtp",
    r"(?:norm|\.[eh]norm)\.weight$": "norms",
    r"(?:^|\.)embed_tokens\.": "embedding",
    r"(?:^|\.)(?:lm_head|shared_head\.head)\.": "head",
}

_PROJECTION = re.compile(r"\.(self_attn|mlp)\.(?:.+\.)?\w+_proj(?:_with_mqa)?\.weight$")


class Place(NamedTuple):
    """Where a published tensor lives in our network's state: under `name`, whole or as the slice of one expert."""

    name: str
    expert: int | None = None


def places(config: ModelConfig, *, absorbed: bool = False) -> dict[str, Place]:
    """The published name of every tensor of a network, and where it lives in ours.

    `absorbed`: latent attention has the two matrices of its absorbed form in place of kv_b_proj.
    """
    found = {published: Place(ours) for published, ours in _NETWORK.items()}
    if not config.tie_embeddings:
        found[_HEAD_NAME] = Place(HEAD)
    for layer in range(config.num_layers):
        found |= _block(
            config, f"model.layers.{layer}.", f"blocks.{layer}.", dense=config.is_dense(layer), absorbed=absorbed
        )
    for layer, module in _mtp_layers(config):
        prefix, ours = f"model.layers.{layer}.", f"mtp.{module}."
        found |= {prefix + published: Place(ours + name) for published, name in _MTP.items()}
        found |= _block(config, prefix, f"{ours}block.", dense=False, absorbed=absorbed)
    return found


def copies(config: ModelConfig) -> dict[str, Place]:
    """Published names that may repeat an embedding or head: those of MTP modules, and that of a head that is tied."""
    head = EMBEDDING if config.tie_embeddings else HEAD
    found = {
        f"model.layers.{layer}.{published}": Place(head if ours == HEAD else ours)
        for layer, _ in _mtp_layers(config)
        for published, ours in _MTP_COPIES.items()
    }
    return found | ({_HEAD_NAME: Place(EMBEDDING)} if config.tie_embeddings else {})


def is_mtp(published: str, config: ModelConfig) -> bool:
    """Whether a published name belongs to an MTP module of `config`."""
    return any(published.startswith(f"model.layers.{layer}.") for layer, _ in _mtp_layers(config))


def kind_of(published: str) -> str:
    """What a tensor is for: attention, absorbed, dense, experts, shared experts, router, norms, embedding, head, mtp or
    other."""
    return next((kind for pattern, kind in _KINDS.items() if re.search(pattern, published)), "other")


def absorbed_names(published: str) -> tuple[str, str] | None:
    """The two names that a quantised checkpoint has in place of that of a kv_b_proj; None for another tensor."""
    for expanded in _EXPANDED:
        if published.endswith(expanded):
            key_absorb, value_up = (published.removesuffix(expanded) + name for name in _ABSORBED)
            return key_absorb, value_up
    return None


def expanded_name(published: str) -> str:
    """The name of the kv_b_proj that a tensor of the absorbed form is half of; any other name as it is."""
    for absorbed in _ABSORBED:
        if published.endswith(absorbed):
            (expanded,) = _EXPANDED
            return published.removesuffix(absorbed) + expanded
    return published


def is_projection(published: str) -> bool:
    """Whether this is a weight of attention or of a feed-forward: what published FP8 checkpoints hold in FP8."""
    return _PROJECTION.search(published) is not None


def is_kept_exact(published: str) -> bool:
    """Whether a tensor keeps its type: router biases decide between experts whose scores lie close."""
    return published.endswith(tuple(_ROUTER_BIAS))


def _mtp_layers(config: ModelConfig) -> Iterator[tuple[int, int]]:
    """Published MTP modules are numbered as layers after the last one."""
    return ((config.num_layers + module, module) for module in range(config.num_mtp_modules))


def _block(config: ModelConfig, prefix: str, ours: str, *, dense: bool, absorbed: bool) -> dict[str, Place]:
    whole = _BLOCK | _attention(config, absorbed=absorbed) | (_dense(config) if dense else _mixture(config))
    found = {prefix + published: Place(ours + name) for published, name in whole.items()}
    for expert in range(0 if dense else config.num_experts):
        for published, name in _EXPERT.items():
            found[f"{prefix}mlp.experts.{expert}.{published}"] = Place(ours + name, expert)
    return found


def _attention(config: ModelConfig, *, absorbed: bool) -> dict[str, str]:
    if config.latent_dim is not None:
        query = _QUERY if config.query_rank is None else _LATENT_QUERY
        return query | _LATENT | (_ABSORBED if absorbed else _EXPANDED)
    biases = (_ATTENTION_BIAS if config.attention_bias else {}) | (_OUTPUT_BIAS if config.output_bias else {})
    return _QUERY | _GROUPED | biases


def _dense(config: ModelConfig) -> dict[str, str]:
    return _DENSE | (_DENSE_BIAS if config.feed_forward_bias else {})


def _mixture(config: ModelConfig) -> dict[str, str]:
    return _MIXTURE | (_ROUTER_BIAS if config.router == "sigmoid" else {})
