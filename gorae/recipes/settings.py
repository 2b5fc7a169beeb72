"""Every setting of the laptop recipe, stage by stage, with defaults for ten minutes on two CPU cores."""

from dataclasses import dataclass, field
from pathlib import Path

from gorae.config import ModelConfig
from gorae.posttrain import GrpoSettings
from gorae.train import AdapterSettings, OptimizerSettings, Schedule

VOCAB_SIZE = 1024  # a wish: the tokenizer that prepare trains decides


@dataclass(frozen=True)
class PrepareSettings:
    """What the corpus is made of, and the noise planted in it.

    mistake_rate: share of partial results in worked solutions that are replaced by a random digit.
    think_share: share of problems told with a worked solution; the others give the bare answer.
    drill_share: share of documents that are lines of plain arithmetic, without a problem and without mistakes.
    """

    vocab_size: int = VOCAB_SIZE
    row_length: int = 112
    max_text_bytes: int = 6_000_000
    held_out_fraction: float = 0.02
    num_problems: int = 30_000
    mistake_rate: float = 0.12
    think_share: float = 0.7
    drill_share: float = 0.1
    sealed_items: int = 300

    def __post_init__(self) -> None:
        for name in ("mistake_rate", "think_share", "drill_share", "held_out_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a share and must lie between 0 and 1")


@dataclass(frozen=True)
class PretrainSettings:
    """Next-token prediction on packed rows, some of text, the rest of problems."""

    steps: int = 700
    batch_rows: int = 32
    text_share: float = 0.25
    mtp_weight: float = 0.3
    balance_weight: float = 1e-4
    router_bias_rate: float = 2e-3
    optimizer: OptimizerSettings = OptimizerSettings(lr=4e-3, matrix_lr=1e-2)
    save_every: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.text_share <= 1:
            raise ValueError(f"text_share={self.text_share} is a share and must lie between 0 and 1")
        _ = self.schedule  # refuses impossible steps before anything is run

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps)


@dataclass(frozen=True)
class TuneSettings:
    """Supervised fine-tuning on conversations."""

    steps: int = 90
    batch_size: int = 32
    optimizer: OptimizerSettings = OptimizerSettings(lr=3e-3, matrix_lr=5e-3)
    adapter: AdapterSettings = AdapterSettings()
    save_every: int = 20

    def __post_init__(self) -> None:
        _ = self.schedule  # refuses impossible steps before anything is run

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, warmup_fraction=0.1, decay_fraction=0.5)


@dataclass(frozen=True)
class ColdStartSettings(TuneSettings):
    """The cold start's conversations: how many, and which share of them thinks; mistakes planted as in the corpus."""

    num_examples: int = 3000
    think_share: float = 0.5


@dataclass(frozen=True)
class DistillSettings:
    """How many prompts the teacher answers how often, and how the student imitates the correct answers."""

    num_prompts: int = 1000
    num_samples: int = 2
    tune: TuneSettings = TuneSettings(steps=250, batch_size=64, optimizer=OptimizerSettings(lr=4e-3, matrix_lr=1e-2))


@dataclass(frozen=True)
class EvaluateSettings:
    """Sealed items and samples of each; replies are sampled at temperature 1 and top_p 1.

    max_tokens: that a reply may have, or all replies of an episode with tools, which are at most max_turns.
    """

    items: int = 90
    samples: int = 16
    max_tokens: int = 52
    max_turns: int = 8


@dataclass(frozen=True)
class ServeSettings:
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class LaptopSettings:
    """All settings of the recipe. Those without a section:

    seed: of everything random; another one makes other models.
    threads: of the processor; none takes all cores. Equal bits need an equal number.
    data: a file or a folder of .txt, .md, .py, .jsonl or .parquet; none takes the Python standard library's source.
    """

    seed: int = 0
    threads: int | None = None
    data: Path | None = None
    prepare: PrepareSettings = PrepareSettings()
    teacher: ModelConfig = ModelConfig(
        vocab_size=VOCAB_SIZE,
        model_dim=96,
        num_layers=3,
        num_heads=4,
        query_rank=64,
        latent_dim=32,
        nope_dim=16,
        rope_dim=16,
        value_dim=24,
        dense_dim=256,
        expert_dim=64,
        num_experts=8,
        num_active_experts=2,
        num_mtp_modules=1,
        max_positions=1024,
        rope_theta=500.0,
        init_std=0.05,
    )
    student: ModelConfig = ModelConfig(
        vocab_size=VOCAB_SIZE,
        model_dim=48,
        num_layers=2,
        num_heads=4,
        query_rank=32,
        latent_dim=24,
        nope_dim=12,
        rope_dim=12,
        value_dim=12,
        dense_dim=96,
        expert_dim=28,
        num_experts=8,
        num_active_experts=2,
        max_positions=1024,
        rope_theta=500.0,
        init_std=0.05,
    )
    pretrain: PretrainSettings = PretrainSettings()
    student_pretrain: PretrainSettings = PretrainSettings(steps=250)
    cold_start: ColdStartSettings = ColdStartSettings()
    rl: GrpoSettings = field(default_factory=GrpoSettings)
    distill: DistillSettings = DistillSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    serve: ServeSettings = ServeSettings()

    def __post_init__(self) -> None:
        if self.evaluate.items > self.prepare.sealed_items:
            raise ValueError(
                f"evaluate.items={self.evaluate.items} exceeds prepare.sealed_items={self.prepare.sealed_items}; "
                "seal more items, or evaluate on fewer"
            )
