"""Rows of JSON as people have them: prompts and answers, and the files of public suites, known by their columns.

Nouns: a Form, the columns that tell a file, how one of its rows becomes ours, and the function that rewards replies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gorae.tasks.rewards import reward_code, reward_exact, reward_math
from gorae.tasks.task import RewardFunction, Row


class Form(NamedTuple):
    """`told` names what has such columns."""

    columns: tuple[str, ...]
    row: Callable[[Mapping[str, Any]], Row]
    reward: RewardFunction
    told: str


def _of_humaneval(row: Mapping[str, Any]) -> Row:
    asked = f"Complete this Python function and answer with the whole of it.\n\n```python\n{row['prompt'].strip()}\n```"
    tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
    return {**row, "prompt": asked, "tests": tests, "answer": row["prompt"] + row.get("canonical_solution", "")}


def _of_gsm8k(row: Mapping[str, Any]) -> Row:
    """The answer stands behind the solution and `####`."""
    return {
        **row,
        "prompt": row["question"],
        "answer": str(row["answer"]).rpartition("####")[2].strip().replace(",", ""),
    }


FORMS = (
    Form(("prompt", "test", "entry_point"), _of_humaneval, reward_code, "HumanEval"),
    Form(("prompt", "answer"), dict, reward_exact, "prompts and answers"),
    Form(("problem", "answer"), lambda row: {**row, "prompt": row["problem"]}, reward_math, "MATH-500 and AIME"),
    Form(("question", "answer"), _of_gsm8k, reward_math, "GSM8K"),
)


def form_of(row: Mapping[str, Any]) -> Form | None:
    """The first form whose columns a row has."""
    return next((form for form in FORMS if row.keys() >= set(form.columns)), None)


def told_forms(forms: Sequence[Form] = FORMS) -> str:
    return "; ".join(f"{', '.join(form.columns)} ({form.told})" for form in forms)
