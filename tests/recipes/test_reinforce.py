"""The RL stage in small, with everything on at once: what is exact with one update a step must be with all of it."""

import hashlib
import os
import signal
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.config import override
from gorae.observe import Ledger, read_metrics
from gorae.recipes import LaptopSettings, batches, learn, reinforce

RL = {
    "rl.steps": "8",
    "rl.num_prompts": "4",
    "rl.num_samples": "4",
    "rl.max_tokens": "6",
    "rl.save_every": "4",
    "rl.optimizer.lr": "1e-2",
}
EVERYTHING = {
    "rl.algorithm": "gspo",
    "rl.scale_rewards": "batch",
    "rl.epsilon": "0.1",
    "rl.beta": "0.05",
    "rl.reference_every": "2",
    "rl.num_refills": "2",
    "rl.num_updates": "2",
}

INEXACT = {
    "rl.num_updates": "2",
    "rl.rollouts": "int4",
    "rl.correction": "tis_sequences",
    "rl.temperature": "0.9",
    "rl.top_p": "0.95",
    "rl.soft_tokens": "3",
    "rl.router_bias": "replayed",
}


@pytest.fixture
def start(tmp_path, network, tokenizer) -> Path:
    save_model(tmp_path / "start", network, tokenizer=tokenizer)
    return tmp_path / "start"


@pytest.fixture
def train(start, settings, require_fork):
    """Run the stage `rl` in a folder of its own; the reward looks at the first token, and a third of groups is dead."""

    def by_first_token(_, output) -> float:
        return float(output.token_ids[0] % 4 == 0)

    def train(folder: Path, changes: dict[str, str], grade=by_first_token) -> Path:
        wanted: LaptopSettings = override(settings, RL | changes)
        if wanted.rl.workers:
            require_fork()
        with Ledger(folder / "bill").stage("rl") as meter:
            learn.reinforce_on_counter(
                folder / "rl",
                meter,
                start=start,
                settings=wanted,
                grade=grade,
            )
        return folder / "rl"

    return train


@pytest.fixture
def killed(train, monkeypatch):
    """Begin the stage in a folder, and kill it before its `kill_at`-th update."""

    def killed(folder: Path, changes: dict[str, str], kill_at: int) -> Path:
        make, made = batches.policy_batch, []

        def deadly(*words, **named):
            made.append(words)
            if len(made) == kill_at + 1:
                raise KeyboardInterrupt
            return make(*words, **named)

        with monkeypatch.context() as patch:
            patch.setattr(batches, "policy_batch", deadly)
            with pytest.raises(KeyboardInterrupt):
                train(folder, changes)
        return folder

    return killed


def everything(folder: Path, *, without: tuple[str, ...] = ()) -> list[object]:
    """Weights by hash, metrics by value, without the clock."""
    model = hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()
    unequal = {"tokens_per_second", *without}
    lines = read_metrics(folder / "metrics.jsonl")
    return [model, *({name: value for name, value in line.items() if name not in unequal} for line in lines)]


def test_a_stage_with_every_setting_on_reports_what_each_does(train, tmp_path):
    lines = read_metrics(train(tmp_path / "whole", EVERYTHING) / "metrics.jsonl")
    assert len(lines) == 8
    assert all(line["mismatch_kl"] == 0 for line in lines[::2]), "a batch's first update is on policy"
    assert all(line["update_kl"] > 0 for line in lines[1::2])
    assert all("update_kl" not in line for line in lines[::2])
    assert [line["kl"] == 0 for line in lines] == [True, False] * 4, "each batch begins with a new reference"


def test_what_older_weights_sampled_is_a_distance_between_policies_and_no_mismatch(train, tmp_path):
    lines = read_metrics(train(tmp_path, {"rl.staleness": "2"}) / "metrics.jsonl")
    assert lines[0]["mismatch_kl"] == 0
    assert all("mismatch_kl" not in line and line["update_kl"] > 0 for line in lines[1:])


@pytest.mark.parametrize(("staleness", "kills"), [("0", (1, 3, 5, 6, 7)), ("1", (3, 5, 7)), ("2", (1, 6))])
def test_a_stage_killed_at_any_update_ends_with_the_bits_of_one_that_was_not(train, killed, tmp_path, staleness, kills):
    changes = EVERYTHING | {"rl.staleness": staleness}
    whole = everything(train(tmp_path / "whole", changes))
    for kill_at in kills:
        folder = killed(tmp_path / f"killed-{kill_at}", changes, kill_at)
        assert everything(train(folder, changes)) == whole, kill_at


@pytest.mark.parametrize("staleness", ["0", "1"])
def test_so_does_one_of_quantised_and_corrected_rollouts(train, killed, tmp_path, staleness):
    changes = INEXACT | {"rl.staleness": staleness}
    whole = everything(train(tmp_path / "whole", changes))
    for kill_at in (5, 9):
        folder = killed(tmp_path / f"killed-{kill_at}", changes, kill_at)
        assert everything(train(folder, changes)) == whole, kill_at


def test_what_was_graded_ahead_of_a_save_is_not_graded_again(train, killed, tmp_path):
    changes = {"rl.staleness": "3", "rl.save_every": "5"}
    whole = everything(train(tmp_path / "whole", changes))

    def refuse(*_):
        raise AssertionError("all eight batches had been graded")

    assert everything(train(killed(tmp_path / "killed", changes, 6), changes, refuse)) == whole


def test_a_stage_that_was_begun_with_less_staleness_does_not_go_on_with_more(train, killed, tmp_path):
    killed(tmp_path, {}, 6)
    with pytest.raises(ValueError, match="batch 4 was not kept"):
        train(tmp_path, {"rl.staleness": "2"})


def touched(path: Path) -> bool:
    """Whether nobody else had been faster."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture
def trouble(tmp_path, monkeypatch) -> Path:
    """A folder, where workers leave word: one of them is slow, and one dies when it has worked with version 1."""
    make, folder = reinforce.engine_of_worker, tmp_path / "trouble"
    folder.mkdir()

    def make_engine(*words, **named):  # a function in a function: Ray takes it to the workers as it is
        engine = make(*words, **named)
        generate, is_slow = engine.generate, touched(folder / "slow")

        def troubled(*words):
            outputs = generate(*words)
            if is_slow:
                time.sleep(0.2)
            elif engine.weights_version == 1 and touched(folder / "dead"):
                os.kill(os.getpid(), signal.SIGKILL)
            return outputs

        engine.generate = troubled
        return engine

    monkeypatch.setattr(reinforce, "engine_of_worker", make_engine)
    return folder


FLEET = EVERYTHING | {"rl.staleness": "1", "rl.workers": "2"}
# Workers count what they compute, and what is computed depends on what is read together.
same = partial(everything, without=("flops",))


@pytest.mark.slow
def test_a_fleet_with_a_slow_and_a_dying_worker_has_the_bits_of_one_process(train, tmp_path, trouble):
    pytest.importorskip("ray")
    here = same(train(tmp_path / "here", FLEET | {"rl.workers": "0"}))
    assert same(train(tmp_path / "fleet", FLEET)) == here
    assert {path.name for path in trouble.iterdir()} == {"slow", "dead"}


@pytest.mark.slow
@pytest.mark.parametrize("staleness", ["0", "1", "2"])
def test_a_fleet_killed_at_any_update_ends_with_the_bits_of_one_process(train, killed, tmp_path, staleness):
    pytest.importorskip("ray")
    changes = FLEET | {"rl.staleness": staleness}
    here = same(train(tmp_path / "here", changes | {"rl.workers": "0"}))
    for kill_at in (3, 6, 7):
        folder = killed(tmp_path / f"killed-{kill_at}", changes, kill_at)
        assert same(train(folder, changes)) == here, kill_at


@pytest.mark.slow
def test_what_goes_wrong_with_a_reward_ends_a_stage_with_a_fleet(train, tmp_path):
    pytest.importorskip("ray")

    def broken(*_):
        raise ValueError("this grader is broken")

    with pytest.raises(ValueError, match="this grader is broken"):
        train(tmp_path, FLEET, broken)


def test_every_setting_alone_makes_another_model(train, tmp_path):
    """On top of two updates a batch and a distance in the loss: otherwise clipping and reference change nothing."""
    plain = {"rl.num_updates": "2", "rl.beta": "0.05"}
    changes = [{}, {"rl.num_updates": "1"}, {"rl.beta": "0"}, {"rl.exclude_dead_groups": "true"}]
    changes += [{name: value} for name, value in EVERYTHING.items() if name not in plain]
    models = {
        everything(train(tmp_path / str(number), plain | change))[0]: change for number, change in enumerate(changes)
    }
    assert list(models.values()) == changes


def test_quantised_rollouts_follow_the_weights_and_their_mismatch_is_shown_at_every_step(train, tmp_path):
    lines = read_metrics(train(tmp_path / "inexact", INEXACT) / "metrics.jsonl")
    assert all(line["ratio_max"] > 0 for line in lines)
    assert all(line["sampler_kl"] < 0.1 for line in lines[::2]), "of the weights of the batch, not of the first"
    assert all(line["routing_flips"] >= 0 for line in lines[::2])
    assert all(0.5 < line["correction"] < 2 for line in lines)
    assert not any("mismatch_kl" in line for line in lines), "an alarm would ring for what was asked for"


def test_replay_leaves_no_flips_in_quantised_rollouts(train, tmp_path):
    changes = {"rl.rollouts": "int4", "rl.optimizer.lr": "3e-2"}
    own, replayed = (
        read_metrics(train(tmp_path / str(replay), changes | {"rl.replay": replay}) / "metrics.jsonl")
        for replay in ("false", "true")
    )
    assert any(line["routing_flips"] > 0 for line in own)
    assert not any(line["routing_flips"] for line in replayed)


def biases_seen(train, folder, monkeypatch, changes: dict[str, str]) -> list[tuple]:
    """Those of the first router at every update's forward pass."""
    seen, loss = [], reinforce.policy_loss

    def watched(network, *words, **named):
        routers = [tensor for name, tensor in network.named_buffers() if name.endswith("bias_E")]
        seen.append(tuple(routers[0].tolist()))
        return loss(network, *words, **named)

    monkeypatch.setattr(reinforce, "policy_loss", watched)
    lines = read_metrics(train(folder, changes | {"rl.num_updates": "2"}) / "metrics.jsonl")
    monkeypatch.setattr(reinforce, "policy_loss", loss)
    assert all(line["ratio_max"] == 0 for line in lines[::2]), "the engine has the bias of the batch's first update"
    return seen


def test_the_routers_bias_is_frozen_or_moves_at_every_update_or_between_batches_alone(train, tmp_path, monkeypatch):
    frozen, updated, replayed = (
        biases_seen(train, tmp_path / kind, monkeypatch, {"rl.router_bias": kind})
        for kind in ("frozen", "updated", "replayed")
    )
    assert len(set(frozen)) == 1
    assert all(after != before for before, after in pairwise(updated))
    assert all(first == second for first, second in zip(replayed[::2], replayed[1::2], strict=True))
    assert all(after != before for before, after in pairwise(replayed[::2]))
    assert max(abs(one) for one in replayed[-1]) <= 3 * 1e-3 + 1e-9
