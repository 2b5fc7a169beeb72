"""A fleet: pieces, versions and deaths; what a whole run makes of them is in tests/recipes/test_reinforce.py."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import util
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from gorae.engine import Engine, SamplingParams
from gorae.observe import Ledger
from gorae.posttrain import Fleet, Tally, sample_groups
from gorae.posttrain.fleet import FleetSampler, Worker, shares

NAMED = {"num_samples": 2, "params": SamplingParams(max_tokens=9), "seed": 3}


@pytest.mark.parametrize("num_groups", [0, 1, 2, 7, 12, 512])
@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_all_groups_are_handed_out_in_pieces_that_end_single(num_groups, num_workers):
    pieces = list(shares(num_groups, num_workers))
    assert sum(pieces) == num_groups
    assert pieces == sorted(pieces, reverse=True)
    assert pieces[-num_workers:] == [1] * min(num_workers, num_groups)
    assert max(pieces, default=0) <= num_groups / (2 * num_workers) + 1


def test_a_worker_reads_the_weights_of_a_version_once_and_names_it_in_its_outputs(model, prompts, monkeypatch):
    worker = Worker(partial(Engine, model, prefix_cache=False), num_threads=torch.get_num_threads())
    updates: list[int] = []
    update = Engine.update_weights
    monkeypatch.setattr(Engine, "update_weights", lambda self, weights: updates.append(1) or update(self, weights))
    other = {name: tensor * 1.5 for name, tensor in model.network.state_dict().items()}
    packed = np.frombuffer(save(other), np.uint8)
    each = [SamplingParams(max_tokens=9, seed=place) for place in range(len(prompts))]
    first, second, third = (worker.sample(version, packed, prompts, each) for version in (4, 4, 9))
    assert len(updates) == 2
    assert [one.outputs[0].weights_version for one in (first, second, third)] == [4, 4, 9]
    assert first.outputs == second.outputs == third.outputs == Engine(model).generate(prompts, each)
    assert first[1:3] == second[1:3] == third[1:3], "FLOPs and tokens of this piece alone"


@pytest.fixture
def meter(tmp_path):
    with Ledger(tmp_path).stage("test") as meter:
        yield meter


def test_without_ray_a_fleet_says_what_to_do(model, meter, monkeypatch):
    monkeypatch.setattr("gorae.posttrain.fleet.find_spec", lambda name: None if name == "ray" else util.find_spec(name))
    with pytest.raises(ValueError, match=r"pip install 'gorae\[ray\]', or set rl.workers to 0"):
        Fleet(partial(Engine, model), model, num_workers=2, num_versions=1, tally=Tally(), meter=meter)


def test_replies_come_back_in_the_order_of_prompts_and_equal_prompts_are_read_together(model, prompts, meter):
    worker, asked = Worker(partial(Engine, model, prefix_cache=False), num_threads=torch.get_num_threads()), []

    def work(version: int, weights: np.ndarray, *piece):
        asked.append(piece[0])
        return worker.sample(version, weights, *piece)

    weights = np.frombuffer(save(dict(model.network.state_dict())), np.uint8)
    with ThreadPoolExecutor(1) as hands:
        names = {"model": model, "num_workers": 2, "hands": hands, "work": work, "tally": Tally(), "meter": meter}
        found = sample_groups(FleetSampler(SimpleNamespace(**names), 3, weights), prompts, **NAMED)
    assert found == sample_groups(Engine(model), prompts, **NAMED)
    assert [len(piece) for piece in asked] == [4, 2, 2, 2, 2], "both replies of a group; the first piece is two groups"
    assert {output.weights_version for group in found for output in group} == {3}


@pytest.fixture
def fleet(model, meter):
    """Two workers, whose engines may be given other manners."""
    pytest.importorskip("ray")

    def fleet(manners=lambda engine: engine) -> Fleet:
        def make_engine(**named):
            return manners(Engine(model, **named))

        return Fleet(make_engine, model, num_workers=2, num_versions=2, tally=Tally(), meter=meter)

    return fleet


@pytest.fixture(autouse=True)
def forkable(require_fork) -> None:
    require_fork()


@pytest.mark.slow
def test_work_is_done_beside_the_trainer_with_the_weights_it_was_begun_with(model, prompts, fleet):
    """Two batches, the second begun with other weights before the first was let to go on."""
    may_go_on = Event()

    def first(sampler):
        assert may_go_on.wait(60)
        return sample_groups(sampler, prompts, **NAMED)

    with fleet() as workers:
        expected = sample_groups(Engine(model), prompts, **NAMED)
        before = workers.begin(first, version=0)
        with torch.no_grad():
            model.network.head_WD.mul_(-1)
        after = workers.begin(lambda sampler: sample_groups(sampler, prompts, **NAMED), version=1)
        may_go_on.set()
        assert before.result() == expected
        assert after.result() == sample_groups(Engine(model), prompts, **NAMED) != expected
        assert {output.weights_version for group in after.result() for output in group} == {1}
        assert workers.tally.take()[1] > 0
        assert workers.meter.spent.core_seconds > 0


@pytest.mark.slow
def test_work_that_kills_every_worker_ends_the_run(prompts, fleet, capsys):
    def deadly(engine: Engine) -> Engine:
        engine.generate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return engine

    with fleet(deadly) as workers, pytest.raises(Exception, match="actor died"):
        workers.begin(lambda sampler: sample_groups(sampler, prompts[:1], **NAMED), version=0).result()
    assert capsys.readouterr().err.count("another takes its place and its work") == 2


@pytest.mark.slow
def test_a_fleet_left_in_the_middle_of_work_ends_it(prompts, fleet):
    def endless(engine: Engine) -> Engine:
        engine.generate = lambda *_: time.sleep(3600)
        return engine

    with fleet(endless) as workers:
        begun = [workers.begin(lambda sampler: sample_groups(sampler, prompts, **NAMED), version=0) for _ in range(2)]
        time.sleep(1)
    assert all(one.done() for one in begun)
