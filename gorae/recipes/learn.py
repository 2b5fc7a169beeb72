"""The learning stages of a run: pretrain, fine-tune, reinforce, distil; each a batch, a loss, a count for the bill."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from gorae.checkpoint import save_model
from gorae.config import ModelConfig
from gorae.data import Loader
from gorae.engine import Engine, Output, SamplingParams
from gorae.model import Network
from gorae.observe import Meter, MetricsWriter, progress, replace_text
from gorae.posttrain import (
    Example,
    example_batches,
    keep_correct,
    sample_rollouts,
)
from gorae.recipes.adapt import some_examples, tuner
from gorae.recipes.batches import Questions
from gorae.recipes.compute import count_reading, count_training, flops_of
from gorae.recipes.corpus import chat_prompt, read_rows, sealed_items
from gorae.recipes.reinforce import reinforce
from gorae.recipes.run import load_chat_model
from gorae.recipes.settings import DistillSettings, LaptopSettings, PretrainSettings, TuneSettings
from gorae.tasks import Problem, draw_problems, grade_reply, reward_language
from gorae.text import GORAE, ChatFormat, Message, Tokenizer
from gorae.train import (
    Batch,
    HybridOptimizer,
    Trainer,
    bits_per_byte,
    pretraining_loss,
    supervised_loss,
)

MEASURE_EVERY = 100  # updates between two measurements on held-out text
HELD_OUT_ROWS = 64
MIXING = 0.5  # of the lines of a worked solution in words: a third of all is in another language than the problem
WORDS_TOKENS = 12  # that its words take, at most
SAMPLING_PROMPTS = 128  # prompts a teacher answers between two saves

GradeOne = Callable[[Problem, Output], float]


def pretrain(
    folder: Path, meter: Meter, *, prepared: Path, config: ModelConfig, wanted: PretrainSettings, seed: int
) -> None:
    """From random weights to a base model, on rows of text and rows of problems."""
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    network = Network(replace(config, vocab_size=tokenizer.vocab_size), seed=seed)
    num_text = round(wanted.batch_rows * wanted.text_share)
    shares = {"text": num_text, "problems": wanted.batch_rows - num_text}
    sources = {name: read_rows(prepared, name) for name in shares}
    loaders = {name: Loader(len(rows), shares[name], seed=seed) for name, rows in sources.items() if shares[name]}

    def make_batch(step: int) -> Batch:
        drawn = [sources[name][loader.batch(step)] for name, loader in loaders.items()]
        token_ids = torch.from_numpy(np.concatenate(drawn).astype(np.int64))
        return Batch(token_ids, (token_ids != tokenizer.pad_id).float())

    def describe(step: int) -> dict[str, float]:
        if (step + 1) % MEASURE_EVERY and step + 1 != wanted.steps:
            return {}
        held_out = read_rows(prepared, "held_out")[:HELD_OUT_ROWS]
        count_reading(meter, network.config, held_out)
        return {"val_bpb": bits_per_byte(network, held_out, tokenizer)}

    trainer = Trainer(
        folder.name,
        network,
        HybridOptimizer(network.named_parameters(), wanted.optimizer),
        wanted.schedule,
        folder,
        save_every=wanted.save_every,
        router_bias_rate=wanted.router_bias_rate,
    )
    loss = partial(pretraining_loss, mtp_weight=wanted.mtp_weight, balance_weight=wanted.balance_weight)
    count = partial(count_training, meter, network.config)
    trainer.run(make_batch, loss, meter=meter, count=count, describe=describe)
    save_model(folder / "model", network, tokenizer=tokenizer)


def fine_tune(
    folder: Path, meter: Meter, *, start: Path, examples: Sequence[Example], wanted: TuneSettings, seed: int
) -> None:
    """Imitate examples, from the model in `start`."""
    model = load_chat_model(start, trainable=True)
    rows = partial(some_examples, examples, seed=seed)
    trainer = tuner(folder, model.network, wanted, seed=seed, rows=rows)
    batch = example_batches(examples, batch_size=wanted.batch_size, seed=seed, pad_id=model.tokenizer.pad_id)
    config = replace(model.config, num_mtp_modules=0)
    trainer.run(batch, supervised_loss, meter=meter, count=partial(count_training, meter, config))
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)


def cold_start_examples(tokenizer: Tokenizer, settings: LaptopSettings) -> list[Example]:
    """Conversations of mixed quality: some with a worked solution, mistakes planted, others with the bare answer.

    With `cold_start.mixing` each line of a solution names its operation, in a language drawn at random that often.
    """
    random = Random(f"cold start/{settings.seed}")
    problems = draw_problems(f"cold start/{settings.seed}", sealed=sealed_items(settings.prepare).fingerprints)
    drawn = islice(problems, settings.cold_start.num_examples)
    return [cold_start_example(tokenizer, problem, random, settings) for problem in drawn]


def in_words_of(settings: LaptopSettings) -> LaptopSettings:
    """The settings, but for worked solutions whose lines name their operations, and the room that takes."""
    return replace(
        settings,
        cold_start=replace(settings.cold_start, mixing=MIXING),
        rl=replace(settings.rl, max_tokens=settings.rl.max_tokens + WORDS_TOKENS),
        evaluate=replace(settings.evaluate, max_tokens=settings.evaluate.max_tokens + WORDS_TOKENS),
    )


def cold_start_example(tokenizer: Tokenizer, problem: Problem, random: Random, settings: LaptopSettings) -> Example:
    wanted = settings.cold_start
    if random.random() < wanted.think_share:
        reasoning, answer = problem.worked_solution(random, mistake_rate=settings.prepare.mistake_rate)
        if wanted.mixing is not None:
            reasoning = problem.in_words(reasoning, random, mixing=wanted.mixing)
        reply = Message("assistant", answer, reasoning)
    else:
        reply = Message("assistant", problem.answer)
    return Example(chat_prompt(tokenizer, problem), tokenizer.encode_reply(reply))


def reward_by_grade(problem: Problem, output: Output, *, chat_format: ChatFormat = GORAE) -> float:
    """The verifiable reward: exact answer and format; a reply cut off at the length limit has neither."""
    return grade_reply(problem, output.text, chat_format=chat_format).reward if output.finish_reason == "stop" else 0.0


def reward_in_one_language(problem: Problem, output: Output) -> float:
    """The same and, as R1 added it (arXiv 2501.12948), the share of the reply's letters in the problem's language."""
    (share,) = reward_language([output.text], [problem.language])
    return reward_by_grade(problem, output) + (share or 0.0)


def reward_at_random(_: Problem, output: Output) -> float:
    """The control: a coin that knows nothing of the reply, thrown from its tokens' log-probabilities."""
    return float(Random(repr(output.logprobs)).random() < 0.5)


def reinforce_on_counter(
    folder: Path, meter: Meter, *, settings: LaptopSettings, grade: GradeOne = reward_by_grade, **options: Any
) -> None:
    """`reinforce` on fresh problems about the counter."""
    ask = partial(counter_questions, settings, f"{folder.name}/{settings.seed}", settings.rl.most_prompts, grade)
    reinforce(folder, meter, ask=ask, wanted=settings.rl, seed=settings.seed, **options)


def counter_questions(settings: LaptopSettings, name: str, count: int, grade: GradeOne, batch: int) -> Questions:
    """Problems about the counter that a batch may ask, drawn from `name` and its number, none of them sealed."""
    drawn = draw_problems(f"{name}/{batch}", sealed=sealed_items(settings.prepare).fingerprints)
    problems = list(islice(drawn, count))
    return Questions(
        [[Message("user", problem.prompt)] for problem in problems],
        lambda groups, first: [
            [grade(problems[number], output) for output in group] for number, group in enumerate(groups, first)
        ],
    )


def sample_teacher(
    folder: Path, meter: Meter, *, teacher: Path, settings: LaptopSettings, wanted: DistillSettings
) -> None:
    """Let the teacher answer, and keep its correct replies in `traces-*.jsonl`, a file a chunk of prompts."""
    model = load_chat_model(teacher)
    engine = Engine(model, prefix_cache=False, count=meter.add)
    sealed = sealed_items(settings.prepare).fingerprints
    problems = list(islice(draw_problems(f"distill/{settings.seed}", sealed=sealed), wanted.num_prompts))
    done = len(list(folder.glob("traces-*.jsonl")))
    with (
        MetricsWriter(folder, name="metrics", resume_step=done) as metrics,
        progress(folder.name, len(problems), done=min(done * SAMPLING_PROMPTS, len(problems)), unit="prompt") as bar,
    ):
        flops = flops_of(folder)
        for number, first in list(enumerate(range(0, len(problems), SAMPLING_PROMPTS)))[done:]:
            chunk, counted = problems[first : first + SAMPLING_PROMPTS], meter.flops
            rollouts = sample_rollouts(
                engine,
                [chat_prompt(model.tokenizer, problem) for problem in chunk],
                lambda number, output, chunk=chunk: reward_by_grade(chunk[number], output),
                num_samples=wanted.num_samples,
                params=SamplingParams(max_tokens=settings.rl.max_tokens),
                seed=settings.seed * 1_000_000 + first,
            )
            kept = keep_correct(rollouts, min_reward=1.0)
            flops += meter.flops - counted
            metrics.write(number, flops=flops, kept=len(kept) / len(rollouts))
            # Last, since a chunk is done when its file is there.
            write_traces(folder, number, kept)
            bar.advance(len(chunk), kept=len(kept) / len(rollouts))


def write_traces(folder: Path, number: int, examples: Sequence[Example]) -> None:
    replace_text(folder / f"traces-{number:06}.jsonl", "".join(json.dumps(vars(one)) + "\n" for one in examples))


def read_traces(folder: Path) -> list[Example]:
    lines = [line for path in sorted(folder.glob("traces-*.jsonl")) for line in path.read_text().splitlines()]
    if not lines:
        raise ValueError(f"the teacher gave no correct answer ({folder}); train it longer, or sample more prompts")
    return [Example(**json.loads(line)) for line in lines]
