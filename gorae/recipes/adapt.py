"""What of a model a tuning stage moves: all its weights, additions to them, or the experts that its task uses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.observe import log, replace_text
from gorae.posttrain import Example, relevant_experts
from gorae.recipes.compute import sampling_parameters
from gorae.train import (
    Adapter,
    AdapterSettings,
    ExpertAdapter,
    HybridOptimizer,
    LowRankAdapter,
    OptimizerSettings,
    Schedule,
    Trainer,
)

MOST_ROWS = 32  # to see the experts at work on

Rows = Sequence[Sequence[int]]


class Tuning(Protocol):
    """What the settings of every tuning stage have."""

    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def save_every(self) -> int: ...
    @property
    def adapter(self) -> AdapterSettings: ...


def tuner(
    folder: Path,
    network: Network,
    wanted: Tuning,
    *,
    seed: int,
    rows: Callable[[], Rows],
    schedule: Schedule | None = None,
    **options: Any,
) -> Trainer:
    """The trainer of all weights that take part in sampling, or of what learns in their place; `rows` as in `adapt`."""
    adapter = adapt(folder, network, wanted.adapter, seed=seed, rows=rows)
    parameters = adapter.parameters.items() if adapter else sampling_parameters(network)
    optimizer = HybridOptimizer(parameters, wanted.optimizer)
    options |= {"save_every": wanted.save_every, "adapter": adapter}
    return Trainer(folder.name, network, optimizer, schedule or wanted.schedule, folder, **options)


def adapt(
    folder: Path, network: Network, wanted: AdapterSettings, *, seed: int, rows: Callable[[], Rows]
) -> Adapter | None:
    """What learns in place of a network's weights, before any step; None where they do themselves.

    `rows` gives token ids of the task. The experts that they use are put down in the folder.
    """
    if wanted.rank:
        return LowRankAdapter(network, rank=wanted.rank, alpha=wanted.alpha, seed=seed)
    if not wanted.experts:
        return None
    file = folder / "experts.json"
    if not file.exists():
        chosen = relevant_experts(network, rows(), share=wanted.experts, score=wanted.score)
        replace_text(file, json.dumps(chosen) + "\n")
    chosen = json.loads(file.read_text(encoding="utf-8"))
    each = ", ".join(str(len(experts)) for experts in chosen)
    log(f"{folder.name}: of {network.config.num_experts} experts a layer learn {each}: {file}")
    return ExpertAdapter(network, chosen)


def some_examples(examples: Sequence[Example], *, seed: int) -> Rows:
    """Rows of a task that is told by examples."""
    chosen = Random(f"experts/{seed}").sample(list(examples), min(MOST_ROWS, len(examples)))
    return [one.prompt_ids + one.reply_ids for one in chosen]


def own_replies(engine: Engine, prompts: Sequence[list[int]], params: SamplingParams) -> Rows:
    """Rows of a task that is told by prompts: these and what the model itself says to them, each time the same."""
    some = prompts[:MOST_ROWS]
    outputs = engine.generate(
        some, [SamplingParams(max_tokens=params.max_tokens, seed=place) for place in range(len(some))]
    )
    return [one.prompt_token_ids + one.token_ids for one in outputs]
