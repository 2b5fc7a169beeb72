"""Where tasks come from: a Python file, one of those that come with Gorae, rows of JSON, a family of `reasoning-gym`.

Loading one runs its code.
"""

import ast
import json
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from gorae.tasks.environment import awaited, tools_of
from gorae.tasks.suites import Form, form_of, told_forms
from gorae.tasks.task import RewardFunction, Row, Task

GYM = "reasoning_gym:"
READY = {path.stem: path for path in (Path(__file__).parent / "ready").glob("[a-z]*.py")}
_FORMS = f"a .py file, a .jsonl file, {GYM}FAMILY, or one of {', '.join(sorted(READY))}"


def load_task(source: str) -> Task:
    """The task in a file, the name of one in `ready`, or `reasoning_gym:FAMILY:setting=value,...`.

    A Python file has `rows`, a list or a function of a seed, and functions whose names begin with `reward`; also
    `reward_weights`, a dictionary (default: 1 each), and `oracle(row)`, the right answer (default: the row's `answer`);
    and maybe `environment_factory`, whose environments have tools to call, and rewards if they have `get_reward`.
    Lines of JSON have `prompt` and `answer`, and a reply's content must be the answer; or they are of a public suite
    that suites.py knows, and are judged as its answers are.

    Raises ValueError for anything else, and whatever a Python file raises.
    """
    if source.startswith(GYM):
        return _family(source.removeprefix(GYM))
    path = READY.get(source, Path(source))
    readers = {".py": _python, ".jsonl": _lines}
    if path.suffix not in readers:
        raise ValueError(f"{source} is no task; give {_FORMS}")
    if not path.is_file():
        raise ValueError(f"there is no file {source}; a task is {_FORMS}")
    return readers[path.suffix](path)


def _python(path: Path) -> Task:
    sys.path.insert(0, str(path.parent.resolve()))  # what lies beside it can be imported
    names = runpy.run_path(str(path))
    rewards = {name: found for name, found in names.items() if name.startswith("reward") and callable(found)}
    factory = names.get("environment_factory")
    environment = None if factory is None else factory()
    if hasattr(environment, "get_reward"):
        rewards["get_reward"] = reward_of_environment
    if factory is not None and not callable(getattr(environment, "reset", None)):
        raise ValueError(f"the environments of {path} have no method reset; it begins an episode")
    missing = [wanted for wanted, found in (("rows", names.get("rows")), ("a function reward", rewards)) if not found]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}; a task has rows and reward functions")
    weights = dict.fromkeys(rewards, 1.0) | names.get("reward_weights", {})
    if unknown := weights.keys() - rewards.keys():
        raise ValueError(f"reward_weights of {path} name {', '.join(sorted(unknown))}; it has {', '.join(rewards)}")
    tools = () if factory is None else tools_of(environment)
    return Task(path.stem, names["rows"], rewards, weights, names.get("oracle", answer_of), factory, tools)


def reward_of_environment(environments: Sequence[Any]) -> list[float | None]:
    return [awaited(environment.get_reward()) for environment in environments]


def _lines(path: Path) -> Task:
    rows: list[Row] = []
    form: Form | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is no JSON ({error})") from error
        columns = {name.lower(): value for name, value in row.items()} if isinstance(row, dict) else {}
        form = form or form_of(columns)
        if form is None or not columns.keys() >= set(form.columns):
            known = told_forms() if form is None else told_forms([form])
            raise ValueError(f"line {number} of {path} lacks columns; it needs {known}")
        rows.append(form.row(columns))
    if form is None:
        raise ValueError(f"{path} has no rows")
    name = form.reward.__name__
    return Task(path.stem, rows, {name: form.reward}, {name: 1.0}, answer_of)


def _family(wanted: str) -> Task:
    """Rows of a family, and its own grader without its crumbs: full marks or nothing."""
    family, _, settings = wanted.partition(":")
    if find_spec("reasoning_gym") is None:
        raise ValueError(f"{GYM}{wanted} needs reasoning-gym; pip install 'gorae[reasoning-gym]'")
    gym = import_module("reasoning_gym")
    shape = {key: ast.literal_eval(value) for key, _, value in (one.partition("=") for one in _split(settings))}

    def rows(seed: int) -> Iterable[Row]:
        dataset = gym.create_dataset(family, seed=seed, size=sys.maxsize, **shape)
        entries = (dataset[number] for number in count())
        return ({"prompt": entry["question"], "answer": entry["answer"], "entry": entry} for entry in entries)

    def reward_full_marks(contents: Sequence[str | None], entry: Sequence[Mapping[str, Any]]) -> list[float]:
        score: Callable[..., float] = gym.get_score_answer_fn(family)
        pairs = zip(contents, entry, strict=True)
        return [float(content is not None and score(content.strip(), row) == 1.0) for content, row in pairs]

    rewards: dict[str, RewardFunction] = {"reward_full_marks": reward_full_marks}
    return Task(family, rows, rewards, dict.fromkeys(rewards, 1.0), answer_of)


def answer_of(row: Row) -> str:
    if row.get("answer") is None:
        raise ValueError(f"a row has no answer ({dict(row)!r:.200}); give it one, or the task a function oracle(row)")
    return str(row["answer"])


def _split(settings: str) -> list[str]:
    return settings.split(",") if settings else []
