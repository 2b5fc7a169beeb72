"""Supervised fine-tuning: conversations whose replies are to be imitated, token for token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gorae.data import Loader
from gorae.train import Batch, pad_batch


@dataclass(frozen=True)
class Example:
    """Prompt ids, which are only read, and reply ids, which are learnt."""

    prompt_ids: list[int]
    reply_ids: list[int]


def example_batches(examples: Sequence[Example], *, batch_size: int, seed: int, pad_id: int) -> Callable[[int], Batch]:
    """The batch of any step: all examples in an order drawn anew each epoch from (seed, epoch) alone."""
    loader = Loader(len(examples), batch_size, seed=seed)

    def batch(step: int) -> Batch:
        chosen = [examples[place] for place in loader.batch(step)]
        return pad_batch([training_row(one.prompt_ids, one.reply_ids) for one in chosen], pad_id)

    return batch


def training_row(
    prompt_ids: list[int], reply_ids: list[int], weight: float = 1.0, *, is_learnt: Sequence[bool] | None = None
) -> tuple[list[int], list[float]]:
    """Token ids and weights of a conversation: the prompt weighs nothing, a token of the reply `weight`.

    is_learnt: which tokens of the reply do; the others weigh nothing. None: all.
    """
    weights = [weight] * len(reply_ids) if is_learnt is None else [weight * learnt for learnt in is_learnt]
    return prompt_ids + reply_ids, [0.0] * len(prompt_ids) + weights
