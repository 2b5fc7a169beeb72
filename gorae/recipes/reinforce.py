"""The learning stage that every task and algorithm shares: ask, sample, grade, move the policy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gorae.checkpoint import quantise_again, quantised, save_model
from gorae.config import forward_flops
from gorae.engine import Engine, Output
from gorae.observe import Meter
from gorae.posttrain import (
    ROUTER_BIAS_RATE,
    GrpoSettings,
    PolicyBatch,
    Reference,
    Rollout,
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


class Questions(NamedTuple):
    """All that a batch of reinforcement learning may ask, refills too, and what replies are worth.

    `reward(groups, first)` takes replies to the questions from the first-th on; None is one it could not grade. In a
    `world` replies are episodes.
    """

    conversations: Sequence[Sequence[Message]]
    reward: Callable[[Sequence[Sequence[Output]], int], Sequence[Sequence[float | None]]]
    world: World | None = None


def sample_replies(
    engine: Engine,
    conversations: Sequence[Sequence[Message]],
    world: World | None,
    *,
    max_turns: int,
    **options: Any,
) -> Sequence[Sequence[Output]]:
    """`sample_groups`, or in a world `sample_episodes`."""
    if world is not None:
        return sample_episodes(engine, conversations, world, max_turns=max_turns, **options)
    assert engine.tokenizer is not None, "a chat model has a tokenizer"
    prompts = [engine.tokenizer.encode_chat(conversation) for conversation in conversations]
    return sample_groups(engine, prompts, **options)


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
    prefix_cache: bool = False,
) -> None:
    """GRPO from the model in `start`, for the steps of the schedule or until they have taken `max_flops`.

    `ask(n)` yields the n-th batch's questions. Sampling and learning share one network object, so weights need no
    copying. `prefix_cache` is for episodes, whose turns begin as the turns before; else no prompt comes twice, and a
    bill should not depend on how much memory was free for prefixes.
    """
    model = load_chat_model(start, trainable=True)
    first = load_chat_model(start, trainable=bool(wanted.reference_every))
    reference = Reference(first.network, folder / "reference.safetensors", wanted.reference_every)
    sampler = model
    if wanted.rollouts != "exact":
        copy = quantised(model.network, wanted.rollouts)
        sampler = ChatModel(copy, copy.config, model.tokenizer)
    engine = Engine(
        sampler, max_batch=wanted.num_prompts * wanted.num_samples, prefix_cache=prefix_cache, count=meter.add
    )
    has_experts = not all(map(model.config.is_dense, range(model.config.num_layers)))
    params = wanted.sampling(routings=has_experts)
    config = replace(model.config, num_mtp_modules=0)

    def rows() -> Rows:
        prompts = [model.tokenizer.encode_chat(conversation) for conversation in ask(0).conversations]
        return own_replies(engine, prompts, params)

    adapter = adapt(folder, model.network, wanted.adapter, seed=seed, rows=rows)
    rollouts: list[Rollout] = []  # of the batch that the present steps share
    firsts: list[Tensor] = []  # its tokens' log-probabilities by the trainer, where later updates need them

    def sample_batch(number: int) -> list[Rollout]:
        if sampler is not model:
            quantise_again(sampler.network, model.network, wanted.rollouts)
            engine.weights_changed()
        questions, batch_seed = ask(number), seed * 1_000_000 + number

        def sample(first: int, count: int) -> list[Rollout]:
            groups = sample_replies(
                engine,
                questions.conversations[first : first + count],
                questions.world,
                max_turns=wanted.max_turns,
                num_samples=wanted.num_samples,
                params=params,
                seed=batch_seed,
                first=first,
            )
            return rollouts_of(groups, questions.reward(groups, first), first=first)

        return sample_until_live(
            sample, num_prompts=wanted.num_prompts, num_samples=wanted.num_samples, num_refills=wanted.num_refills
        )

    def part_of_batch(part: int) -> PolicyBatch:
        chosen = mini_batch(rollouts, wanted, part)
        return policy_batch(chosen, wanted, pad_id=model.tokenizer.pad_id, is_fresh=part == 0)

    def first_pass(part: int) -> Tensor:
        batch = part_of_batch(part)
        count_rows(meter, config, batch, forward_flops)
        return first_log_probs(model.network, batch, wanted)

    def make_batch(step: int) -> PolicyBatch:
        reference.follow(model.network, step)
        number, part = divmod(step, wanted.num_updates)
        if part == 0:
            rollouts[:] = sample_batch(number)
            firsts[:] = map(first_pass, range(1, wanted.num_updates)) if wanted.correction != "none" else []
        batch = part_of_batch(part)
        return replace(batch, first_log_probs_N=firsts[part - 1]) if part and firsts else batch

    def count(batch: Batch) -> None:
        count_policy(meter, config, batch, read_rows=wanted.kl_rows)

    trainer = Trainer(
        folder.name,
        model.network,
        HybridOptimizer(learning_parameters(model.network, adapter), wanted.optimizer),
        schedule or wanted.schedule,
        folder,
        save_every=wanted.save_every,
        router_bias_rate=0.0 if wanted.router_bias == "frozen" else ROUTER_BIAS_RATE,
        router_bias_every=wanted.num_updates if wanted.router_bias == "replayed" else 1,
        adapter=adapter,
    )
    loss = partial(policy_loss, settings=wanted, reference=reference.network)
    trainer.run(make_batch, loss, meter=meter, count=count, max_flops=max_flops)
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)
