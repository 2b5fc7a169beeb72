"""Tasks as users have them: Python files, lines of JSON, families of reasoning-gym."""

import json
from importlib.util import find_spec
from itertools import islice

import pytest

from gorae.tasks import Reply, load_task, protections, read

SUM = """
    from random import Random

    def rows(seed):
        random = Random(seed)
        while True:
            a, b = random.randrange(100), random.randrange(100)
            yield {"prompt": f"{a}+{b}", "answer": str(a + b)}

    def reward(contents, answer):
        return [float(content == right) for content, right in zip(contents, answer)]
"""


def answered(task, row, text: str, content: str | None = None):
    (given,) = task.reward([row], [Reply(text, text if content is None else content, [5])])
    return given


def test_a_python_file_of_ten_lines_is_a_task(task_file):
    task = load_task(task_file(SUM))
    first, second = islice(task.draw(3), 2)
    assert [first, second] == list(islice(task.draw(3), 2)) != list(islice(task.draw(4), 2))
    assert answered(task, first, task.oracle(first)) == {"reward": 1.0}
    assert answered(task, first, "no") == {"reward": 0.0}
    assert task.total({"reward": 1.0}) == 1.0


def test_a_reward_function_gets_what_trl_gives_it(task_file):
    task = load_task(
        task_file("""
        rows = [{"prompt": "p", "level": 3}, {"prompt": [{"role": "user", "content": "q"}], "other": 1}]
        def reward_all(prompts, completions, **columns):
            assert prompts == ["p", [{"role": "user", "content": "q"}]], prompts
            assert completions == ["x", [{"role": "assistant", "content": "<think>y"}]], completions
            assert columns["level"] == [3, None] and columns["other"] == [None, 1], columns
            assert columns["completion_ids"] == [[1], [2, 3]], columns
            assert columns["contents"] == ["x", None], columns
            return [0.25, 0.5]
        async def reward_waiting(level, **_):
            return [None if one is None else float(one) for one in level]
        """)
    )
    given = task.reward(list(task.rows), [Reply("x", "x", [1]), Reply("<think>y", None, [2, 3])])
    assert given == [{"reward_all": 0.25, "reward_waiting": 3.0}, {"reward_all": 0.5, "reward_waiting": None}]
    assert [task.total(one) for one in given] == [3.25, 0.5]


def test_rewards_are_added_up_by_their_weights_and_what_does_not_apply_is_left_out(task_file):
    task = load_task(
        task_file("""
        rows = [{"prompt": "p"}]
        reward_weights = {"reward_format": 0.1}
        def reward_format(completions): return [1.0 for _ in completions]
        def reward_never(completions): return [None for _ in completions]
        """)
    )
    given = answered(task, {"prompt": "p"}, "x")
    assert task.total(given) == pytest.approx(0.1)
    assert task.total({"reward_never": None}) is None


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[1.0, 2.0]", r"reward returned \[1.0, 2.0\] for 1 replies; return a list of as many numbers"),
        ("3", "reward returned 3 for 1 replies"),
        ("['good']", "reward returned 'good' for a reply; return a finite number, or None"),
        ("[float('nan')]", "reward returned nan for a reply"),
    ],
)
def test_what_is_no_list_of_numbers_is_no_reward(task_file, returned, told):
    task = load_task(task_file(f"rows = [{{'prompt': 'p'}}]\ndef reward(completions): return {returned}"))
    with pytest.raises(ValueError, match=told):
        answered(task, {"prompt": "p"}, "x")


def test_what_lies_beside_a_task_can_be_imported(task_file):
    task_file("LEVEL = 7", "beside_the_task.py")
    task = load_task(
        task_file("""
        from beside_the_task import LEVEL
        rows = [{"prompt": "p"}]
        def reward(completions): return [LEVEL] * len(completions)
        """)
    )
    assert answered(task, {"prompt": "p"}, "x") == {"reward": 7.0}


def test_a_list_is_gone_through_in_an_order_drawn_anew_each_time(task_file):
    rows = [{"prompt": f"q{number}", "answer": number} for number in range(20)]
    task = load_task(task_file("\n".join(map(json.dumps, rows)), "rows.jsonl"))
    drawn = list(islice(task.draw(0), 60))
    for epoch in range(3):
        some = drawn[20 * epoch : 20 * (epoch + 1)]
        assert sorted(row["answer"] for row in some) == list(range(20))
    assert drawn[:20] != drawn[20:40] != rows
    assert answered(task, rows[7], " 7\n") == {"reward_exact": 1.0}
    assert answered(task, rows[7], "17") == {"reward_exact": 0.0}


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        (
            "a.txt",
            "",
            "a.txt is no task; give a .py file, a .jsonl file, reasoning_gym:FAMILY, or one of all_tasks, arithmetic",
        ),
        ("a.py", "rows = [1]", "a.py has no a function reward; a task has rows and reward functions"),
        ("a.py", "def reward(): pass", "a.py has no rows; a task has"),
        ("a.py", "rows = [1]\ndef reward(): 0\nreward_weights = {'x': 1}", "reward_weights of .*a.py name x; it has"),
        ("a.jsonl", "{", "line 1 of .*a.jsonl is no JSON"),
        (
            "a.jsonl",
            '{"prompt": "p", "answer": 1}\n{"prompt": "p"}',
            "line 2 of .* lacks columns; it needs prompt, answer .prompts and answers.",
        ),
        (
            "a.jsonl",
            '{"text": "p"}',
            "line 1 of .* lacks columns; it needs prompt, test, entry_point .HumanEval.; prompt",
        ),
        ("a.jsonl", "", "a.jsonl has no rows"),
    ],
)
def test_what_is_no_task_is_refused_with_what_is_missing(task_file, name, source, told):
    with pytest.raises(ValueError, match=told):
        load_task(task_file(source, name))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"there is no file nowhere\.py; a task is"):
        load_task("nowhere.py")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("[{'question': 'p'}]", "must be a dictionary with a prompt"),
        ("lambda seed: []", "came to an end; yield without end"),
    ],
)
def test_rows_without_a_prompt_or_with_an_end_are_refused(task_file, rows, told):
    task = load_task(task_file(f"rows = {rows}\ndef reward(completions): return []"))
    with pytest.raises(ValueError, match=told):
        next(task.draw(0))


def test_a_row_without_an_answer_says_that_an_oracle_is_missing(task_file):
    task = load_task(task_file("rows = [{'prompt': 'p'}]\ndef reward(completions): return []"))
    with pytest.raises(ValueError, match=r"a row has no answer .*; give it one, or the task a function oracle\(row\)"):
        task.oracle({"prompt": "p"})


class PretendedGym:
    """Stands in for reasoning-gym, an extra: graders that give crumbs."""

    def create_dataset(self, family, *, seed, size, **shape):
        assert (family, shape) == ("sums", {"terms": 3, "wide": True})
        return [{"question": f"{seed}+{n}", "answer": str(seed + n), "metadata": {}} for n in range(min(size, 50))]

    def get_score_answer_fn(self, _):
        return lambda answer, entry: 1.0 if answer == entry["answer"] else 0.05


def test_a_family_is_drawn_with_its_settings_and_its_crumbs_count_nothing(monkeypatch):
    monkeypatch.setattr(read, "find_spec", lambda name: name)
    monkeypatch.setattr(read, "import_module", lambda name: PretendedGym())
    task = load_task("reasoning_gym:sums:terms=3,wide=True")
    first, second = islice(task.draw(4), 2)
    assert (first["prompt"], second["prompt"], task.oracle(second)) == ("4+0", "4+1", "5")
    assert answered(task, second, "5") == {"reward_full_marks": 1.0}
    assert answered(task, second, "6") == {"reward_full_marks": 0.0}


def test_a_family_without_the_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(read, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"reasoning_gym:sums needs reasoning-gym; pip install 'gorae\[reasoning-gym\]'"
    ):
        load_task("reasoning_gym:sums")


@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is an extra")
def test_a_family_of_reasoning_gym_gives_full_marks_or_nothing():
    task = load_task("reasoning_gym:countdown:min_numbers=3,max_numbers=3")
    row = next(task.draw(1))
    assert answered(task, row, task.oracle(row)) == {"reward_full_marks": 1.0}
    assert answered(task, row, "1") == {"reward_full_marks": 0.0}, "its own grader gives 0.05"
    assert next(task.draw(1)) == row != next(task.draw(2))


def lines(*rows: dict) -> str:
    return "\n".join(map(json.dumps, rows))


def test_gsm8k_is_known_by_its_columns_and_judged_by_the_number_behind_its_solution(task_file):
    row = {"question": "How many legs have 250 cats?", "answer": "250 * 4 = <<250*4=1000>>1000 legs.\n#### 1,000"}
    task = load_task(task_file(lines(row), "gsm8k.jsonl"))
    (found,) = task.rows
    assert (found["prompt"], task.oracle(found)) == (row["question"], "1000")
    assert answered(task, found, "So there are 1000 legs.") == {"reward_math": 1.0}
    assert answered(task, found, "So there are 250 legs.") == {"reward_math": 0.0}


@pytest.mark.parametrize("columns", [("problem", "answer"), ("Problem", "Answer")])
def test_math_500_and_aime_are_judged_as_mathematics(task_file, columns):
    row = dict(zip(columns, ("What is $1/2 + 1/4$?", r"\frac{3}{4}"), strict=True)) | {"subject": "Prealgebra"}
    task = load_task(task_file(lines(row), "math.jsonl"))
    (found,) = task.rows
    assert found["prompt"] == "What is $1/2 + 1/4$?"
    assert answered(task, found, r"The sum is \boxed{0.75}.") == {"reward_math": 1.0}
    assert answered(task, found, r"The sum is \boxed{0.7}.") == {"reward_math": 0.0}


@pytest.mark.skipif(not protections().enough, reason=str(protections()))
def test_humaneval_is_judged_by_its_tests_in_the_sandbox(task_file):
    row = {
        "task_id": "Whale/0",
        "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n",
    }
    task = load_task(task_file(lines(row), "humaneval.jsonl"))
    (found,) = task.rows
    assert "def double(x: int)" in found["prompt"]
    assert answered(task, found, task.oracle(found)) == {"reward_code": 1.0}
    assert answered(task, found, "```python\ndef double(x):\n    return x + 2\n```") == {"reward_code": 0.0}
