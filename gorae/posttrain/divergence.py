"""How far a student is from its teacher at each token: the divergences that distillation minimises, in nats.

Both sides are log-probabilities [N, W] over one vocabulary; none of these functions changes which side has a gradient.
`in_chunks` computes them of features, a piece at a time. Knows no network.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 24  # numbers in the largest table of logits: 64 MB in float32


def forward_kl(student_NW: Tensor, teacher_NW: Tensor) -> Tensor:
    """KL(teacher ‖ student) = Σ p_teacher (log p_teacher - log p_student): to cover all that the teacher may say."""
    return (teacher_NW.exp() * (teacher_NW - student_NW)).sum(-1)


def reverse_kl(student_NW: Tensor, teacher_NW: Tensor) -> Tensor:
    """KL(student ‖ teacher): to say nothing that the teacher would not."""
    return forward_kl(teacher_NW, student_NW)


def top_k_kl(student_NW: Tensor, teacher_NW: Tensor, *, top_k: int) -> Tensor:
    """KL(teacher ‖ student) over the teacher's `top_k` likeliest tokens and one bucket that holds all others.

    A bucket, because it leaves a divergence between two distributions: never negative, never more than the whole one,
    and 0 where the student agrees on those tokens and on what is left. Without it the sum may be negative; with the top
    renormalised in its place, a student that gives the others half of everything loses nothing.
    """
    if top_k >= teacher_NW.shape[-1]:
        return forward_kl(student_NW, teacher_NW)
    chosen_NK = teacher_NW.topk(top_k).indices
    return forward_kl(*(bucketed(side_NW, chosen_NK) for side_NW in (student_NW, teacher_NW)))


def bucketed(log_probs_NW: Tensor, chosen_NK: Tensor) -> Tensor:
    """Log-probabilities [N, K + 1] of the chosen tokens, and of all others together."""
    others_N1 = log_probs_NW.scatter(-1, chosen_NK, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs_NW.gather(-1, chosen_NK), others_N1], dim=-1)


def sampled_reverse_kl(log_probs_N: Tensor, sampled_log_probs_N: Tensor, teacher_log_probs_N: Tensor) -> Tensor:
    """The policy gradient's form: r (log p_student - log p_teacher) of sampled tokens, no gradient in the brackets.

    r is the probability now over that when the token was sampled. Over tokens drawn from the student, value and
    gradient are on average those of `reverse_kl`; a single token's are not.
    """
    ratio_N = (log_probs_N - sampled_log_probs_N).exp()
    return ratio_N * (log_probs_N - teacher_log_probs_N).detach()


def in_chunks(measure: Callable[..., Tensor], *given: Tensor, vocab_size: int, most: int = CHUNK_LOGITS) -> Tensor:
    """`measure(*given)` of rows [N, ...], with at most `most` logits of `vocab_size` in a table, backward included.

    What a chunk computed is computed again for its gradient instead of being kept.
    """
    rows = max(1, most // vocab_size)
    if len(given[0]) <= rows:
        return measure(*given)
    pieces = zip(*(tensor.split(rows) for tensor in given), strict=True)
    done: list[Tensor] = [checkpoint(measure, *piece, use_reentrant=False) for piece in pieces]  # pyright: ignore
    return torch.cat(done)
