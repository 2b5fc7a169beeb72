"""Shapes of published models, as their config.json has them, for benchmarks on random weights."""

from typing import Any

_LATENT: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.02,
}

SHAPES: dict[str, dict[str, Any]] = {
    # seconds, to see that everything runs; with a query latent, without which llama.cpp takes 26 or 27 layers only
    "tiny": _LATENT
    | {
        "vocab_size": 512,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 32,
        "intermediate_size": 256,
        "moe_intermediate_size": 64,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    },
    # 1.5B parameters, 0.4B a token: small enough for everyone, shaped as DeepSeek-V2-Lite
    "v2-small": _LATENT
    | {
        "vocab_size": 32_000,
        "hidden_size": 1024,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "q_lora_rank": None,
        "intermediate_size": 2816,
        "moe_intermediate_size": 512,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "n_shared_experts": 2,
    },
    # DeepSeek-V2-Lite, 15.7B parameters, 2.4B a token, without its YaRN
    "v2-lite": _LATENT
    | {
        "vocab_size": 102_400,
        "hidden_size": 2048,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "intermediate_size": 10_944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
    },
    "r1-distill-qwen-1.5b": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
        "bos_token_id": 151_646,
        "eos_token_id": 151_643,
        "initializer_range": 0.02,
    },
}
