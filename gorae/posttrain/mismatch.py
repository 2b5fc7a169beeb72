"""What a mismatch of sampler and trainer does to a policy gradient, and what correcting it by weights does.

Nouns: a log-ratio, the trainer's log-probability of a sampled token minus the sampler's; a weight, which a token's
gradient is multiplied by; a Mismatch, all figures of some replies. Arithmetic on numbers; knows no network.

Wanted is the gradient of the trainer's own policy, E over its replies of A · ∇log p. The replies are the sampler's.
With the ratio of the whole reply as the weight of each of its tokens both are equal; any other weight has a bias.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST, LEAST = 2.0, 0.5  # of a weight
CORRECTIONS = ("none", "tis_tokens", "tis_sequences", "mis_tokens", "mis_sequences")
WORTH_IT = 0.95  # of the error without correction, where one is to be recommended
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Correction:
    """How wrong weights make a gradient, in units of the largest there can be with advantages and ∇log p of size 1.

    bias: what the gradient of endless replies is wrong by, at most. noise: the deviation of that of one step, at most.
    Both hold for the mean over replies of the mean over tokens, whatever is rewarded.
    """

    bias: float
    noise: float

    @property
    def error(self) -> float:
        return math.hypot(self.bias, self.noise)


@dataclass(frozen=True)
class Mismatch:
    """Of replies that one side sampled and the other scored.

    kl: of sampler from trainer, nats a token, by e^d - d - 1. ratio_quantiles: of the tokens' ratios, at `QUANTILES`.
    token_share, sequence_share: effective sample size over the size, of ratios of tokens and of whole replies.
    clipped_share: tokens whose ratio lies outside the interval that a step clips to.
    """

    num_sequences: int
    num_tokens: int
    mean_difference: float
    max_difference: float
    kl: float
    ratio_quantiles: tuple[float, ...]
    token_share: float
    sequence_share: float
    clipped_share: float
    corrections: dict[str, Correction]

    @property
    def is_exact(self) -> bool:
        return self.max_difference == 0

    @property
    def best(self) -> str:
        """The correction with the smallest error of a step; "none" where it is hardly smaller than without."""
        name = min(self.corrections, key=lambda name: self.corrections[name].error)
        is_worth_it = self.corrections[name].error < WORTH_IT * self.corrections["none"].error
        return name if is_worth_it else "none"


def truncated(log_ratio: Tensor, *, most: float = MOST) -> Tensor:
    """Truncated importance sampling, TIS: the ratio, but `most` at most."""
    return log_ratio.clamp(max=math.log(most)).exp()


def masked(log_ratio: Tensor, *, least: float = LEAST, most: float = MOST) -> Tensor:
    """Masked importance sampling, MIS: the ratio, but 0 where it does not lie between `least` and `most`."""
    is_kept = (log_ratio >= math.log(least)) & (log_ratio <= math.log(most))
    return torch.where(is_kept, log_ratio.exp(), 0.0)


def of_sequences(log_ratio_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """At every token the log-ratio of its whole reply; the replies' tokens stand one after the other."""
    sums = torch.stack([part.sum() for part in log_ratio_N.split(list(lengths))])
    return sums.repeat_interleave(torch.tensor(lengths, device=sums.device))


def correction_weights(correction: str, log_ratio_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """What tokens of replies of these lengths are weighted by: 1, or by TIS or MIS of the token or of its reply."""
    kind, _, unit = correction.partition("_")
    if kind == "none":
        return torch.ones_like(log_ratio_N)
    log_ratio_N = of_sequences(log_ratio_N, lengths) if unit == "sequences" else log_ratio_N
    return truncated(log_ratio_N) if kind == "tis" else masked(log_ratio_N)


def measure_mismatch(
    sampled: Sequence[Sequence[float]],
    scored: Sequence[Sequence[float]],
    *,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    num_replies: int = 192,
) -> Mismatch:
    """Compare the log-probabilities that sampler and trainer give to the same tokens, reply by reply.

    A step of GRPO clips to [1 - epsilon, 1 + epsilon_high] and has `num_replies`. Raises ValueError where the two do
    not match, and for a log-probability that is not finite.
    """
    lengths = [len(reply) for reply in sampled]
    if not lengths or not all(lengths) or lengths != [len(reply) for reply in scored]:
        raise ValueError(
            f"replies of {lengths} sampled and {[len(reply) for reply in scored]} scored tokens can not be compared; "
            "give both sides' log-probabilities of the same tokens, at least one a reply"
        )
    sampled_N, scored_N = (
        torch.tensor([one for reply in side for one in reply], dtype=torch.float64) for side in (sampled, scored)
    )
    for name, values in (("sampler", sampled_N), ("trainer", scored_N)):
        if not values.isfinite().all():
            raise ValueError(
                f"the {name} gives a sampled token the log-probability {values[~values.isfinite()][0].item()}, which "
                "has no ratio; sample from the whole softmax, without top_k, top_p or a grammar"
            )
    log_ratio_N = scored_N - sampled_N
    ratio_N, of_replies_N = log_ratio_N.exp(), of_sequences(log_ratio_N, lengths)
    is_first_N = torch.zeros(len(log_ratio_N), dtype=torch.bool)
    is_first_N[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    low, high = 1 - epsilon, 1 + epsilon_high
    return Mismatch(
        num_sequences=len(lengths),
        num_tokens=len(log_ratio_N),
        mean_difference=log_ratio_N.abs().mean().item(),
        max_difference=log_ratio_N.abs().max().item(),
        kl=(log_ratio_N.expm1() - log_ratio_N).mean().item(),
        ratio_quantiles=tuple(ratio_N.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()),
        token_share=effective_share(log_ratio_N),
        sequence_share=effective_share(of_replies_N[is_first_N]),
        clipped_share=((ratio_N < low) | (ratio_N > high)).double().mean().item(),
        corrections={
            name: judge(weights, of_replies_N, lengths, num_replies=num_replies)
            for name, weights in weightings(log_ratio_N, of_replies_N, low=low, high=high).items()
        },
    )


def weightings(log_ratio_N: Tensor, of_replies_N: Tensor, *, low: float, high: float) -> dict[str, list[Tensor]]:
    """What tokens can be weighted by. GRPO's clipping weighs by the sign of the advantage, so it has two weightings."""
    ratio_N = log_ratio_N.exp()
    return {
        "none": [torch.ones_like(ratio_N)],
        "GRPO's clipping": [torch.where(ratio_N <= high, ratio_N, 0.0), torch.where(ratio_N >= low, ratio_N, 0.0)],
        "TIS, tokens": [truncated(log_ratio_N)],
        "TIS, sequences": [truncated(of_replies_N)],
        "MIS, tokens": [masked(log_ratio_N)],
        "MIS, sequences": [masked(of_replies_N)],
    }


def judge(
    weightings: Sequence[Tensor], of_replies_N: Tensor, lengths: Sequence[int], *, num_replies: int
) -> Correction:
    """The mean over these weightings of E|c - w| and of the root of E[c²] over the step's replies.

    c is a weight and w the reply's ratio. Since the sampler's mean of w is 1, E|c - w| = E[2·max(c - w, 0) - c] + 1:
    a rare reply of great ratio, which few samples do not have, is not needed. Below 0 it is an estimate's error.
    """
    share_N = torch.cat([torch.full((length,), 1 / length, dtype=torch.float64) for length in lengths]) / len(lengths)
    ratio_N = of_replies_N.exp()
    biases = [((2 * (c - ratio_N).clamp(min=0) - c) * share_N).sum().item() + 1 for c in weightings]
    squares = [(c.square() * share_N).sum().item() / num_replies for c in weightings]
    return Correction(max(0.0, sum(biases) / len(biases)), math.sqrt(sum(squares) / len(squares)))


def effective_share(log_weight_N: Tensor) -> float:
    """Effective sample size over the size: (Σw)² / (N·Σw²), 1 where all weights are equal."""
    log_size = 2 * log_weight_N.logsumexp(0) - (2 * log_weight_N).logsumexp(0)
    return min(1.0, log_size.exp().item() / len(log_weight_N))
