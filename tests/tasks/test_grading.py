"""Graders in processes: an error is an error, never a reward of 0, and nothing a grader does ends the run."""

import os
import re
import subprocess
import sys
import time

import pytest

from gorae.tasks import GraderError, Graders, Limits

WILD = """
    import os, subprocess, sys, time

    rows = [{"prompt": f"q{number}", "answer": str(number)} for number in range(10)]
    tries = 0

    def reward(completions, answer):
        return [grade(text, right) for text, right in zip(completions, answer)]

    def grade(text, right):
        global tries
        if text == "raise": raise RuntimeError("no\\nway")
        if text == "leave": sys.exit(0)
        if text == "hang": time.sleep(1000)
        if text == "spin":
            while True: pass
        if text == "die": os._exit(3)
        if text == "eat": bytearray(1 << 40)
        if text == "print": print("hello", flush=True)
        if text == "once":
            tries += 1
            if tries < 3: raise RuntimeError("not yet")
            return 1.0
        return float(text == right)
"""


def test_rewards_come_back_in_the_order_of_replies_whatever_the_number_of_processes(graders, replies):
    given = []
    for num_processes in (1, 3):
        one = graders(WILD, num_processes=num_processes)
        rows = one.rows(0, 0, 7)
        groups = [replies(*[str(number) for number in range(10)]) for _ in rows[:6]]
        given.append(one.grade(rows, [*groups, []]))
    assert given[0] == given[1]
    for row, verdicts in zip(rows, given[0], strict=True):
        assert [verdict.reward for verdict in verdicts] == [
            float(str(n) == row["answer"]) for n in range(len(verdicts))
        ]
    assert [len(verdicts) for verdicts in given[0]] == [10] * 6 + [0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise", "RuntimeError: no way, .*mine.py:12"),
        ("leave", "SystemExit: 0"),
        ("hang", "it took too long and was ended"),
        ("spin", "it took too long and was ended"),
        ("die", "its process ended with status 3"),
        ("eat", "MemoryError"),
    ],
)
def test_a_grader_that_fails_on_a_reply_makes_an_error_of_it_and_of_no_other(graders, replies, text, told):
    one = graders(WILD, seconds=1.0 if text in ("hang", "spin") else 30.0)
    rows = one.rows(0, 0, 2)
    right = rows[0]["answer"]
    (first, failed, last), other = one.grade(rows, [replies(right, text, "no"), replies(rows[1]["answer"])])
    assert (first.reward, last.reward, other[0].reward) == (1.0, 0.0, 1.0)
    assert failed.reward is None
    assert re.search(told, failed.error or "")


def test_what_fails_once_is_tried_again(graders, replies):
    one = graders(WILD)
    (verdicts,) = one.grade(one.rows(0, 0, 1), [replies("once", "no")])
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]


def test_what_a_grader_prints_does_not_reach_its_answers(graders, replies, capfd):
    one = graders(WILD)
    ((verdict,),) = one.grade(one.rows(0, 0, 1), [replies("print")])
    assert verdict.reward == 0.0
    assert "hello" in capfd.readouterr().err


def test_no_process_is_left_behind_by_graders_nor_by_what_they_start(graders, replies, tmp_path):
    one = graders(f"""
        import subprocess
        rows = [{{"prompt": "p"}}]
        def reward(completions):
            started = subprocess.Popen(["sleep", "1000"])
            open({str(tmp_path / "started")!r}, "w").write(str(started.pid))
            return [0.0]
    """)
    one.grade(one.rows(0, 0, 1), [replies("x")])
    started = int((tmp_path / "started").read_text())
    one.end()
    assert ends(started)
    assert one.processes[0].process.poll() is not None


def test_a_grader_that_hangs_ends_with_a_run_that_is_killed(task_file, tmp_path):
    source = task_file(f"""
        import os, time
        open({str(tmp_path / "grader")!r}, "w").write(str(os.getpid()))
        rows = [{{"prompt": "p"}}]
        def reward(completions): time.sleep(1000)
    """)
    program = "import sys; from gorae.tasks import *; one = Graders(sys.argv[1]); print('begun', flush=True); "
    program += "one.grade(one.rows(0, 0, 1), [[Reply('x', 'x')]])"
    with subprocess.Popen([sys.executable, "-c", program, source], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"begun\n"
        run.kill()
    assert ends(int((tmp_path / "grader").read_text()))


def test_rows_that_can_not_be_sent_are_an_error(graders):
    one = graders("rows = [{'prompt': 'p', 'how': lambda: 0}]\ndef reward(completions): return [0.0]")
    with pytest.raises(GraderError, match="pickle"):
        one.rows(0, 0, 1)
    assert one.num_rows() == 1


def test_rows_that_are_all_kept_to_measure_on_say_so(graders):
    one = graders(WILD)
    sealed = frozenset(f'"{row["prompt"]}"' for row in one.rows(0, 0, 10))
    for _ in range(2):
        with pytest.raises(GraderError, match=r"10000 rows of mine in a row are among the 10 kept"):
            one.rows(0, 0, 1, without=sealed)


def test_rows_do_not_go_on_among_others_than_before(graders):
    one = graders(WILD)
    drawn = one.rows(5, 0, 10)
    sealed = frozenset(f'"{row["prompt"]}"' for row in drawn[:5])
    assert one.rows(5, 0, 2) == drawn[:2]
    assert one.rows(5, 2, 3, without=sealed) == drawn[7:]


def ends(pid: int) -> bool:
    """Whether a process is gone, or soon."""
    for _ in range(200):
        if is_gone(pid):
            return True
        time.sleep(0.05)
    return False


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:  # dead, and nobody has asked how it ended
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_rows_go_on_where_they_stopped_and_leave_out_what_is_sealed(graders):
    one = graders(WILD)
    drawn = one.rows(5, 0, 10)
    assert one.rows(5, 4, 3) == drawn[4:7]
    assert one.rows(5, 7, 3) == drawn[7:]
    sealed = frozenset(f'"{row["prompt"]}"' for row in drawn[:5])
    assert [row["prompt"] for row in one.rows(5, 0, 5, without=sealed)] == [row["prompt"] for row in drawn[5:]]
    assert one.num_rows() == 10


def test_rows_do_not_depend_on_the_hash_seed_of_this_process(graders):
    one = graders("""
        def rows(seed):
            while True: yield {"prompt": "".join(sorted("abcdef", key=hash))}
        def reward(completions): return [0.0]
    """)
    other = Graders(one.source)
    with other:
        assert one.rows(0, 0, 1) == other.rows(0, 0, 1)
    assert one.num_rows() is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("1/0", "could not be loaded|ZeroDivisionError"),
        ("rows = [", "SyntaxError"),
        ("import os; os._exit(4)", "could not be loaded: its process ended with status 4"),
        ("rows = [{'prompt': 'p'}]", "has no a function reward"),
    ],
)
def test_a_task_that_can_not_be_loaded_says_why(graders, source, told):
    with pytest.raises(GraderError, match=told):
        graders(source)


def test_rows_that_take_for_ever_are_an_error_and_the_graders_go_on(graders, replies):
    one = graders(
        """
        import time
        def rows(seed):
            while seed: time.sleep(1)
            while True: yield {"prompt": "p"}
        def reward(completions): return [0.5 for _ in completions]
        """,
        seconds=1.0,
    )
    with pytest.raises(GraderError, match="was asked for rows: it took too long and was ended"):
        one.rows(1, 0, 1)
    ((verdict,),) = one.grade(one.rows(0, 0, 1), [replies("x")])
    assert verdict.reward == 0.5


def test_limits_are_more_than_nothing():
    with pytest.raises(ValueError, match="seconds=0 must be more than 0"):
        Limits(seconds=0)
