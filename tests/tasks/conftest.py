from textwrap import dedent

import pytest

from gorae.tasks import Graders, Limits, Reply


@pytest.fixture
def task_file(tmp_path):
    """Writes a task and returns its path."""

    def write(source: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text(dedent(source), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def graders(task_file):
    """Opens the graders of a task written there and then; they end with the test."""
    opened = []

    def open_(source: str, *, num_processes: int = 1, **limits: float) -> Graders:
        opened.append(Graders(task_file(source), num_processes=num_processes, limits=Limits(**limits)))
        return opened[-1]

    yield open_
    for one in opened:
        one.end()


@pytest.fixture
def replies():
    """Replies of these texts, which are all content."""
    return lambda *texts: [Reply(text, text, [1, 2]) for text in texts]
