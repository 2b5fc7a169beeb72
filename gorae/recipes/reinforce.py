"""The learning stage that every task and algorithm shares: ask, sample, grade, move the policy."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gorae.checkpoint import quantised, save_model
from gorae.config import forward_flops
from gorae.engine import Engine, Output
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
    Rollout,
    SampledBatch,
    Sampler,
    Tally,
    World,
    first_log_probs,
    mini_batch,
    policy_batch,
    policy_loss,
    rollouts_of,
    sample_episodes,
    sample_groups,
    sample_until_live,
)
from gorae.recipes.adapt import Rows, adapt, learning_parameters, own_replies
from gorae.recipes.compute import count_policy, count_rows
from gorae.recipes.run import ChatModel, load_chat_model
from gorae.text import Message
from gorae.train import Batch, HybridOptimizer, Schedule, Trainer

EngineOf = Callable[..., Engine]  # (model, count=...)


class Questions(NamedTuple):
    """All that a batch of reinforcement learning may ask, refills too, and what replies are worth.

    `reward(groups, first)` takes replies to the questions from the first-th on; None is one it could not grade. In a
    `world` replies are episodes.
    """

    conversations: Sequence[Sequence[Message]]
    reward: Callable[[Sequence[Sequence[Output]], int], Sequence[Sequence[float | None]]]
    world: World | None = None


def sample_replies(
    sampler: Sampler,
    conversations: Sequence[Sequence[Message]],
    world: World | None,
    *,
    max_turns: int,
    **options: Any,
) -> Sequence[Sequence[Output]]:
    """`sample_groups`, or in a world `sample_episodes`."""
    if world is not None:
        return sample_episodes(sampler, conversations, world, max_turns=max_turns, **options)
    assert sampler.tokenizer is not None, "a chat model has a tokenizer"
    prompts = [sampler.tokenizer.encode_chat(conversation) for conversation in conversations]
    return sample_groups(sampler, prompts, **options)


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

    adapter = adapt(folder, model.network, wanted.adapter, seed=seed, rows=rows)
    rollouts: list[Rollout] = []  # of the batch that the present steps share
    later_parts = range(1, wanted.num_updates)
    firsts: list[Tensor] = []  # its tokens' log-probabilities by the trainer, where later updates need them

    def sample_batch(sampler: Sampler, number: int) -> SampledBatch:
        questions, batch_seed = ask(number), seed * 1_000_000 + number

        def sample(first: int, count: int) -> list[Rollout]:
            groups = sample_replies(
                sampler,
                questions.conversations[first : first + count],
                questions.world,
                max_turns=wanted.max_turns,
                num_samples=wanted.num_samples,
                params=params,
                seed=batch_seed,
                first=first,
            )
            return rollouts_of(groups, questions.reward(groups, first), first=first)

        rollouts = sample_until_live(
            sample, num_prompts=wanted.num_prompts, num_samples=wanted.num_samples, num_refills=wanted.num_refills
        )
        return SampledBatch(rollouts, *tally.take())

    def begin(number: int) -> Future[SampledBatch]:
        return place.begin(partial(sample_batch, number=number), version=max(0, number - wanted.staleness))

    def part_of_batch(number: int, part: int) -> PolicyBatch:
        chosen = mini_batch(rollouts, wanted, part)
        is_fresh = part == 0 and (number == 0 or wanted.staleness == 0)
        return policy_batch(chosen, wanted, pad_id=model.tokenizer.pad_id, is_fresh=is_fresh)

    def first_pass(number: int, part: int) -> Tensor:
        batch = part_of_batch(number, part)
        count_rows(meter, config, batch, forward_flops)
        return first_log_probs(model.network, batch, wanted)

    def make_batch(step: int) -> PolicyBatch:
        reference.follow(model.network, step)
        number, part = divmod(step, wanted.num_updates)
        if part == 0:
            rollouts[:], flops, tokens = ahead.take(number)
            meter.add(flops=flops, tokens=tokens)
            firsts[:] = [first_pass(number, later) for later in later_parts] if wanted.correction != "none" else []
        batch = part_of_batch(number, part)
        return replace(batch, first_log_probs_N=firsts[part - 1]) if part and firsts else batch

    def count(batch: Batch) -> None:
        count_policy(meter, config, batch, read_rows=wanted.kl_rows, recomputes=wanted.recompute_blocks)

    num_batches = math.ceil(schedule.num_steps / wanted.num_updates)
    ahead = BatchesAhead(begin, staleness=wanted.staleness, num_batches=num_batches)
    trainer = Trainer(
        folder.name,
        model.network,
        HybridOptimizer(learning_parameters(model.network, adapter), wanted.optimizer),
        schedule,
        folder,
        save_every=wanted.save_every,
        router_bias_rate=0.0 if wanted.router_bias == "frozen" else ROUTER_BIAS_RATE,
        router_bias_every=wanted.num_updates if wanted.router_bias == "replayed" else 1,
        adapter=adapter,
        ahead=ahead,
    )
    loss = partial(policy_loss, settings=wanted, reference=reference.network)
    with choose_place(model, start, wanted, engine_of, tally=tally, meter=meter) as place:
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
