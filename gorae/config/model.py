"""The shape of a network: widths, ranks, counts and constants, and the sizes that follow from them.

`ModelConfig` is frozen and knows no tensor and no file; published `config.json` keys are translated in `load.py`.
Letters in brackets are the shape suffixes used wherever a tensor carries the dimension.
"""

import math
from dataclasses import dataclass
from typing import Any

_POSITIVE = (
    *("vocab_size", "model_dim", "num_layers", "num_heads", "rope_dim", "value_dim", "dense_dim", "num_expert_groups"),
    *("routing_scale", "rope_theta", "norm_eps", "max_positions", "init_std"),
)
# What is larger is no network anybody has: a mistake, or a file made to fill memory.
_LARGEST = {
    "vocab_size": 2**24,
    **dict.fromkeys(("num_layers", "num_mtp_modules"), 2**12),
    **dict.fromkeys(("num_heads", "key_heads", "num_experts", "num_shared_experts"), 2**16),
    **dict.fromkeys(("model_dim", "nope_dim", "rope_dim", "value_dim", "dense_dim", "expert_dim"), 2**20),
    **dict.fromkeys(("query_rank", "latent_dim"), 2**20),
}
_MOST_EXPERTS = 2**20  # of all layers
_POSITIVE_WITH_LATENT = ("latent_dim", "nope_dim")
_POSITIVE_WITH_EXPERTS = ("expert_dim", "num_shared_experts")


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for texts longer than those of pretraining.

    kind: "yarn" (arXiv 2309.00071) or "llama3" (Llama 3.1). A pair that turns more than `fast_turns` times within
    `original_positions` keeps its frequency, one that turns less than `slow_turns` times is slowed `factor` times, and
    those between are mixed: YaRN by the number of the pair, Llama 3 by its turns.
    mscale, mscale_all_dim: YaRN's corrections for longer texts, of the rotary part and of the softmax; None where the
    published config has none. attention_factor: what the rotary part is multiplied by, where it is given outright.
    """

    kind: str
    factor: float
    original_positions: int
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _require(self.kind in ("yarn", "llama3"), f"rope_scaling.kind={self.kind!r} must be 'yarn' or 'llama3'")
        for name in ("factor", "original_positions", "slow_turns", "attention_factor"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"rope_scaling.{name}={value} must be positive and finite")
        for name in ("mscale", "mscale_all_dim"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, f"rope_scaling.{name}={value} must not be negative")
        _require(
            math.inf > self.fast_turns > self.slow_turns,
            f"rope_scaling.fast_turns={self.fast_turns} must exceed slow_turns={self.slow_turns}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A network of DeepSeek-V3's kind (arXiv 2412.19437, section 2), or of its ancestors' and distilled models'.

    Without `latent_dim`, attention has plain heads, `num_key_heads` of them for keys and values, wholly rotated
    (`nope_dim` 0). Without `num_experts`, every layer is dense. Raises ValueError, naming the value and the rule, for a
    combination no network can have.
    """

    vocab_size: int  # W
    model_dim: int  # D
    num_layers: int
    num_heads: int  # H
    query_rank: int | None  # Q, the query latent; None: queries come from the model width at once
    latent_dim: int | None  # C, the key/value latent; None: plain heads
    nope_dim: int  # part of K without position
    rope_dim: int  # R, part of K with rotary position
    value_dim: int  # V
    dense_dim: int  # feed-forward width of the first, dense layers
    expert_dim: int  # F
    num_experts: int  # E, routed
    num_active_experts: int  # A, routed experts a token uses
    num_shared_experts: int = 1
    num_expert_groups: int = 1
    num_active_groups: int = 1
    num_dense_layers: int = 1
    normalize_routing: bool = True
    routing_scale: float = 1.0
    num_mtp_modules: int = 0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    max_positions: int = 4096
    init_std: float = 0.006
    bos_id: int | None = 0  # None: a text begins with none
    eos_id: int | None = 1  # None: nothing ends a text
    stop_ids: tuple[int, ...] = ()  # end a reply as eos_id does, such as the end of a turn
    router: str = "sigmoid"  # "sigmoid": V3's, its bias only chooses; "softmax": V2's, without bias
    num_key_heads: int | None = None  # J, of plain attention; None: as many as num_heads
    attention_bias: bool = False  # on queries, keys and values of plain attention
    output_bias: bool = False  # on the output of plain attention
    feed_forward_bias: bool = False  # in dense layers
    tie_embeddings: bool = False
    rope_interleaved: bool = True  # rotary pairs are adjacent; else the two halves of a head
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        positive = _POSITIVE
        positive += _POSITIVE_WITH_LATENT if self.latent_dim is not None else ()
        positive += _POSITIVE_WITH_EXPERTS if self.num_experts else ()
        for name in positive:
            _require(0 < getattr(self, name) < math.inf, f"{name}={getattr(self, name)} must be positive and finite")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            _require(value is None or value <= largest, f"{name}={value} must be at most {largest}")
        self._check_attention()
        self._check_experts()
        _require(self.num_mtp_modules >= 0, f"num_mtp_modules={self.num_mtp_modules} must not be negative")
        _require_within("num_dense_layers", self.num_dense_layers, 0, "num_layers", self.num_layers)
        self._check_ids()

    def _check_ids(self) -> None:
        for name, ids in (("bos_id", (self.bos_id,)), ("eos_id", (self.eos_id,)), ("stop_ids", self.stop_ids)):
            for token_id in ids:
                if token_id is not None:
                    _require_within(name, token_id, 0, "vocab_size - 1", self.vocab_size - 1)
        _require(
            not self.stop_ids or (self.eos_id is not None and len(self.end_ids) == 1 + len(self.stop_ids)),
            f"stop_ids={self.stop_ids} must be all different, and others than an eos_id={self.eos_id} that there is",
        )

    def _check_attention(self) -> None:
        _require(self.rope_dim % 2 == 0, f"rope_dim={self.rope_dim} must be even: it rotates pairs")
        _require(
            self.query_rank is None or self.query_rank > 0, f"query_rank={self.query_rank} must be positive or none"
        )
        if self.latent_dim is None:
            _require(
                self.nope_dim == 0 and self.query_rank is None,
                f"latent_dim=none is plain attention, where nope_dim={self.nope_dim} must be 0 and "
                f"query_rank={self.query_rank} none",
            )
            _require(
                self.key_heads > 0 and self.num_heads % self.key_heads == 0,
                f"num_heads={self.num_heads} cannot share num_key_heads={self.key_heads} evenly",
            )
        else:
            _require(
                self.num_key_heads is None and not self.attention_bias and not self.output_bias,
                f"latent_dim={self.latent_dim} is latent attention, which has no num_key_heads and no biases",
            )

    def _check_experts(self) -> None:
        _require(self.router in ("sigmoid", "softmax"), f"router={self.router!r} must be 'sigmoid' or 'softmax'")
        if not self.num_experts:
            _require(
                self.num_dense_layers == self.num_layers and self.num_mtp_modules == 0,
                f"num_experts=0 makes every layer dense, so num_dense_layers={self.num_dense_layers} must be "
                f"num_layers={self.num_layers} and num_mtp_modules={self.num_mtp_modules} 0",
            )
            return
        _require(
            self.num_layers * self.num_experts <= _MOST_EXPERTS,
            f"num_layers={self.num_layers} with num_experts={self.num_experts} each must be at most {_MOST_EXPERTS} "
            "experts",
        )
        _require_within("num_active_experts", self.num_active_experts, 1, "num_experts", self.num_experts)
        _require_within("num_active_groups", self.num_active_groups, 1, "num_expert_groups", self.num_expert_groups)
        group_size, rest = divmod(self.num_experts, self.num_expert_groups)
        _require(
            rest == 0,
            f"num_experts={self.num_experts} cannot be split into num_expert_groups={self.num_expert_groups} equal "
            "groups",
        )
        _require(
            self.num_expert_groups == 1 or group_size >= 2 or self.router == "softmax",
            f"num_expert_groups={self.num_expert_groups} leaves {group_size} expert a group; "
            "a group is scored by its best two",
        )
        _require(
            self.num_active_experts <= group_size * self.num_active_groups,
            f"num_active_experts={self.num_active_experts} exceeds the {group_size * self.num_active_groups} experts "
            f"of num_active_groups={self.num_active_groups}",
        )

    @staticmethod
    def dense(*, num_layers: int, head_dim: int, **others: Any) -> "ModelConfig":
        """A network with plain heads and without experts, as Qwen2 and Llama are; `others` are its other fields."""
        return ModelConfig(
            num_layers=num_layers,
            num_dense_layers=num_layers,
            query_rank=None,
            latent_dim=None,
            nope_dim=0,
            rope_dim=head_dim,
            value_dim=head_dim,
            expert_dim=0,
            num_experts=0,
            num_active_experts=0,
            rope_interleaved=False,
            **others,
        )

    @property
    def key_dim(self) -> int:
        """K: width of one head's query and key."""
        return self.nope_dim + self.rope_dim

    @property
    def key_heads(self) -> int:
        """Heads that keys and values have: of latent attention as many as queries."""
        return self.num_key_heads or self.num_heads

    @property
    def shared_dim(self) -> int:
        """Width of the shared experts taken together."""
        return self.num_shared_experts * self.expert_dim

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens of which any ends a reply."""
        return frozenset(self.stop_ids if self.eos_id is None else (self.eos_id, *self.stop_ids))

    def is_dense(self, layer: int) -> bool:
        """Whether `layer` (counted from 0) has a dense feed-forward instead of experts."""
        return layer < self.num_dense_layers


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


def _require_within(name: str, value: int, low: int, bound: str, high: int) -> None:
    _require(low <= value <= high, f"{name}={value} must lie between {low} and {bound}={high}")
