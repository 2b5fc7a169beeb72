"""What the steps of reinforcement learning learn from: batches that are asked, sampled, graded, handed out in parts.

Nouns: Questions, all that a batch may ask; Batches, which has the present one and begins those that come. A batch is
enough for `num_updates` steps, each of which learns from a part of its groups.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from gorae.config import forward_flops
from gorae.engine import Output, SamplingParams
from gorae.observe import Meter
from gorae.posttrain import (
    BatchesAhead,
    Fleet,
    GrpoSettings,
    Here,
    PolicyBatch,
    Rollout,
    SampledBatch,
    Sampler,
    Tally,
    World,
    first_log_probs,
    mini_batch,
    policy_batch,
    rollouts_of,
    sample_episodes,
    sample_groups,
    sample_until_live,
)
from gorae.recipes.compute import count_rows
from gorae.recipes.run import ChatModel
from gorae.text import Message


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


@dataclass
class Batches:
    """Batches for the policy in `model`, sampled in `place`, whose work counts on `tally` until it is learnt from.

    `present` are the rollouts that the present steps share, `firsts` the log-probabilities of their later parts by the
    trainer, before the first update, where corrections need them.
    """

    model: ChatModel
    ask: Callable[[int], Questions]
    wanted: GrpoSettings
    params: SamplingParams
    seed: int
    place: Here | Fleet
    tally: Tally
    meter: Meter
    present: Sequence[Rollout] = ()
    firsts: list[Tensor] = field(default_factory=list)

    def of_step(self, step: int, ahead: BatchesAhead) -> PolicyBatch:
        """What a step learns from, given the policy before its update, and the batches that `begin` began."""
        number, part = divmod(step, self.wanted.num_updates)
        if part == 0:
            self.present, flops, tokens = ahead.take(number)
            self.meter.add(flops=flops, tokens=tokens)
            later = range(1, self.wanted.num_updates) if self.wanted.correction != "none" else ()
            self.firsts = [self.first_pass(self.part_of(number, part)) for part in later]
        batch = self.part_of(number, part)
        return replace(batch, first_log_probs_N=self.firsts[part - 1]) if part and self.firsts else batch

    def part_of(self, number: int, part: int) -> PolicyBatch:
        """It is fresh where the policy is still the one that sampled."""
        chosen = mini_batch(self.present, self.wanted, part)
        is_fresh = part == 0 and (number == 0 or self.wanted.staleness == 0)
        return policy_batch(chosen, self.wanted, pad_id=self.model.tokenizer.pad_id, is_fresh=is_fresh)

    def first_pass(self, batch: PolicyBatch) -> Tensor:
        count_rows(self.meter, replace(self.model.config, num_mtp_modules=0), batch, forward_flops)
        return first_log_probs(self.model.network, batch, self.wanted)

    def begin(self, number: int) -> Future[SampledBatch]:
        """Begin to sample a batch with the weights that have learnt from `staleness` fewer than they could."""
        return self.place.begin(partial(self.sample, number=number), version=max(0, number - self.wanted.staleness))

    def sample(self, sampler: Sampler, number: int) -> SampledBatch:
        """Ask, sample and grade a batch, and more in the place of groups that teach nothing."""
        wanted, questions = self.wanted, self.ask(number)

        def sample(first: int, count: int) -> list[Rollout]:
            groups = sample_replies(
                sampler,
                questions.conversations[first : first + count],
                questions.world,
                max_turns=wanted.max_turns,
                num_samples=wanted.num_samples,
                params=self.params,
                seed=self.seed * 1_000_000 + number,
                first=first,
            )
            return rollouts_of(groups, questions.reward(groups, first), first=first)

        rollouts = sample_until_live(
            sample, num_prompts=wanted.num_prompts, num_samples=wanted.num_samples, num_refills=wanted.num_refills
        )
        return SampledBatch(rollouts, *self.tally.take())
