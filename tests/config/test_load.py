import json
from dataclasses import replace

import pytest

from gorae.config import PRESETS, ModelConfig, RopeScaling, count_parameters, from_published, to_published

# deepseek-ai/DeepSeek-V3 config.json, key by key; DeepSeek-R1 has the same keys.
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
YARN = DEEPSEEK_V3["rope_scaling"]
PLAIN_V3 = {**DEEPSEEK_V3, "rope_scaling": None, "quantization_config": None}

# deepseek-ai/DeepSeek-V2-Lite config.json, without what only says how it was trained and stored.
V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}
# The shape of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B.
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 131072,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# The shape of deepseek-ai/DeepSeek-R1-Distill-Llama-8B.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}

# No two fields alike and none at a default, so that a swapped or forgotten key shows.
UNUSUAL = ModelConfig(
    vocab_size=331,
    model_dim=48,
    num_layers=5,
    num_heads=3,
    query_rank=20,
    latent_dim=28,
    nope_dim=14,
    rope_dim=10,
    value_dim=18,
    dense_dim=70,
    expert_dim=22,
    num_experts=24,
    num_active_experts=6,
    num_shared_experts=2,
    num_expert_groups=8,
    num_active_groups=4,
    num_dense_layers=0,
    normalize_routing=False,
    routing_scale=1.75,
    num_mtp_modules=9,
    rope_theta=50_000.0,
    norm_eps=1e-5,
    max_positions=640,
    init_std=0.03,
    bos_id=7,
    eos_id=11,
    stop_ids=(13, 12),
    tie_embeddings=True,
    rope_interleaved=False,
)


@pytest.fixture
def deepseek_v3_config():
    return pytest.importorskip("transformers").DeepseekV3Config


@pytest.mark.parametrize(
    ("published", "total"),
    # billions, as the model cards give them: 671 (without its 11.5 of MTP), 15.7, 1.78 and 8.03
    [(DEEPSEEK_V3, 671.0), (V2_LITE, 15.7), (QWEN2, 1.78), (LLAMA, 8.03)],
    ids=["v3", "v2-lite", "qwen2", "llama"],
)
def test_published_configs_have_the_published_number_of_parameters(published, total):
    config = from_published(published)
    assert count_parameters(config).total / 1e9 == pytest.approx(total, rel=0.005)
    assert from_published(to_published(config)) == config


def test_stretched_positions_are_read_with_both_corrections():
    assert from_published(DEEPSEEK_V3).rope_scaling == RopeScaling(
        "yarn", 40.0, 4096, fast_turns=32.0, slow_turns=1.0, mscale=1.0, mscale_all_dim=1.0
    )
    assert from_published(LLAMA).rope_scaling == RopeScaling("llama3", 8.0, 8192, fast_turns=4.0, slow_turns=1.0)


def test_a_network_no_published_config_can_say_is_not_written():
    config = replace(from_published(QWEN2), feed_forward_bias=True)
    with pytest.raises(ValueError, match=r"no published architecture has output_bias=False.*it can not be saved"):
        to_published(config)


def test_every_published_key_of_v3_is_read_into_the_shape_the_preset_has():
    read = from_published(PLAIN_V3)
    preset = PRESETS["deepseek-v3"]
    differences = {name for name in vars(read) if getattr(read, name) != getattr(preset, name)}
    assert differences == {"max_positions", "init_std"}  # the file's 163840 is YaRN's; the paper trained with std 0.006
    assert read.init_std == 0.02


def test_published_and_ours_are_inverse():
    assert from_published(to_published(UNUSUAL)) == UNUSUAL
    assert set(to_published(UNUSUAL)) <= set(DEEPSEEK_V3) | {"rope_interleave"}


def test_transformers_reads_every_field_with_the_same_meaning(deepseek_v3_config):
    theirs = deepseek_v3_config(**to_published(UNUSUAL))
    assert {
        "vocab_size": theirs.vocab_size,
        "model_dim": theirs.hidden_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "query_rank": theirs.q_lora_rank,
        "latent_dim": theirs.kv_lora_rank,
        "nope_dim": theirs.qk_nope_head_dim,
        "rope_dim": theirs.qk_rope_head_dim,
        "value_dim": theirs.v_head_dim,
        "dense_dim": theirs.intermediate_size,
        "expert_dim": theirs.moe_intermediate_size,
        "num_experts": theirs.n_routed_experts,
        "num_active_experts": theirs.num_experts_per_tok,
        "num_shared_experts": theirs.n_shared_experts,
        "num_expert_groups": theirs.n_group,
        "num_active_groups": theirs.topk_group,
        "num_dense_layers": theirs.first_k_dense_replace,
        "normalize_routing": theirs.norm_topk_prob,
        "routing_scale": theirs.routed_scaling_factor,
        "num_mtp_modules": theirs.num_nextn_predict_layers,
        "rope_theta": theirs.rope_parameters["rope_theta"],
        "norm_eps": theirs.rms_norm_eps,
        "max_positions": theirs.max_position_embeddings,
        "init_std": theirs.initializer_range,
        "bos_id": theirs.bos_token_id,
        "eos_id": theirs.eos_token_id[0],
        "stop_ids": tuple(theirs.eos_token_id[1:]),
        "router": "sigmoid",
        "num_key_heads": None,
        "attention_bias": theirs.attention_bias,
        "output_bias": theirs.attention_bias,
        "feed_forward_bias": False,
        "tie_embeddings": theirs.tie_word_embeddings,
        "rope_interleaved": theirs.rope_interleave,
        "rope_scaling": None,
    } == vars(UNUSUAL)
    assert theirs.qk_head_dim == UNUSUAL.key_dim
    assert theirs.head_dim == UNUSUAL.rope_dim
    assert theirs.num_key_value_heads == UNUSUAL.num_heads
    assert theirs.rope_parameters["rope_type"] == "default"
    assert not theirs.attention_bias
    assert theirs.hidden_act == "silu"


def test_a_config_that_transformers_saved_is_read_back(deepseek_v3_config):
    assert from_published(json.loads(deepseek_v3_config(**to_published(UNUSUAL)).to_json_string())) == UNUSUAL


def test_transformers_builds_as_many_parameters_as_we_count(deepseek_v3_config):
    import torch
    from transformers import DeepseekV3ForCausalLM

    with torch.device("meta"):
        network = DeepseekV3ForCausalLM(deepseek_v3_config(**to_published(UNUSUAL)))
    biases = UNUSUAL.num_layers * UNUSUAL.num_experts  # buffers, not parameters, over there
    assert count_parameters(UNUSUAL).total == network.num_parameters() + biases


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope type 'linear'"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "'yarn' in config.json lacks original_max_position"),
        ({"rope_scaling": {**YARN, "beta_fast": 1}}, r"rope_scaling\.beta_fast=1.0 must exceed beta_slow=1.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method='gptq'.*only DeepSeek's FP8"),
        ({"quantization_config": {"weight_block_size": [64, 64]}}, r"weight_block_size=\[64, 64\].*only DeepSeek's"),
        ({"model_type": "mamba"}, "model_type='mamba'.*deepseek_v3, deepseek_v2, qwen2, llama"),
        ({"model_type": "deepseek_v2"}, "unknown key num_nextn_predict_layers"),
        ({"q_lora_rank": 1.5}, "q_lora_rank=1.5 .*one whole number"),
        ({"kv_lora_rank": None}, "qk_nope_head_dim=128 must be 0"),
        ({"eos_token_id": [1, "2"]}, r"eos_token_id=\[1, '2'\].*one whole number or a list"),
        ({"eos_token_id": [1, 129280]}, "eos_token_id=129280 must lie between 0 and"),
        ({"norm_topk_prob": 1}, "norm_topk_prob=1 .*true or false"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'.*must be 'silu'"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax'.*must be 'sigmoid'"),
        ({"attention_bias": True}, "attention_bias=True.*must be False"),
        ({"layer_types": ["sliding_attention"]}, "layer_types.*full_attention"),
        ({"num_key_value_heads": 8}, "num_key_value_heads=8.*must be 128"),
        ({"head_dim": 128}, "head_dim=128.*must be 64"),
        ({"hidden_sizes": 1}, "unknown key hidden_sizes.*did you mean hidden_size"),
        ({"zzz": 1}, "unknown key zzz.*remove it"),
        ({"n_routed_experts": 250}, "n_routed_experts=250 cannot be split into n_group=8"),
        ({"rope_theta": "10000"}, "rope_theta='10000'.*must be a number"),
        (
            {"rope_scaling": {**LLAMA["rope_scaling"], "low_freq_factor": 9}},
            r"scaling\.high_freq_factor=4.0.*low_freq_factor=9.0",
        ),
        ({"hidden_size": 0}, "^hidden_size=0 must be positive"),
        ({"qk_rope_head_dim": 63}, "^qk_rope_head_dim=63 must be even"),
    ],
)
def test_what_gorae_cannot_honour_is_an_error_that_names_key_and_rule(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_published({**PLAIN_V3, **change})


@pytest.mark.parametrize(
    ("given", "read", "written"),
    [
        (128001, (128001, ()), 128001),
        ([128001], (128001, ()), 128001),
        ([128001, 128008, 128009], (128001, (128008, 128009)), [128001, 128008, 128009]),
        ([5, 5, 3], (5, (3,)), [5, 3]),
        (None, (None, ()), None),
        ([], (None, ()), None),
    ],
)
def test_one_end_of_a_text_or_several_or_none_are_read_and_written_back(given, read, written):
    config = from_published({**LLAMA, "eos_token_id": given})
    assert (config.eos_id, config.stop_ids) == read
    assert config.end_ids == {one for one in [read[0], *read[1]] if one is not None}
    assert to_published(config)["eos_token_id"] == written


def test_a_text_may_begin_with_no_token():
    assert from_published({**LLAMA, "bos_token_id": None}).bos_id is None
    assert from_published({key: value for key, value in QWEN2.items() if key != "bos_token_id"}).bos_id is None
    assert to_published(from_published({**QWEN2, "bos_token_id": None}))["bos_token_id"] is None


def test_a_missing_key_is_named():
    published = {key: value for key, value in PLAIN_V3.items() if key not in ("hidden_size", "topk_group")}
    with pytest.raises(ValueError, match="lacks hidden_size, topk_group"):
        from_published(published)
