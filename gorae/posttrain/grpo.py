"""GRPO (arXiv 2402.03300) and its descendants: sample groups, compare within each, move the policy.

One loss for all of them: a sum over tokens of gain times weight, over a divisor. Which gain, weight and divisor is the
algorithm's; docs/algorithms.md states every divisor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gorae.engine import SamplingParams
from gorae.model import Network, Replay
from gorae.posttrain.advantage import deviation, group_advantages, is_live
from gorae.posttrain.algorithm import Algorithm, find_algorithm, token_gains
from gorae.posttrain.mismatch import CORRECTIONS, correction_weights
from gorae.posttrain.overlong import shape_overlong
from gorae.posttrain.replay import dead_share, flipped_share, on_the_way, replay_of
from gorae.posttrain.rollout import CUT_OFF, Rollout, reward_table
from gorae.posttrain.sft import training_row
from gorae.train import AdapterSettings, Batch, Loss, OptimizerSettings, Sampling, Schedule, pad_batch, policy_outputs

ROLLOUTS = ("exact", "int8", "int4")
ROUTER_BIASES = ("frozen", "updated", "replayed")
ROUTER_BIAS_RATE = 1e-3  # DeepSeek-V3's in pretraining (arXiv 2412.19437, section 4.2)
KL_ROWS = 32  # enough to see the distance, an eighth of the cost of all rows


@dataclass(frozen=True)
class GrpoSettings:
    """One update a step; a batch of num_prompts x num_samples replies is enough for num_updates steps.

    max_tokens: that a reply may have, or all replies of an episode with tools, which are at most max_turns.
    temperature, top_k, top_p, min_p: what replies are drawn from; ratios are of that, too.
    algorithm: grpo, dapo, dr_grpo, gspo or cispo.
    scale_rewards: "group", "batch", "none", or as the algorithm was "published".
    epsilon, epsilon_high: how far a ratio may leave 1 downwards and upwards; none takes the algorithm's.
    beta: weight of the distance from a reference policy in the loss.
    reference_every: steps after which the present policy becomes the reference; 0 keeps the first.
    exclude_dead_groups: replies of groups that teach nothing are not counted where the loss is divided.
    num_refills: rounds in which further prompts take the place of such groups, which are then excluded.
    bfloat16: matrices learn in bfloat16, in half the memory.
    recompute_blocks: keep no more of a block for the gradient than what goes into it, and compute it twice.
    soft_tokens: over the last so many of max_tokens a reply loses up to 1 of its reward, as in DAPO; 0 for no loss.
    rollouts: of an engine with the trainer's own weights, "exact", or on these quantised to "int8" or "int4".
    correction: weights for what rollouts differ by, none, tis_tokens, tis_sequences, mis_tokens or mis_sequences.
    replay: let the trainer's tokens take the experts, and their weights, that they took when they were sampled.
    router_bias: of the routers' balance, "frozen", "updated" at every step, or "replayed": moved between batches alone.
    staleness: so many batches are sampled ahead, each by the policy that has learnt from so many fewer than it could.
    workers: so many engines of their own sample, on Ray; with 0 the network that learns does.
    """

    steps: int = 60
    num_prompts: int = 12
    num_samples: int = 16
    max_tokens: int = 52
    max_turns: int = 8
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    algorithm: str = "dapo"
    scale_rewards: str = "published"
    epsilon: float | None = None
    epsilon_high: float | None = None
    beta: float = 0.0
    reference_every: int = 0
    exclude_dead_groups: bool = False
    num_refills: int = 0
    num_updates: int = 1
    soft_tokens: int = 0
    rollouts: str = "exact"
    correction: str = "none"
    replay: bool = False
    router_bias: str = "frozen"
    staleness: int = 0
    workers: int = 0
    optimizer: OptimizerSettings = OptimizerSettings(lr=5e-4, matrix_lr=None)
    adapter: AdapterSettings = AdapterSettings()
    save_every: int = 10
    bfloat16: bool = False
    recompute_blocks: bool = False

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.num_samples < 2:
            raise ValueError(
                f"num_prompts={self.num_prompts} must be at least 1, and num_samples={self.num_samples} at least 2: "
                "a reply is compared with its siblings"
            )
        least = {"max_turns": 1, "save_every": 1, "num_updates": 1, "num_refills": 0, "reference_every": 0, "beta": 0}
        least |= {"staleness": 0, "workers": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {bound}")
        if self.num_prompts % self.num_updates or self.save_every % self.num_updates:
            raise ValueError(
                f"num_updates={self.num_updates} must divide num_prompts={self.num_prompts}, as each update takes its "
                f"share of them, and save_every={self.save_every}, as a resumed run begins with a batch"
            )
        choices = {"rollouts": ROLLOUTS, "correction": CORRECTIONS, "router_bias": ROUTER_BIASES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)} is none of {', '.join(allowed)}")
        if self.workers and self.rollouts != "exact":
            raise ValueError(
                f"rollouts={self.rollouts} are sampled by the process that learns, and workers={self.workers} are of "
                "their own; set workers to 0, or rollouts to exact"
            )
        if not 0 <= self.soft_tokens <= self.max_tokens:
            raise ValueError(
                f"soft_tokens={self.soft_tokens} must lie between 0 (no loss) and max_tokens={self.max_tokens}"
            )
        shorter, longer = sorted((self.reference_every, self.save_every))
        if shorter and longer % shorter:
            raise ValueError(
                f"reference_every={self.reference_every} must divide save_every={self.save_every} or be a multiple of "
                "it, so that a resumed run finds its reference"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0: where nothing is drawn, nothing differs")
        # refuse impossible steps, unknown algorithms and cuts that are none before anything is run
        _ = self.schedule, self.rule, self.sampling()

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, warmup_fraction=0.05, decay_fraction=0.25, final_share=0.1)

    def sampling(self, *, routings: bool = False) -> SamplingParams:
        """How replies are sampled, but for their seeds."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            routings=routings,
            policy=True,
        )

    @property
    def most_prompts(self) -> int:
        """How many prompts a batch asks if every group of every round is dead."""
        return self.num_prompts * (1 + self.num_refills)

    @property
    def kl_rows(self) -> int | None:
        """How many rows of a batch the reference reads: all of them (None) where the distance is in the loss."""
        return None if self.beta else KL_ROWS

    @property
    def rule(self) -> Algorithm:
        """The algorithm as published, but for what is set otherwise here."""
        published = find_algorithm(self.algorithm)
        return replace(
            published,
            scale_rewards=published.scale_rewards if self.scale_rewards == "published" else self.scale_rewards,
            epsilon=published.epsilon if self.epsilon is None else self.epsilon,
            epsilon_high=published.epsilon_high if self.epsilon_high is None else self.epsilon_high,
        )


@dataclass(frozen=True)
class PolicyBatch(Batch):
    """Rows with something to teach, with their tokens' advantages and sampling log-probabilities, row by row.

    `divisor` is what the loss divides its weighted sum by, which counts replies that were left out as well; `figures`
    describes all rollouts. `ways` are those the rows' tokens took when they were sampled, none where the rollouts do
    not tell; `sampling` says what tokens were drawn from, None: the whole softmax at temperature 1. `is_fresh` until
    there was an update since the batch was sampled; `first_log_probs_N` are what the trainer gave the tokens before any
    update on the same batch, None: it has not read them before.
    """

    advantages_N: Tensor
    sampled_log_probs_N: Tensor
    divisor: float
    figures: dict[str, float]
    ways: Sequence[Replay] = ()
    sampling: Sampling | None = None
    is_fresh: bool = True
    first_log_probs_N: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """Ways too; what `sampling` tells stays where it is, in many small parts."""
        ways = [Replay(*(kind.to(device) for kind in way)) for way in self.ways]
        return replace(super().to(device), ways=ways)


def mini_batch(rollouts: Sequence[Rollout], settings: GrpoSettings, part: int) -> list[Rollout]:
    """The groups of one of a batch's `num_updates` updates: every so many-th, as they were sampled."""
    starts = range(part * settings.num_samples, len(rollouts), settings.num_updates * settings.num_samples)
    return [one for start in starts for one in rollouts[start : start + settings.num_samples]]


def policy_batch(
    rollouts: Sequence[Rollout], settings: GrpoSettings, *, pad_id: int, is_fresh: bool = True
) -> PolicyBatch:
    """Advantages by group; replies that would have no gradient are left out (one row always stays).

    Replies without a reward count nowhere. Raises ValueError for a reward that is no finite number.
    """
    rule = settings.rule
    if settings.soft_tokens:
        limits = {"max_tokens": settings.max_tokens, "soft_tokens": settings.soft_tokens}
        rollouts = [replace(one, reward=shape_overlong(one.reward, one.num_sampled, **limits)) for one in rollouts]
    rewards_PG = reward_table(rollouts, settings.num_samples)
    advantages_PG = group_advantages(rewards_PG, scale_rewards=rule.scale_rewards)
    counts_PG = ~rewards_PG.isnan()
    if settings.exclude_dead_groups or settings.num_refills:
        counts_PG &= is_live(rewards_PG)[:, None]
    triples = zip(rollouts, advantages_PG.flatten().tolist(), counts_PG.flatten().tolist(), strict=True)
    counted = [(one, advantage) for one, advantage, counts in triples if counts]
    kept = [(one, advantage) for one, advantage in counted if advantage or settings.beta]
    kept = kept or [(next(one for one in rollouts if one.num_sampled), 0.0)]
    rows = [
        training_row(
            one.prompt_ids,
            one.reply_ids,
            1 / one.num_sampled if rule.average == "sequence" else 1.0,
            is_learnt=one.is_sampled,
        )
        for one, _ in kept
    ]
    divisors = {
        "token": sum(one.num_sampled for one, _ in counted),
        "sequence": len(counted),
        "max_tokens": len(counted) * settings.max_tokens,
    }
    batch = pad_batch(rows, pad_id)
    routings = [one.routings for one, _ in kept if one.routings is not None]
    return PolicyBatch(
        batch.token_ids_BT,
        batch.weights_BT,
        advantages_N=torch.tensor([advantage for one, advantage in kept for _ in one.log_probs]),
        sampled_log_probs_N=torch.tensor([log_prob for one, _ in kept for log_prob in one.log_probs]),
        divisor=divisors[rule.average] or math.inf,  # where nothing counts, nothing is to move
        figures=describe_rollouts(rollouts, rewards_PG),
        ways=replay_of(routings, batch.token_ids_BT.shape[1] - 1) if len(routings) == len(kept) else (),
        sampling=sampling_of([one for one, _ in kept], settings),
        is_fresh=is_fresh,
    )


def sampling_of(rollouts: Sequence[Rollout], settings: GrpoSettings) -> Sampling | None:
    """What these replies were drawn from. Raises ValueError where that should be told and is not."""
    told = [one.kept_ids for one in rollouts if one.kept_ids is not None]
    if len(told) == len(rollouts):
        return Sampling(settings.temperature, [kept for one in told for kept in one])
    if told or not settings.sampling().is_whole:
        raise ValueError(
            f"{len(rollouts) - len(told)} of {len(rollouts)} replies do not tell what they were drawn from, at "
            f"temperature={settings.temperature}; sample them with GrpoSettings.sampling(), which asks for policy=True"
        )
    return None


def describe_rollouts(rollouts: Sequence[Rollout], rewards_PG: Tensor) -> dict[str, float]:
    """A step's figures under the names TRL gives them, where it has one."""
    lengths = [one.num_sampled for one in rollouts]
    clipped = [one.finish_reason in CUT_OFF for one in rollouts]
    ungraded_PG = rewards_PG.isnan()
    return {
        "num_prompts": len(rewards_PG),
        "reward": rewards_PG[~ungraded_PG].mean().item(),
        "reward_std": deviation(rewards_PG, dim=(1,)).mean().item(),
        "frac_reward_zero_std": (~is_live(rewards_PG)).float().mean().item(),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/clipped_ratio": sum(clipped) / len(clipped),
        "completions/ungraded_ratio": ungraded_PG.float().mean().item(),
    }


@torch.no_grad()
def first_log_probs(network: Network, batch: PolicyBatch, settings: GrpoSettings) -> Tensor:
    """The trainer's log-probabilities of a batch's tokens before an update, as a later one needs them."""
    batch = batch.to(network.device)
    return policy_outputs(network, batch, sampling=batch.sampling, replay=ways_of(batch, settings)).log_probs_N


def ways_of(batch: PolicyBatch, settings: GrpoSettings) -> Sequence[Replay]:
    """The ways that tokens have to take; none where they go their own."""
    if settings.replay and not batch.ways:
        raise ValueError("replay=True needs the experts of the rollouts, which do not tell them; set it to false")
    return batch.ways if settings.replay else ()


def policy_loss(network: Network, batch: Batch, *, settings: GrpoSettings, reference: Network | None = None) -> Loss:
    """-Σ (gain · correction - beta · distance from `reference`) · weight / divisor over the batch's tokens.

    A gain's ratio is over the probability at which a token was sampled, or, where rollouts are corrected, over the one
    that the trainer gave it first; the correction is of that over the sampler's, without gradient.

    `kl` reports that distance (by the estimator e^d - d - 1, arXiv 2402.03300 eq. 4), on the first rows only where it
    is not in the loss; `mismatch_kl` the same between what the engine reported and this forward pass, `ratio_max` and
    `routing_flips` how far ratios and routers are apart: all 0 by the second law. Of quantised rollouts, where it is
    not, it is called `sampler_kl`; after an update on the same batch there are two policies, whose distance is
    `update_kl`. Raises ValueError without a reference for `settings.beta`, or ways for `settings.replay`.
    """
    assert isinstance(batch, PolicyBatch), "the policy loss learns from rollouts; build its batch with policy_batch"
    if settings.beta and reference is None:
        raise ValueError(f"beta={settings.beta} weighs the distance from a reference, and there is none; give one")
    outputs = policy_outputs(network, batch, sampling=batch.sampling, replay=ways_of(batch, settings))
    is_learnt_BT = batch.weights_BT[:, 1:] != 0
    lengths = is_learnt_BT.sum(dim=1).tolist()
    first_N = outputs.log_probs_N.detach() if batch.first_log_probs_N is None else batch.first_log_probs_N
    is_corrected = settings.correction != "none"
    old_N = first_N if is_corrected else batch.sampled_log_probs_N
    gain_N, is_clipped_N = token_gains(settings.rule, outputs.log_probs_N, old_N, batch.advantages_N, lengths)
    log_ratio_N = first_N - batch.sampled_log_probs_N
    weights_N = correction_weights(settings.correction, log_ratio_N, lengths)
    gain_N = gain_N * weights_N
    name = "update_kl" if not batch.is_fresh else "mismatch_kl" if settings.rollouts == "exact" else "sampler_kl"
    figures = {
        **batch.figures,
        "entropy": outputs.entropy,
        "clip_ratio": is_clipped_N.float().mean().item(),
        name: divergence(outputs.log_probs_N.detach() - batch.sampled_log_probs_N).mean().item(),
    }
    if batch.is_fresh or is_corrected:
        figures["ratio_max"] = log_ratio_N.expm1().abs().max().item()
    if is_corrected:
        figures["correction"] = weights_N.mean().item()
    routings = outputs.routings
    if batch.ways:
        routings = on_the_way(outputs.routings, batch.ways)
        figures |= {"routing_flips": flipped_share(outputs.routings, batch.ways)} if batch.is_fresh else {}
        figures["dead_experts"] = dead_share(routings)
    if reference is not None:
        some = Batch(batch.token_ids_BT[: settings.kl_rows], batch.weights_BT[: settings.kl_rows])
        kept_ids = batch.sampling.kept_ids[: sum(lengths[: settings.kl_rows])] if batch.sampling else ()
        with torch.no_grad():
            same = batch.sampling and batch.sampling._replace(kept_ids=kept_ids)
            reference_N = policy_outputs(reference, some, sampling=same).log_probs_N
        distance_N = divergence(reference_N - outputs.log_probs_N[: len(reference_N)])
        figures["kl"] = distance_N.mean().item()
        if settings.beta:
            gain_N = gain_N - settings.beta * distance_N
    total = -(gain_N * batch.weights_BT[:, 1:][is_learnt_BT]).sum() / batch.divisor
    return Loss(total, {**figures, "loss": total.item()}, routings)


def divergence(log_ratio_N: Tensor) -> Tensor:
    """e^d - d - 1 of each token: never negative, and on average the KL divergence."""
    return log_ratio_N.exp() - log_ratio_N - 1
