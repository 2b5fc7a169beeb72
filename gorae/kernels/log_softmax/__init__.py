"""The logarithm of the softmax: what the engine reports of a token, and what the trainer learns from."""

from jaxtyping import Bool, Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.log_softmax.cpu import log_softmax_cpu
from gorae.kernels.log_softmax.reference import log_softmax_reference


def log_softmax(logits: Float[Tensor, "*rows W"]) -> Float[Tensor, "*rows W"]:
    """x - max(x) - log Σ exp(x - max(x)), row by row; a row's bits do not depend on the other rows."""
    native = native_for(logits)
    return log_softmax_reference(logits) if native is None else log_softmax_cpu(native, logits)


def cut_log_softmax(
    scores: Float[Tensor, "N W"], temperatures: Float[Tensor, " N"], is_kept: Bool[Tensor, "N W"] | None = None
) -> Float[Tensor, "N W"]:
    """`log_softmax` of scores / temperature over the tokens that are kept (None: all); -inf for the others.

    Of log-probabilities as of logits. Engine and trainer both call this, for the same bits of what tokens are drawn
    from.
    """
    tempered = scores / temperatures[:, None]
    return log_softmax(tempered if is_kept is None else tempered.masked_fill(~is_kept, float("-inf")))
