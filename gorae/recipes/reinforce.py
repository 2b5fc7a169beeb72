"""The learning stage that every task and algorithm shares: ask, sample, grade, move the policy."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from gorae.checkpoint import quantised, save_model
from gorae.engine import Engine
from gorae.kernels import choose_device
from gorae.observe import Meter
from gorae.posttrain import (
    ROUTER_BIAS_RATE,
    BatchesAhead,
    Fleet,
    GrpoSettings,
    Here,
    HereQuantised,
    PolicyBatch,
    Reference,
    Tally,
    policy_loss,
)
from gorae.recipes.adapt import Rows, own_replies, tuner
from gorae.recipes.batches import Batches, Questions
from gorae.recipes.compute import count_policy
from gorae.recipes.run import ChatModel, load_chat_model
from gorae.train import Batch, Schedule

EngineOf = Callable[..., Engine]  # (model, count=...)


def reinforce(
    folder: Path,
    meter: Meter,
    *,
    start: Path,
    ask: Callable[[int], Questions],
    wanted: GrpoSettings,
    seed: int,
    schedule: Schedule | None = None,
    max_flops: float = math.inf,
    device: str | None = "cpu",
    prefix_cache: bool = False,
) -> None:
    """GRPO from the model in `start`, for the steps of the schedule or until they have taken `max_flops`.

    `ask(n)` yields the n-th batch's questions. Sampling and learning share one network object, so weights need no
    copying, unless there are workers: then questions, worlds and rewards are asked in another thread, batch by batch.
    `prefix_cache` is for episodes, whose turns begin as the turns before; else no prompt comes twice, and a bill should
    not depend on how much memory was free for prefixes. `device`: None takes a GPU if there is one.
    """
    where = choose_device(device)
    if wanted.workers and where.type != "cpu":
        raise ValueError(
            f"workers={wanted.workers} sample on the CPU, with other bits than {where}; set one of them only"
        )
    model = load_chat_model(start, trainable=True, narrow=wanted.bfloat16, device=where)
    model.network.recompute_blocks = wanted.recompute_blocks
    first = load_chat_model(start, trainable=bool(wanted.reference_every), narrow=wanted.bfloat16, device=where)
    reference = Reference(first.network, folder / "reference.safetensors", wanted.reference_every)
    tally = Tally()
    engine_of = partial(Engine, max_batch=wanted.num_prompts * wanted.num_samples, prefix_cache=prefix_cache)
    has_experts = not all(map(model.config.is_dense, range(model.config.num_layers)))
    params = wanted.sampling(routings=has_experts)
    config, schedule = replace(model.config, num_mtp_modules=0), schedule or wanted.schedule

    def rows() -> Rows:
        prompts = [model.tokenizer.encode_chat(conversation) for conversation in ask(0).conversations]
        return own_replies(engine_of(model, count=meter.add), prompts, params)

    def count(batch: Batch) -> None:
        count_policy(meter, config, batch, read_rows=wanted.kl_rows, recomputes=wanted.recompute_blocks)

    with choose_place(model, start, wanted, engine_of, tally=tally, meter=meter) as place:
        batches = Batches(model, ask, wanted, params, seed, place, tally, meter)
        num_batches = math.ceil(schedule.num_steps / wanted.num_updates)
        ahead = BatchesAhead(batches.begin, staleness=wanted.staleness, num_batches=num_batches)

        def make_batch(step: int) -> PolicyBatch:
            reference.follow(model.network, step)
            return batches.of_step(step, ahead)

        trainer = tuner(
            folder,
            model.network,
            wanted,
            seed=seed,
            rows=rows,
            schedule=schedule,
            router_bias_rate=0.0 if wanted.router_bias == "frozen" else ROUTER_BIAS_RATE,
            router_bias_every=wanted.num_updates if wanted.router_bias == "replayed" else 1,
            ahead=ahead,
        )
        loss = partial(policy_loss, settings=wanted, reference=reference.network)
        trainer.run(make_batch, loss, meter=meter, count=count, max_flops=max_flops)
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)


def choose_place(
    model: ChatModel, start: Path, wanted: GrpoSettings, engine_of: EngineOf, *, tally: Tally, meter: Meter
) -> Here | Fleet:
    """Where batches are sampled."""
    if wanted.rollouts != "exact":
        copy = quantised(model.network, wanted.rollouts)
        engine = engine_of(ChatModel(copy, copy.config, model.tokenizer), count=tally.add)
        return HereQuantised(engine, copy, model.network, wanted.rollouts)
    if not wanted.workers:
        return Here(engine_of(model, count=tally.add))
    return Fleet(
        partial(engine_of_worker, start.absolute() if start.exists() else start, engine_of),
        model,
        num_workers=wanted.workers,
        num_versions=wanted.staleness + 1,
        tally=tally,
        meter=meter,
    )


def engine_of_worker(start: Path, engine_of: EngineOf, *, count: Callable[..., None]) -> Engine:
    """The engine of a process that has only the folder learning began with."""
    return engine_of(load_chat_model(start, trainable=True), count=count)
