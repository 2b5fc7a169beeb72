"""Published `config.json` ↔ `ModelConfig`: the one place, with `checkpoint/names.py`, where foreign names live.

An `_Architecture` is what one `model_type` publishes. Every published key is in one of its tables: honoured, required
to have the one value Gorae computes, or without effect on inference. Any other key is an error, since nobody could say
what ignoring it changes.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from gorae.config.model import ModelConfig, RopeScaling

_EVERYWHERE = {
    "vocab_size": "vocab_size",
    "hidden_size": "model_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "dense_dim",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_positions",
    "initializer_range": "init_std",
    "bos_token_id": "bos_id",
    "tie_word_embeddings": "tie_embeddings",
}

_LATENT_EXPERTS = _EVERYWHERE | {
    "q_lora_rank": "query_rank",
    "kv_lora_rank": "latent_dim",
    "qk_nope_head_dim": "nope_dim",
    "qk_rope_head_dim": "rope_dim",
    "v_head_dim": "value_dim",
    "moe_intermediate_size": "expert_dim",
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_active_experts",
    "n_shared_experts": "num_shared_experts",
    "n_group": "num_expert_groups",
    "topk_group": "num_active_groups",
    "first_k_dense_replace": "num_dense_layers",
    "norm_topk_prob": "normalize_routing",
    "routed_scaling_factor": "routing_scale",
}

_PLAIN = {"hidden_act": "silu", "attention_bias": False, "moe_layer_freq": 1}

# What the keys that some configs leave out then mean.
_DEFAULTS = {
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "num_nextn_predict_layers": 0,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_interleave": True,
}

_END = "eos_token_id"  # one id, a list of them, or null
_ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")

_WITHOUT_EFFECT = (
    # training, and the machines it was spread over
    *("attention_dropout", "aux_loss_alpha", "seq_aux", "ep_size", "pretraining_tp"),
    # the file, and the type its weights are stored in, which each tensor states itself
    *("_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    # batching, and what transformers returns beside the logits
    *("pad_token_id", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict"),
    *("chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type"),
    # read only where a sliding window is used, and none is
    *("sliding_window", "max_window_layers", "use_mrope"),
)

_OURS = "gorae"  # panels, of which the room that reads them judges what is said
_FP8 = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3",),
    "activation_scheme": ("dynamic",),
    "weight_block_size": ([128, 128],),
    "scale_fmt": ("ue8m0", "float", None),
}

_YARN = {
    "beta_fast": "fast_turns",
    "beta_slow": "slow_turns",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "attention_factor": "attention_factor",
}
_LLAMA3 = {"high_freq_factor": "fast_turns", "low_freq_factor": "slow_turns"}
_SCALED = {"factor": "factor", "original_max_position_embeddings": "original_positions"}


@dataclass(frozen=True)
class _Architecture:
    """`honoured`: published key → ours. `fixed`: published key → its one value. `ours`: what no key says."""

    name: str
    honoured: Mapping[str, str]
    fixed: Mapping[str, Any]
    ours: Mapping[str, Any]
    has_plain_heads: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_ARCHITECTURES = {
    "deepseek_v3": _Architecture(
        "DeepseekV3ForCausalLM",
        _LATENT_EXPERTS | {"num_nextn_predict_layers": "num_mtp_modules", "rope_interleave": "rope_interleaved"},
        _PLAIN | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        {"router": "sigmoid"},
    ),
    "deepseek_v2": _Architecture(
        "DeepseekV2ForCausalLM",
        _LATENT_EXPERTS,
        _PLAIN | {"scoring_func": "softmax", "mlp_bias": False},
        {"router": "softmax"},
        defaults={"norm_topk_prob": False},
    ),
    "qwen2": _Architecture(
        "Qwen2ForCausalLM",
        _EVERYWHERE | {"num_key_value_heads": "num_key_heads"},
        {"hidden_act": "silu", "use_sliding_window": False},
        {"attention_bias": True},
        has_plain_heads=True,
        defaults={"bos_token_id": None},
    ),
    "llama": _Architecture(
        "LlamaForCausalLM",
        _EVERYWHERE
        | {"num_key_value_heads": "num_key_heads", "attention_bias": "attention_bias", "mlp_bias": "feed_forward_bias"},
        {"hidden_act": "silu"},
        {},
        has_plain_heads=True,
    ),
}


def from_published(published: Mapping[str, Any]) -> ModelConfig:
    """Translate the JSON of a config.json of type deepseek_v3, deepseek_v2, qwen2 or llama.

    Raises ValueError naming the key and the rule for a missing or unknown key and for a value Gorae cannot honour.
    A `quantization_config` of DeepSeek's FP8 format is accepted: which tensors are FP8 the files say themselves. So is
    one of Gorae's panels, unread.
    """
    architecture = _architecture(published)
    _require_known(published, architecture)
    _require_supported(published, architecture)
    values = {**_DEFAULTS, **architecture.defaults, **published, **_groups(published)}
    missing = [key for key in (*architecture.honoured, _END) if key not in values]
    if missing:
        kind = published["model_type"]
        raise ValueError(f"config.json lacks {', '.join(missing)}; a {kind} network is not defined without")
    named = {ours: _typed(key, values[key], ours) for key, ours in architecture.honoured.items()}
    named |= {**architecture.ours, **_ends(values[_END])}
    named |= _rope(published)
    with _in_published_words(_words(architecture)):
        is_dense = architecture.has_plain_heads
        config = ModelConfig.dense(**named, **_plain_heads(published)) if is_dense else ModelConfig(**named)
    _require_derived(published, config)
    return config


def to_published(config: ModelConfig) -> dict[str, Any]:
    """The config.json of `config`, with the keys its architecture publishes and `transformers` reads."""
    model_type = _model_type(config)
    architecture = _ARCHITECTURES[model_type]
    published = {key: getattr(config, ours) for key, ours in architecture.honoured.items()}
    published |= {
        "model_type": model_type,
        "architectures": [architecture.name],
        **architecture.fixed,
        _END: [config.eos_id, *config.stop_ids] if config.stop_ids else config.eos_id,
        "num_key_value_heads": config.key_heads,
        "rope_theta": config.rope_theta,
        "rope_scaling": _published_scaling(config.rope_scaling),
    }
    if model_type == "deepseek_v2":
        published["topk_method"] = "greedy" if config.num_expert_groups == 1 else "group_limited_greedy"
    if architecture.has_plain_heads:
        published["head_dim"] = config.key_dim
    read_back = from_published(published)
    lost = [one.name for one in fields(config) if getattr(config, one.name) != getattr(read_back, one.name)]
    if lost:
        told = ", ".join(f"{name}={getattr(config, name)!r}" for name in lost)
        raise ValueError(f"no published architecture has {told} with the rest of this network; it can not be saved")
    return published


def _words(architecture: _Architecture) -> dict[str, str]:
    """Our fields and the keys of config.json that they come from."""
    key_of = {ours: key for key, ours in architecture.honoured.items()}
    key_of |= {"eos_id": _END, "stop_ids": _END, "num_key_heads": "num_key_value_heads"}
    return key_of | (dict.fromkeys(("rope_dim", "value_dim"), "head_dim") if architecture.has_plain_heads else {})


@contextmanager
def _in_published_words(key_of: Mapping[str, str]) -> Iterator[None]:
    """A ValueError about our fields comes out as one about the keys that a reader finds in config.json."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"\w+", lambda word: key_of.get(word[0], word[0]), str(error))) from error


def _architecture(published: Mapping[str, Any]) -> _Architecture:
    model_type = published.get("model_type")
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        raise ValueError(f"model_type={model_type!r} in config.json; Gorae reads {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[model_type]


def _model_type(config: ModelConfig) -> str:
    """The architecture whose published keys say all of `config`."""
    if config.latent_dim is not None:
        return "deepseek_v3" if config.router == "sigmoid" else "deepseek_v2"
    is_qwen = config.attention_bias and not config.output_bias and not config.feed_forward_bias
    return "qwen2" if is_qwen else "llama"


def _require_known(published: Mapping[str, Any], architecture: _Architecture) -> None:
    derived = ("num_key_value_heads", "qk_head_dim", "head_dim", "layer_types", "topk_method", "n_group", "topk_group")
    known = [*architecture.honoured, *architecture.fixed, "model_type", "architectures", "quantization_config", _END]
    known += [*_ROPE_KEYS, *derived, *_WITHOUT_EFFECT]
    for key in published:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "remove it if it does not change the network"
            raise ValueError(f"unknown key {key} in config.json of a {published['model_type']}; {hint}")


def _require_supported(published: Mapping[str, Any], architecture: _Architecture) -> None:
    for key, value in {**architecture.fixed, "architectures": [architecture.name]}.items():
        if published.get(key, value) != value:
            raise ValueError(f"{key}={published[key]!r} in config.json is not supported; it must be {value!r}")
    quantised = _table(published, "quantization_config")
    for key, value in {} if quantised.get("quant_method") == _OURS else quantised.items():
        if value not in _FP8.get(key, ()):
            raise ValueError(
                f"quantization_config has {key}={value!r}; of quantised weights only DeepSeek's FP8 (e4m3, "
                "blocks of 128 x 128) and what gorae convert makes can be read; use a checkpoint in FP8, bfloat16 or "
                "float32"
            )
    kinds = published.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise ValueError("layer_types in config.json has other than full_attention, which is all that is supported")


def _plain_heads(published: Mapping[str, Any]) -> dict[str, Any]:
    """What else a model with plain heads says of them."""
    given = _typed("head_dim", published.get("head_dim"), "query_rank")  # a whole number or null, as that is
    width = published["hidden_size"] // max(1, published["num_attention_heads"]) if given is None else given
    return {
        "head_dim": width,
        "output_bias": published["model_type"] == "llama" and published.get("attention_bias", False),
    }


def _groups(published: Mapping[str, Any]) -> dict[str, int]:
    """V2 names its way to choose: "greedy" knows no groups, whatever the other keys say."""
    if published["model_type"] != "deepseek_v2":
        return {}
    method = published.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise ValueError(f"topk_method={method!r} in config.json must be 'greedy' or 'group_limited_greedy'")
    return {"n_group": 1, "topk_group": 1} if method == "greedy" else {}


def _ends(given: Any) -> dict[str, Any]:
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if any(type(one) is not int for one in ids):
        raise ValueError(f"{_END}={given!r} in config.json is not supported; it must be one whole number or a list")
    first, *others = list(dict.fromkeys(ids)) or [None]
    return {"eos_id": first, "stop_ids": tuple(others)}


def _rope(published: Mapping[str, Any]) -> dict[str, Any]:
    rope = _table(published, "rope_scaling") | _table(published, "rope_parameters")
    kind = rope.pop("rope_type", rope.get("type", "default"))
    rope.pop("type", None)
    theta = _typed("rope_theta", rope.pop("rope_theta", published.get("rope_theta", 10_000.0)), "rope_theta")
    if kind == "default" and not rope:
        return {"rope_theta": theta, "rope_scaling": None}
    keys = {"yarn": _SCALED | _YARN, "llama3": _SCALED | _LLAMA3}.get(kind) if isinstance(kind, str) else None
    unknown = sorted(rope.keys() - (keys or {}).keys())
    if keys is None or unknown:
        raise ValueError(
            f"rope type {kind!r} with {rope} in config.json is not supported; it may be 'default', 'yarn' with "
            f"{', '.join(_SCALED | _YARN)}, or 'llama3' with {', '.join(_SCALED | _LLAMA3)}"
        )
    values = {
        ours: _typed(key, rope[key], ours, RopeScaling) for key, ours in keys.items() if rope.get(key) is not None
    }
    missing = [key for key in (*_SCALED, *(_LLAMA3 if kind == "llama3" else ())) if rope.get(key) is None]
    if missing:
        raise ValueError(f"rope_scaling of type {kind!r} in config.json lacks {', '.join(missing)}")
    with _in_published_words({ours: key for key, ours in (keys or {}).items()}):
        return {"rope_theta": theta, "rope_scaling": RopeScaling(kind, **values)}


def _published_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    keys = _SCALED | (_YARN if scaling.kind == "yarn" else _LLAMA3)
    found = {key: getattr(scaling, ours) for key, ours in keys.items()}
    return {"rope_type": scaling.kind, "type": scaling.kind} | {k: v for k, v in found.items() if v is not None}


def _require_derived(published: Mapping[str, Any], config: ModelConfig) -> None:
    derived = {
        "num_key_value_heads": config.key_heads,
        "qk_head_dim": config.key_dim,
        "head_dim": config.rope_dim,  # as transformers writes it
    }
    for key, value in derived.items():
        if published.get(key) not in (None, value):
            raise ValueError(f"{key}={published[key]!r} in config.json must be {value}, which follows from other keys")


def _table(published: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = published.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key}={value!r} in config.json is not supported; it must be an object or null")
    return dict(value or {})


def _typed(key: str, value: Any, ours: str, owner: type = ModelConfig) -> Any:
    (kind,) = (one.type for one in fields(owner) if one.name == ours)  # pyright: ignore[reportArgumentType]
    options = get_args(kind) or (kind,)
    if float in options and type(value) is int and abs(value) < 2**1023:  # more no float holds
        return float(value)
    if type(value) not in options:
        words = {int: "one whole number", float: "a number", bool: "true or false"}[options[0]]
        raise ValueError(f"{key}={value!r} in config.json is not supported; it must be {words}")
    return value
