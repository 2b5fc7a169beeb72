"""What a network costs by arithmetic alone: its parameters and the FLOPs of its matrix products.

Nouns: `Parameters`. Counts come from the config and nothing else; a multiply-add is two FLOPs, and norms, softmax and
activations are left out, as the published figures leave them out. It knows no clock and no price.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from gorae.config.model import ModelConfig

CacheType = Literal["float32", "bfloat16", "int8"]  # of what is remembered; int8 in groups of 32 with a scale each


@dataclass(frozen=True)
class Parameters:
    """Weights a network holds, and weights one token passes through (its embedding table counted whole)."""

    total: int
    active: int


def count_parameters(config: ModelConfig, *, with_mtp: bool = False) -> Parameters:
    """Count every weight of the network, router biases included.

    `with_mtp` adds what each multi-token-prediction module owns (embedding and head are shared with the network).
    DeepSeek-V3 gives 671.0B and 37.55B; its paper's 36.6B leaves the embedding lookup out of the active ones.
    """
    norms = 2 * config.model_dim + (config.query_rank or 0) + (config.latent_dim or 0)
    layer = _attention_weights(config) + _attention_biases(config) + norms
    fixed = (1 if config.tie_embeddings else 2) * config.vocab_size * config.model_dim + config.model_dim
    dense = config.num_dense_layers * (layer + _dense_weights(config) + _dense_biases(config))
    num_expert_layers = config.num_layers - config.num_dense_layers
    shell = 2 * config.model_dim**2 + 3 * config.model_dim  # eh_proj; the norms before it and before the head
    num_modules = config.num_mtp_modules if with_mtp else 0

    def network(num_experts: int) -> int:
        router_biases = config.num_experts if config.router == "sigmoid" else 0
        expert_layer = layer + _expert_weights(config, num_experts) + router_biases
        return fixed + dense + num_expert_layers * expert_layer + num_modules * (expert_layer + shell)

    return Parameters(total=network(config.num_experts), active=network(config.num_active_experts))


def forward_flops(config: ModelConfig, num_tokens: float, *, context: float) -> float:
    """FLOPs to read `num_tokens` tokens that attend to `context` keys each on average, without the MTP modules.

    A whole causal sequence of length L has `context` L / 2. Attention is counted in its naive form over expanded keys.
    """
    num_expert_layers = config.num_layers - config.num_dense_layers
    weights = (
        config.num_layers * _attention_weights(config)
        + config.num_dense_layers * _dense_weights(config)
        + num_expert_layers * _expert_weights(config, config.num_active_experts)
        + config.vocab_size * config.model_dim
    )
    return 2.0 * num_tokens * (weights + config.num_layers * _attended_weights(config, context))


def training_flops(config: ModelConfig, num_tokens: float, *, context: float) -> float:
    """FLOPs of one update on `num_tokens` tokens: forward, and twice that backward, MTP modules included.

    DeepSeek-V3 at 4096 causal tokens: 250.4 GFLOP a token, 260.6 with its MTP module.
    """
    module = (
        2 * config.model_dim**2
        + _attention_weights(config)
        + _expert_weights(config, config.num_active_experts)
        + config.vocab_size * config.model_dim
        + _attended_weights(config, context)
    )
    return 3.0 * (
        forward_flops(config, num_tokens, context=context) + 2.0 * num_tokens * config.num_mtp_modules * module
    )


def cache_bytes_per_token(config: ModelConfig, *, is_fast: bool = False, cache_type: CacheType | None = None) -> int:
    """What a token takes in the cache: expanded keys and values in float32; in fast mode latents, narrower."""
    held = cache_type_of(cache_type, is_fast=is_fast)
    if is_fast and config.latent_dim is not None:
        return config.num_layers * _row_bytes(config.latent_dim + config.rope_dim, held)
    heads = config.num_layers * config.key_heads
    return heads * (_row_bytes(config.key_dim, held) + _row_bytes(config.value_dim, held))


def cache_type_of(wanted: CacheType | None, *, is_fast: bool) -> CacheType:
    """What a cache holds: in exact mode float32, in fast mode what is wanted, bfloat16 unless something is.

    Raises ValueError for what is none, and for fewer bits than exact mode computes with.
    """
    if wanted not in (None, *get_args(CacheType)):
        raise ValueError(f"cache_type={wanted} is none of {', '.join(get_args(CacheType))}")
    if not is_fast and wanted not in (None, "float32"):
        raise ValueError(
            f"cache_type={wanted} rounds what exact mode remembers; load the model with mode='fast', or leave it out"
        )
    return wanted or ("bfloat16" if is_fast else "float32")


def pass_bytes_per_token(config: ModelConfig, *, is_fast: bool = False) -> int:
    """What a pass over a cache holds at once of each of its tokens: float32, of the layer that it is in.

    An upper bound where kernels are compiled: of attention from the queries to the values mixed, or of the experts'
    inputs, hidden rows and outputs, whichever is more, beside the stream and what is added to it.
    """
    if is_fast and config.latent_dim is not None:
        absorbed = config.latent_dim + config.rope_dim + config.value_dim
        attention = config.num_heads * (config.key_dim + 2 * absorbed) + 3 * absorbed
    else:
        attention = config.num_heads * (3 * config.key_dim + 2 * config.value_dim)
    dense = 3 * config.dense_dim if config.num_dense_layers else 0
    routed = config.num_active_experts * (3 * config.expert_dim + 2 * config.model_dim)
    return 4 * (4 * config.model_dim + max(attention, dense, routed + 3 * config.shared_dim))


def weights_read(config: ModelConfig, num_tokens: float = 1) -> float:
    """Weights that one step over `num_tokens` tokens reads, without the MTP modules.

    Every matrix is read once, the embedding by a row a token, and of the routed experts those that a token chose.
    """
    spared = 0 if config.tie_embeddings else config.vocab_size * config.model_dim
    rows = num_tokens * config.model_dim  # of the embedding, which the head reads whole where the two are one
    num_expert_layers = config.num_layers - config.num_dense_layers
    idle_experts = config.num_experts - experts_chosen(config, num_tokens)
    idle = num_expert_layers * 3 * config.model_dim * config.expert_dim * idle_experts
    return count_parameters(config).total - spared + rows - idle


def experts_chosen(config: ModelConfig, num_tokens: float) -> float:
    """Routed experts of a layer that at least one of `num_tokens` tokens chooses, on average, if all are as likely."""
    if not config.num_experts:
        return 0.0
    return config.num_experts * (1 - (1 - config.num_active_experts / config.num_experts) ** num_tokens)


def _row_bytes(width: int, held: CacheType) -> int:
    """A row of so many numbers; at 8 bits, each 32 have a scale of two bytes."""
    return {"float32": 4 * width, "bfloat16": 2 * width, "int8": width + 2 * -(-width // 32)}[held]


def _attention_weights(config: ModelConfig) -> int:
    output = config.num_heads * config.value_dim * config.model_dim
    if config.query_rank is None:
        query = config.model_dim * config.num_heads * config.key_dim
    else:
        query = config.query_rank * (config.model_dim + config.num_heads * config.key_dim)
    if config.latent_dim is None:
        return query + config.model_dim * config.key_heads * (config.key_dim + config.value_dim) + output
    latent = config.model_dim * (config.latent_dim + config.rope_dim)
    expand = config.latent_dim * config.num_heads * (config.nope_dim + config.value_dim)
    return query + latent + expand + output


def _attention_biases(config: ModelConfig) -> int:
    projected = config.num_heads * config.key_dim + config.key_heads * (config.key_dim + config.value_dim)
    return projected * config.attention_bias + config.model_dim * config.output_bias


def _attended_weights(config: ModelConfig, context: float) -> float:
    """Scores and weighted values of one token in one layer, in multiply-adds."""
    return config.num_heads * (config.key_dim + config.value_dim) * context


def _dense_weights(config: ModelConfig) -> int:
    return 3 * config.model_dim * config.dense_dim


def _dense_biases(config: ModelConfig) -> int:
    return (2 * config.dense_dim + config.model_dim) * config.feed_forward_bias


def _expert_weights(config: ModelConfig, num_experts: int) -> int:
    """`num_experts` routed experts, the shared ones and the router's matrix."""
    experts = 3 * config.model_dim * (num_experts * config.expert_dim + config.shared_dim)
    return experts + config.model_dim * config.num_experts
