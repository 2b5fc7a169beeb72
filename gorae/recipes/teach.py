"""The learning stages in which a teacher at hand judges every token: of its own replies, or of the student's.

Imitating what a teacher wrote, as text, is `fine_tune`. What the teacher computes is on the bill, and in `max_flops`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from gorae.checkpoint import save_model
from gorae.config import ModelConfig, forward_flops
from gorae.engine import Engine, SamplingParams
from gorae.observe import Meter, progress
from gorae.posttrain import (
    Example,
    FeatureCache,
    OnPolicyBatch,
    OnPolicySettings,
    logit_loss,
    on_policy_batch,
    on_policy_loss,
    require_same_tokens,
    rollouts_of,
    taught_batches,
    teacher_features,
    training_row,
)
from gorae.recipes.adapt import Rows, own_replies, some_examples, tuner
from gorae.recipes.batches import Questions, sample_replies
from gorae.recipes.compute import count_training
from gorae.recipes.run import ChatModel, load_chat_model
from gorae.recipes.settings import TuneSettings
from gorae.train import Batch, Schedule, pad_batch

ROWS = 16  # that a teacher reads at once


def distil_from_logits(
    folder: Path,
    meter: Meter,
    *,
    teacher: Path,
    start: Path,
    examples: Sequence[Example],
    wanted: TuneSettings,
    seed: int,
    top_k: int = 0,
    schedule: Schedule | None = None,
    max_flops: float = math.inf,
) -> None:
    """Learn at every token of the replies what the teacher would have said there, from the model in `start`.

    `top_k` is 0 for the whole vocabulary. Ends early when teacher and student have taken `max_flops` together.
    """
    model, taught = load_both(start, teacher)
    rows = partial(some_examples, examples, seed=seed)
    cache = keep_features(folder, meter, taught, examples)
    trainer = tuner(folder, model.network, wanted, seed=seed, rows=rows, schedule=schedule, flops=cache.flops)
    config = replace(model.config, num_mtp_modules=0)

    def count(batch: Batch) -> None:
        count_training(meter, config, batch)
        meter.add(flops=head_flops(taught.config, batch))

    batch = taught_batches(cache, batch_size=wanted.batch_size, seed=seed, pad_id=model.tokenizer.pad_id)
    loss = partial(logit_loss, teacher=taught.network, top_k=top_k)
    trainer.run(batch, loss, meter=meter, count=count, max_flops=max_flops)
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)


def distil_on_policy(
    folder: Path,
    meter: Meter,
    *,
    teacher: Path,
    start: Path,
    ask: Callable[[int], Questions],
    wanted: OnPolicySettings,
    seed: int,
    schedule: Schedule | None = None,
    max_flops: float = math.inf,
    prefix_cache: bool = False,
) -> None:
    """Learn from the teacher on replies of the student's own, from the model in `start`.

    `ask(n)` yields the n-th batch's questions, of which the first `wanted.num_prompts` are asked; what replies are
    worth is reported. Ends early when teacher and student have taken `max_flops` together. `prefix_cache` is for
    episodes, as in `reinforce`.
    """
    model, taught = load_both(start, teacher)
    engine = Engine(model, max_batch=wanted.num_prompts, prefix_cache=prefix_cache, count=meter.add)
    params = SamplingParams(max_tokens=wanted.max_tokens)

    def rows() -> Rows:
        return own_replies(engine, [model.tokenizer.encode_chat(one) for one in ask(0).conversations], params)

    def make_batch(step: int) -> OnPolicyBatch:
        questions = ask(step)
        groups = sample_replies(
            engine,
            questions.conversations[: wanted.num_prompts],
            questions.world,
            max_turns=wanted.max_turns,
            num_samples=1,
            params=params,
            seed=seed * 1_000_000 + step,
        )
        rollouts = rollouts_of(groups, questions.reward(groups, 0))
        return on_policy_batch(rollouts, taught.network, pad_id=model.tokenizer.pad_id)

    config = replace(model.config, num_mtp_modules=0)

    def count(batch: Batch) -> None:
        count_training(meter, config, batch)
        meter.add(flops=reading_flops(taught.config, batch) + head_flops(taught.config, batch), tokens=batch.num_tokens)

    trainer = tuner(folder, model.network, wanted, seed=seed, rows=rows, schedule=schedule)
    loss = partial(on_policy_loss, teacher=taught.network, estimator=wanted.estimator)
    trainer.run(make_batch, loss, meter=meter, count=count, max_flops=max_flops)
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)


def load_both(start: Path, teacher: Path) -> tuple[ChatModel, ChatModel]:
    """The student, to be trained, and the teacher, to be asked. Raises ValueError if their tokens are not the same."""
    taught = load_chat_model(teacher)
    taught.network.requires_grad_(False)
    model = load_chat_model(start, trainable=True)
    require_same_tokens(taught.tokenizer, model.tokenizer)
    widths = [one.config.vocab_size for one in (taught, model)]
    if widths[0] < widths[1]:
        raise ValueError(
            f"the teacher's head has {widths[0]} rows and the student's {widths[1]}, so the student may write what the "
            "teacher has no logit for; distil from traces"
        )
    return model, taught


def keep_features(folder: Path, meter: Meter, taught: ChatModel, examples: Sequence[Example]) -> FeatureCache:
    """Let the teacher read the examples that no killed attempt has left features of in `folder`."""
    cache = FeatureCache(folder, examples)
    missing = cache.missing()
    with progress(f"{folder.name}: reading", len(cache.blocks), done=len(cache.blocks) - len(missing)) as bar:
        for block in missing:
            cache.write(block, *read_block(meter, taught, cache.rows(block)))
            bar.advance(1)
    return cache


def read_block(meter: Meter, taught: ChatModel, examples: Sequence[Example]) -> tuple[list[Tensor], float]:
    """The features of each reply, and the FLOPs that reading took."""
    counted, features = meter.flops, []
    for first in range(0, len(examples), ROWS):
        some = examples[first : first + ROWS]
        batch = pad_batch([training_row(one.prompt_ids, one.reply_ids) for one in some], taught.tokenizer.pad_id)
        features += teacher_features(taught.network, batch).split([len(one.reply_ids) for one in some])
        meter.add(flops=reading_flops(taught.config, batch), tokens=batch.num_tokens)
    return features, meter.flops - counted


def reading_flops(config: ModelConfig, batch: Batch) -> float:
    """A forward pass over a batch up to the last hidden state, without the head."""
    context = batch.token_ids_BT.shape[1] / 2
    head = 2.0 * batch.num_tokens * config.vocab_size * config.model_dim
    return forward_flops(config, batch.num_tokens, context=context) - head


def head_flops(config: ModelConfig, batch: Batch) -> float:
    """The head, of the tokens that something is learnt from."""
    return 2.0 * int((batch.weights_BT != 0).sum()) * config.vocab_size * config.model_dim
