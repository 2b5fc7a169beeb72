"""The measuring stage: sealed items put to a model through the engine, one summary file a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gorae.engine import Engine, SamplingParams
from gorae.evals import evaluate
from gorae.observe import Ledger, Meter, progress, replace_text
from gorae.recipes.corpus import sealed_items
from gorae.recipes.run import ChatModel, load_chat_model, set_up_process
from gorae.recipes.settings import EvaluateSettings, LaptopSettings
from gorae.tasks import Grade, Problem, SealedItems, grade_reply
from gorae.text import Message, Mode


@dataclass(frozen=True)
class Completion:
    text: str
    num_tokens: int


def measure(folder: Path, meter: Meter, *, models: dict[str, tuple[Path, Mode]], settings: LaptopSettings) -> None:
    """Write `<name>.json` for every model; those already there were measured by an attempt that was killed."""
    files = {name: folder / f"{name}.json" for name in models}
    missing = [name for name, file in files.items() if not file.exists()]
    with progress(folder.name, len(models), done=len(models) - len(missing), unit="model") as bar:
        for name in missing:
            path, mode = models[name]
            summary = evaluate_model(load_chat_model(path), meter, settings=settings, mode=mode)
            replace_text(files[name], json.dumps(summary, indent=2) + "\n")
            bar.advance(**{name: summary["pass_at_1"]})


def evaluate_model(model: ChatModel, meter: Meter, *, settings: LaptopSettings, mode: Mode) -> dict[str, Any]:
    """pass@1 and majority on the sealed items, replies sampled at temperature 1 and top_p 1 from fixed seeds."""
    wanted = settings.evaluate
    items = sealed_items(settings.prepare).problems[: wanted.items]

    def grade(problem: Problem, text: str) -> Grade:
        prompt = model.tokenizer.encode_prompt([Message("user", problem.prompt)], mode=mode)
        return grade_reply(problem, text, mode=prompt.mode, chat_format=model.tokenizer.chat_format)

    def complete(prompts: list[str], samples: int) -> list[list[Completion]]:
        return sample_completions(model, meter, prompts, samples, mode=mode, wanted=wanted)

    summary = evaluate(items, complete, grade, samples=wanted.samples).as_dict()
    return summary | {"items_sha256": SealedItems(tuple(items)).sha256}


def evaluate_folder(path: Path, settings: LaptopSettings, *, mode: Mode) -> dict[str, Any]:
    """The same measurement of any model folder, on no run's bill."""
    set_up_process(settings.threads)
    with TemporaryDirectory() as folder, Ledger(folder).stage("evaluate") as meter:
        return evaluate_model(load_chat_model(path), meter, settings=settings, mode=mode)


def sample_completions(
    model: ChatModel, meter: Meter, prompts: Sequence[str], samples: int, *, mode: Mode, wanted: EvaluateSettings
) -> list[list[Completion]]:
    chats = [model.tokenizer.encode_chat([Message("user", prompt)], mode=mode) for prompt in prompts]
    repeated = [chat for chat in chats for _ in range(samples)]
    params = [SamplingParams(max_tokens=wanted.max_tokens, seed=place) for place in range(len(repeated))]
    outputs = Engine(model, prefix_cache=False, count=meter.add).generate(repeated, params)
    # A reply cut off at the length limit gave no answer, whatever its text ends in.
    texts = [output.text if output.finish_reason == "stop" else "" for output in outputs]
    completions = [Completion(text, len(output.token_ids)) for text, output in zip(texts, outputs, strict=True)]
    return [completions[first : first + samples] for first in range(0, len(completions), samples)]


def read_summaries(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
