"""A task from elsewhere with its own grader: does what RL taught carry over? A family of `reasoning-gym`, an extra."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gorae.observe import Meter, replace_text
from gorae.recipes.measure import sample_completions
from gorae.recipes.run import load_chat_model
from gorae.recipes.settings import LaptopSettings
from gorae.text import Message, Mode, parse_reply

FAMILY = "chain_sum"
SHAPE: dict[str, int] = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
COMPARED = ("base", "rl", "student_distilled")


def measure_foreign_family(
    folder: Path, meter: Meter, *, models: dict[str, tuple[Path, Mode]], settings: LaptopSettings
) -> None:
    """Write `foreign.json`: the share of replies the family's own grader gives full marks, for each compared model."""
    result: dict[str, Any] = {"family": FAMILY, **SHAPE}
    if find_spec("reasoning_gym") is None:
        result["missing"] = "reasoning-gym was not installed; pip install 'gorae[reasoning-gym]' before the next run"
    else:
        items = settings.evaluate.items
        dataset = import_module("reasoning_gym").create_dataset(FAMILY, size=items, seed=0, **SHAPE)
        for name in COMPARED:
            result[name] = grade_family(dataset, meter, *models[name], settings=settings)
    replace_text(folder / "foreign.json", json.dumps(result, indent=2) + "\n")


def grade_family(dataset: Any, meter: Meter, path: Path, mode: Mode, *, settings: LaptopSettings) -> float:
    model = load_chat_model(path)
    entries = [dataset[place] for place in range(len(dataset))]
    questions = [entry["question"] for entry in entries]
    groups = sample_completions(model, meter, questions, 1, mode=mode, wanted=settings.evaluate)
    prompts = [model.tokenizer.encode_prompt([Message("user", question)], mode=mode) for question in questions]
    replies = [
        parse_reply(completion.text, prompt.mode, model.tokenizer.chat_format).content.strip()
        for (completion,), prompt in zip(groups, prompts, strict=True)
    ]
    full_marks = [dataset.score_answer(reply, entry) == 1.0 for reply, entry in zip(replies, entries, strict=True)]
    return sum(full_marks) / len(full_marks)
