"""The metadata of a GGUF file ↔ a published config.json.

GGUF holds what llama.cpp needs to run a model; keys it has no place for come back with the value every published
checkpoint has. Where GGUF can not say what config.json says, writing is an error. Knows no tensor's values.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from gorae.checkpoint.gguf_names import ARCHITECTURES, head_width

ROPE = "gorae.rope_scaling"  # config.json's rule in JSON, beside the numbers in rope_freqs.weight that follow from it

_MODEL_TYPES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}

_COUNTS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}

_MIXTURE_COUNTS = {
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
}

_LATENT = (
    *("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "first_k_dense_replace"),
    *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
)

_SOFTMAX, _SIGMOID = 1, 2

# num_hidden_layers, n_routed_experts: n_group, topk_group of the published models, which files of 2024 do not say
_GROUPS_OF_2024 = {(60, 160): (8, 3), (61, 256): (8, 4)}

_ALWAYS = {"hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02}
_LARGEST = 1 << 40


def to_metadata(published: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a config.json, under the keys that llama.cpp reads. Raises ValueError if GGUF can not say it."""
    model_type = published.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type={model_type!r} can not be written as GGUF; {', '.join(ARCHITECTURES)} can")
    _require_sayable(published)
    architecture = ARCHITECTURES[model_type]
    keys: dict[str, Any] = {name: published[theirs] for name, theirs in _COUNTS.items()}
    keys |= {
        "block_count": published["num_hidden_layers"],
        "vocab_size": published["vocab_size"],
        "attention.layer_norm_rms_epsilon": float(published["rms_norm_eps"]),
    }
    keys |= _latent_keys(published) if architecture == "deepseek2" else _grouped_keys(published)
    values = {f"{architecture}.{name}": value for name, value in (keys | _rope_keys(published)).items()}
    if rope_scaling(published).get("rope_type") == "llama3":
        values[ROPE] = json.dumps(rope_scaling(published))
    for name in ("bos_token_id", "eos_token_id"):
        ids = published.get(name)
        if ids is not None:  # Llama-3 publishes several that end a text; GGUF has a place for one
            values[f"tokenizer.ggml.{name}"] = ids[0] if isinstance(ids, list) else ids
    return values


def from_metadata(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config.json of a file with this metadata and tensors of these shapes.

    Raises ValueError naming the key that is missing or has a value no model can have.
    """
    known = _Metadata(metadata)
    if known.architecture not in ARCHITECTURES.values():
        raise ValueError(
            f"general.architecture={known.architecture!r}; Gorae reads {', '.join(sorted(set(ARCHITECTURES.values())))}"
        )
    published: dict[str, Any] = {theirs: known.count(name) for name, theirs in _COUNTS.items()}
    published |= {
        "num_hidden_layers": _num_layers(known, shapes),
        "vocab_size": _vocab_size(shapes),
        "rms_norm_eps": known.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": known.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(known),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": known.token("bos_token_id"),
        "eos_token_id": known.token("eos_token_id"),
    }
    if known.architecture == "deepseek2":
        published |= _latent_published(known, published, shapes)
    else:
        published |= _grouped_published(known, published, shapes)
    return {"architectures": [_MODEL_TYPES[published["model_type"]]], **_ALWAYS, **published}


def rope_scaling(published: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of a config.json's RoPE scaling under `rope_type`, without theta; empty where there is none."""
    rope = {**(published.get("rope_scaling") or {}), **(published.get("rope_parameters") or {})}
    rope.pop("rope_theta", None)
    rope_type = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    return {} if rope_type == "default" else {"rope_type": rope_type, **rope}


def rope_theta(published: Mapping[str, Any]) -> float:
    """The base of the rotary frequencies of a config.json."""
    rope = {**(published.get("rope_scaling") or {}), **(published.get("rope_parameters") or {})}
    return float(rope.get("rope_theta", published.get("rope_theta", 10000.0)))


def llama3_factors(published: Mapping[str, Any], scaling: Mapping[str, Any]) -> list[float]:
    """By how much each rotary frequency is divided under Llama-3's rule: not at all, by `factor`, or in between."""
    width, theta = head_width(published), rope_theta(published)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for pair in range(width // 2):
        turns = scaling["original_max_position_embeddings"] / (2 * math.pi * theta ** (2 * pair / width))
        share = min(max((turns - low) / (high - low), 0.0), 1.0)  # of the frequency that stays as it is
        factors.append(1 / (share + (1 - share) / scaling["factor"]))
    return factors


class _Metadata:
    """Typed access: a key is what a model needs, or an error that names it."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.architecture = metadata.get("general.architecture")

    def get(self, name: str) -> Any:
        return self._metadata.get(f"{self.architecture}.{name}")

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= _LARGEST:
            raise ValueError(f"{self.architecture}.{name}={_short(value)} must be a whole number of {least} or more")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{self.architecture}.{name}={_short(value)} must be a number of 0 or more")
        return float(value)

    def token(self, name: str) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"tokenizer.ggml.{name}={_short(value)} must be the id of a token")
        return value

    def rule(self) -> dict[str, Any] | None:
        text = self._metadata.get(ROPE)
        if text is None:
            return None
        needed = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
        try:
            rule = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            rule = None
        if not isinstance(rule, dict) or rule.get("rope_type") != "llama3" or set(rule) != {*needed, "rope_type"}:
            raise ValueError(f"{ROPE}={_short(text)} is no rule of Llama-3's RoPE scaling")
        if not all(type(rule[key]) in (int, float) and 0 < rule[key] < _LARGEST for key in needed):
            raise ValueError(f"{ROPE}={_short(text)}: every value must be a number above 0")
        return rule


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _num_layers(known: _Metadata, shapes: Collection[str]) -> int:
    """llama.cpp counts MTP modules among the blocks; they are not read."""
    layers = known.count("block_count") - known.count("nextn_predict_layers", 0, least=0)
    if not 1 <= layers <= len(shapes):
        raise ValueError(f"{known.architecture}.block_count leaves {layers} layers, the file has {len(shapes)} tensors")
    return layers


def _vocab_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    if len(shapes.get("token_embd.weight", ())) != 2:
        raise ValueError("there is no matrix token_embd.weight; the file holds no whole model")
    return shapes["token_embd.weight"][0]


def _latent_published(
    known: _Metadata, published: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    rotary = known.count("rope.dimension_count")
    # files of 2024 give the widths of a whole head where newer ones give those of the latent
    key_name = "attention.key_length_mla" if known.get("attention.key_length_mla") else "attention.key_length"
    value_name = key_name.replace("key", "value")
    key = known.count(key_name)
    if key <= rotary:
        raise ValueError(f"deepseek2.{key_name}={key} must be above deepseek2.rope.dimension_count={rotary}")
    gating = known.count("expert_gating_func", _SOFTMAX)
    if gating not in (_SOFTMAX, _SIGMOID):
        raise ValueError(f"deepseek2.expert_gating_func={gating}; Gorae reads 1 (softmax) and 2 (sigmoid)")
    mixture = {
        theirs: known.count(name, 0 if name == "leading_dense_block_count" else None, least=0)
        for name, theirs in _MIXTURE_COUNTS.items()
    }
    layers, experts = published["num_hidden_layers"], mixture["n_routed_experts"]
    dense, held = mixture["first_k_dense_replace"], sum(shape[0] for shape in shapes.values() if len(shape) == 3)
    if dense > layers or experts * (layers - dense) > held:
        raise ValueError(
            f"deepseek2.expert_count={experts} in layers {dense} to {layers - 1} is more than the file holds"
        )
    groups, active_groups = _GROUPS_OF_2024.get((layers, experts), (1, 1))
    groups = known.count("expert_group_count", groups)
    is_v3 = gating == _SIGMOID
    return {
        "model_type": "deepseek_v3" if is_v3 else "deepseek_v2",
        "num_key_value_heads": published["num_attention_heads"],
        "attention_bias": False,
        "q_lora_rank": known.count("attention.q_lora_rank") if known.get("attention.q_lora_rank") else None,
        "kv_lora_rank": known.count("attention.kv_lora_rank"),
        "qk_nope_head_dim": key - rotary,
        "qk_rope_head_dim": rotary,
        "v_head_dim": known.count(value_name),
        **mixture,
        "n_group": groups,
        "topk_group": known.count("expert_group_used_count", active_groups),
        "topk_method": "noaux_tc" if is_v3 else "group_limited_greedy" if groups > 1 else "greedy",
        "scoring_func": "sigmoid" if is_v3 else "softmax",
        "norm_topk_prob": bool(known.get("expert_weights_norm")),
        "routed_scaling_factor": known.number("expert_weights_scale", 1.0),
        "moe_layer_freq": 1,
        **({"num_nextn_predict_layers": 0} if is_v3 else {}),
    }


def _grouped_published(
    known: _Metadata, published: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    heads = published["num_attention_heads"]
    found: dict[str, Any] = {
        "model_type": known.architecture,
        "num_key_value_heads": known.count("attention.head_count_kv", heads),
    }
    if known.get("expert_count"):
        raise ValueError(
            f"{known.architecture}.expert_count={known.get('expert_count')}: only dense models can be read"
        )
    width = known.count("attention.key_length", published["hidden_size"] // heads, least=2)
    if known.count("attention.value_length", width) != width or width % 2:
        raise ValueError(f"{known.architecture}.attention.key_length={width} must be even and equal value_length")
    if known.count("rope.dimension_count", width) != width:
        raise ValueError(f"{known.architecture}.rope.dimension_count must be {width}, the width of a head")
    if width * heads != published["hidden_size"]:
        found["head_dim"] = width
    if known.architecture == "llama":
        found |= {"attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": False}
    return found


def _latent_keys(published: Mapping[str, Any]) -> dict[str, Any]:
    latent, rotary = published["kv_lora_rank"], published["qk_rope_head_dim"]
    keys = {name: published[theirs] for name, theirs in _MIXTURE_COUNTS.items() if published.get(theirs) is not None}
    keys |= {
        # llama.cpp attends to the latent itself: one group, as wide as the latent
        "attention.head_count_kv": 1,
        "attention.key_length": latent + rotary,
        "attention.value_length": latent,
        "attention.key_length_mla": published["qk_nope_head_dim"] + rotary,
        "attention.value_length_mla": published["v_head_dim"],
        # 0: queries come from the model width; without the key llama.cpp takes only models of 26 and 27 layers
        "attention.q_lora_rank": published.get("q_lora_rank") or 0,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rotary,
        "expert_shared_count": published.get("n_shared_experts") or 0,
        "expert_gating_func": _SIGMOID if published["model_type"] == "deepseek_v3" else _SOFTMAX,
        "expert_weights_scale": float(published.get("routed_scaling_factor", 1.0)),
        "expert_weights_norm": bool(published.get("norm_topk_prob")),
        "expert_group_count": published.get("n_group") or 1,
        "expert_group_used_count": published.get("topk_group") or 1,
    }
    return keys


def _grouped_keys(published: Mapping[str, Any]) -> dict[str, Any]:
    width = head_width(published)
    return {
        "attention.head_count_kv": published.get("num_key_value_heads") or published["num_attention_heads"],
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
    }


def _rope_keys(published: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope.freq_base": rope_theta(published)}
    scaling = rope_scaling(published)
    if scaling.get("rope_type") in ("linear", "yarn"):
        keys |= {"rope.scaling.type": scaling["rope_type"], "rope.scaling.factor": float(scaling["factor"])}
    if scaling.get("rope_type") == "yarn":
        keys |= {
            "rope.scaling.original_context_length": scaling["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": float(scaling.get("beta_fast", 32)),
            "rope.scaling.yarn_beta_slow": float(scaling.get("beta_slow", 1)),
        }
        if scaling.get("mscale_all_dim"):
            keys["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling["mscale_all_dim"]
    return keys


def _rope_scaling(known: _Metadata) -> dict[str, Any] | None:
    rule, kind = known.rule(), known.get("rope.scaling.type")
    if kind in (None, "none"):
        return rule
    if kind not in ("linear", "yarn"):
        raise ValueError(f"{known.architecture}.rope.scaling.type={_short(kind)}; Gorae reads none, linear and yarn")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": known.number("rope.scaling.factor")}
    if kind == "linear":
        return scaling
    for name in ("yarn_attn_factor", "attn_factor", "yarn_ext_factor"):
        if known.get(f"rope.scaling.{name}") not in (None, 1.0):
            raise ValueError(f"{known.architecture}.rope.scaling.{name} changes YaRN, which config.json can not say")
    scaling |= {
        "original_max_position_embeddings": known.count("rope.scaling.original_context_length"),
        "beta_fast": known.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": known.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    mscale = round(10 * known.number("rope.scaling.yarn_log_multiplier", 0.0), 6)
    return {**scaling, "mscale": mscale, "mscale_all_dim": mscale} if mscale else scaling


def _require_sayable(published: Mapping[str, Any]) -> None:
    is_latent = ARCHITECTURES[published["model_type"]] == "deepseek2"
    needed = [*_COUNTS.values(), "num_hidden_layers", "vocab_size", "rms_norm_eps", *(_LATENT if is_latent else ())]
    missing = [key for key in needed if published.get(key) is None]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}; GGUF can not be written without")
    if is_latent:
        _require_routing(published)
    scaling = rope_scaling(published)
    kind = scaling.get("rope_type", "default")
    allowed = ("default", "linear", "yarn", "llama3") if published["model_type"] == "llama" else ("default", "yarn")
    if kind not in allowed:
        raise ValueError(f"rope type {kind!r} of a {published['model_type']} can not be written as GGUF")
    mscale, for_all = scaling.get("mscale") or 1.0, scaling.get("mscale_all_dim") or 0.0
    if mscale != (for_all or 1.0):
        raise ValueError(f"mscale={mscale} differs from mscale_all_dim={for_all}; GGUF has one value for both")
    if kind == "yarn" and is_latent != bool(for_all):
        rule = "always has" if is_latent else "never has"
        raise ValueError(
            f"mscale_all_dim={for_all or None} of a {published['model_type']} can not be written as GGUF, "
            f"whose YaRN {rule} one there"
        )
    if scaling.get("attention_factor") is not None:
        raise ValueError("attention_factor in rope_scaling can not be written as GGUF")
    for key in ("mlp_bias", "use_sliding_window", "quantization_config"):
        if published.get(key):
            raise ValueError(f"{key}={published[key]!r} can not be written as GGUF")
    if published["model_type"].startswith("deepseek") and published.get("attention_bias"):
        raise ValueError("attention_bias=True of a DeepSeek model can not be written as GGUF")
    if published.get("moe_layer_freq", 1) != 1:
        raise ValueError(f"moe_layer_freq={published['moe_layer_freq']} can not be written as GGUF; only 1 can")


def _require_routing(published: Mapping[str, Any]) -> None:
    """GGUF says softmax or sigmoid, and groups; the rest of the routing must be what the published models do."""
    is_v3 = published["model_type"] == "deepseek_v3"
    in_groups = "group_limited_greedy" if (published.get("n_group") or 1) > 1 else "greedy"
    rules = {"scoring_func": "sigmoid" if is_v3 else "softmax", "topk_method": "noaux_tc" if is_v3 else in_groups}
    for key, value in rules.items():
        if published.get(key, value) != value:
            raise ValueError(
                f"{key}={published[key]!r} of this {published['model_type']} can not be written as GGUF, "
                f"which would be read as {value!r}"
            )
