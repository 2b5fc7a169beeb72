"""The learning stage that every task and algorithm shares: ask, sample, grade, move the policy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gorae.checkpoint import save_model
from gorae.engine import Engine, Output
from gorae.kernels import choose_device
from gorae.observe import Meter
from gorae.posttrain import (
    GrpoSettings,
    PolicyBatch,
    Reference,
    Rollout,
    World,
    mini_batch,
    policy_batch,
    policy_loss,
    rollouts_of,
    sample_episodes,
    sample_groups,
    sample_until_live,
)
from gorae.recipes.adapt import Rows, adapt, learning_parameters, own_replies
from gorae.recipes.compute import count_policy
from gorae.recipes.run import load_chat_model
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
    device: str | None = "cpu",
    prefix_cache: bool = False,
) -> None:
    """GRPO from the model in `start`, for the steps of the schedule or until they have taken `max_flops`.

    `ask(n)` yields the n-th batch's questions. Sampling and learning share one network object, so weights need no
    copying. `prefix_cache` is for episodes, whose turns begin as the turns before; else no prompt comes twice, and a
    bill should not depend on how much memory was free for prefixes. `device`: None takes a GPU if there is one.
    """
    place = choose_device(device)
    model = load_chat_model(start, trainable=True, narrow=wanted.bfloat16, device=place)
    model.network.recompute_blocks = wanted.recompute_blocks
    first = load_chat_model(start, trainable=bool(wanted.reference_every), narrow=wanted.bfloat16, device=place)
    reference = Reference(first.network, folder / "reference.safetensors", wanted.reference_every)
    engine = Engine(
        model, max_batch=wanted.num_prompts * wanted.num_samples, prefix_cache=prefix_cache, count=meter.add
    )
    has_experts = not all(map(model.config.is_dense, range(model.config.num_layers)))
    params = wanted.sampling(routings=has_experts)
    config = replace(model.config, num_mtp_modules=0)

    def rows() -> Rows:
        prompts = [model.tokenizer.encode_chat(conversation) for conversation in ask(0).conversations]
        return own_replies(engine, prompts, params)

    adapter = adapt(folder, model.network, wanted.adapter, seed=seed, rows=rows)
    rollouts: list[Rollout] = []  # of the batch that the present steps share

    def sample_batch(number: int) -> list[Rollout]:
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

    def make_batch(step: int) -> PolicyBatch:
        reference.follow(model.network, step)
        number, part = divmod(step, wanted.num_updates)
        if part == 0:
            rollouts[:] = sample_batch(number)
        chosen = mini_batch(rollouts, wanted, part)
        return policy_batch(chosen, wanted, pad_id=model.tokenizer.pad_id, is_fresh=part == 0)

    def count(batch: Batch) -> None:
        count_policy(meter, config, batch, read_rows=wanted.kl_rows, recomputes=wanted.recompute_blocks)

    trainer = Trainer(
        folder.name,
        model.network,
        HybridOptimizer(learning_parameters(model.network, adapter), wanted.optimizer),
        schedule or wanted.schedule,
        folder,
        save_every=wanted.save_every,
        adapter=adapter,
    )
    loss = partial(policy_loss, settings=wanted, reference=reference.network)
    trainer.run(make_batch, loss, meter=meter, count=count, max_flops=max_flops)
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)
