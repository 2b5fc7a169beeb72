"""kill -9 at any moment, run again, and the run ends with the bits of one that was never killed.

A process of its own loads torch once and forks a life for every kill: the lives are real processes, killed by a real
signal 9, as they put a file in place (just before or just after) or at any moment by the clock. They save their state
after every step, so that there is much to resume; the run they are compared with did not.
"""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gorae.observe import read_metrics

DRIVER = """
import json, os, signal, sys, time
from pathlib import Path

import torch
import torch._dynamo  # loading a model imports it; once is enough for all lives

from gorae.cli import main
from gorae.recipes import adapt, learn

torch.set_num_threads(1)
Trainer = learn.Trainer
learn.Trainer = adapt.Trainer = lambda *words, **named: Trainer(*words, **named | {"save_every": 1})

def reward_by_first_token(problem, output):
    return float(output.token_ids[0] % 2)

learn.reward_by_grade = reward_by_first_token
learn.reinforce_on_counter.__kwdefaults__["grade"] = reward_by_first_token

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(part, count, moment):
    '''Die at the count-th file put in place whose path has this part, just before it or just after.'''
    left = count
    def deadly(act):
        def putting(*words, **named):
            nonlocal left
            left -= part in str(words[-1])
            is_time = left == 0 and part in str(words[-1])
            if is_time and moment == "before":
                die()
            result = act(*words, **named)
            if is_time:
                die()
            return result
        return putting
    os.replace, os.rename, Path.touch = deadly(os.replace), deadly(os.rename), deadly(Path.touch)

deaths, argv = json.loads(sys.argv[1]), sys.argv[2:]
for death in [*deaths, None]:
    life = os.fork()
    if life == 0:
        if isinstance(death, list):
            die_at(*death)
        status = 1
        try:
            status = main(argv)
        finally:
            sys.stderr.flush()
            os._exit(status)
    if isinstance(death, float):
        time.sleep(death)
        os.kill(life, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(life, 0)[1]), flush=True)
"""


Death = float | tuple[str, int, str]  # after so many seconds, or at a file put in place


def run_and_kill(folder: Path, flags: list[str], deaths: list[Death]) -> list[int]:
    """How every life ended: -9 when killed, 0 when it came to the end; the last one is left alone."""
    argv = ["run", "laptop", "--no-serve", "--out", str(folder), *flags]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(deaths), *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    statuses = [int(line) for line in done.stdout.splitlines() if line.removeprefix("-").isdigit()]
    assert statuses[-1] == 0, done.stderr
    return statuses


def everything_but_clocks(folder: Path) -> dict[str, object]:
    """What must be equal to the last bit: weights, tokenizers, data, traces by hash; metrics, evaluation by value."""
    names = ("settings.json", "*.npy", "tokenizer.json", "traces-*.jsonl", "config.json", "*.safetensors")
    files = [path for name in names for path in sorted(folder.rglob(name))]
    found: dict[str, object] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = [line | {"tokens_per_second": 0.0} for line in read_metrics(path)]
        found[str(path.relative_to(folder))] = lines
    found["evaluation"] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["evaluation"]
    return found


def assert_equal_to_the_bit(folder: Path, whole: Path) -> None:
    found, expected = everything_but_clocks(folder), everything_but_clocks(whole)
    assert sum(name.endswith("model.safetensors") for name in expected) == 6
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_run_killed_while_it_puts_files_in_place_ends_with_the_same_bits(tiny, tmp_path):
    deaths: list[Death] = [
        ("/prepare/", 2, "after"),
        ("/pretrain/state", 1, "after"),  # one step is saved
        ("/pretrain/state", 1, "before"),  # the second is lost
        ("/pretrain/state", 3, "after"),  # all steps are saved and no model is
        ("/pretrain/done", 1, "before"),  # the model is there and not called done
        ("/cold_start/state", 2, "after"),
        ("/rl/state", 1, "after"),
        ("/traces/", 1, "after"),
        ("/distill/state", 1, "after"),
        ("base_think.json", 1, "before"),
    ]
    statuses = run_and_kill(tmp_path / "run", tiny.flags, deaths)
    assert statuses == [-9] * len(deaths) + [0]
    assert_equal_to_the_bit(tmp_path / "run", tiny.folder)
    stages = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["bill"]["stages"]
    attempts = {stage["stage"]: stage["attempts"] for stage in stages if stage["attempts"] > 1}
    assert attempts == {"pretrain": 5} | dict.fromkeys(
        ("prepare", "cold_start", "rl", "traces", "distill", "evaluate"), 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_many_times_ends_with_the_same_bits(tiny, tmp_path, seed):
    draw = random.Random(seed)
    # Moments by the clock are shares of what the whole run took here; few and early, so that no life comes to the end.
    deaths: list[Death] = [draw.uniform(0.0, 0.05) * tiny.report["seconds"] for _ in range(8)]
    deaths += [("", draw.randint(1, 4), draw.choice(["before", "after"])) for _ in range(24)]
    draw.shuffle(deaths)
    statuses = run_and_kill(tmp_path / "run", tiny.flags, deaths)
    assert statuses.count(-9) > 15
    assert_equal_to_the_bit(tmp_path / "run", tiny.folder)
