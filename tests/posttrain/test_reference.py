"""Which policy is the reference at every step, kills or not."""

from pathlib import Path

import pytest
from torch import nn

from gorae.posttrain import Reference

STEPS = 13


def network_of(step: float) -> nn.Module:
    """A policy of one weight, which is the number of updates it has had."""
    network = nn.Linear(1, 1, bias=False).requires_grad_(False)
    network.weight.fill_(step)
    return network


def weights_seen(path: Path, *, every: int, first: int = 0, until: int = STEPS) -> dict[int, float]:
    """The reference's weight at every step of a run that begins, or goes on, at `first` and ends before `until`."""
    reference, seen = Reference(network_of(0), path, every), {}
    for step in range(first, until):
        reference.follow(network_of(step), step)
        seen[step] = reference.network.weight.item()
    return seen


@pytest.mark.parametrize(
    ("every", "expected"), [(1, range(13)), (4, [0] * 4 + [4] * 4 + [8] * 4 + [12]), (0, [0] * 13)]
)
def test_the_reference_is_the_policy_of_the_last_step_it_was_replaced_at(tmp_path, every, expected):
    seen = weights_seen(tmp_path / "reference.safetensors", every=every)
    assert list(seen.values()) == list(expected)


@pytest.mark.parametrize(
    ("every", "save_every"), [(1, 1), (4, 1), (4, 2), (4, 4), (2, 4), (1, 3), (6, 3), (20, 10), (0, 4)]
)
@pytest.mark.parametrize("kill_at", range(STEPS))
def test_a_run_that_was_killed_goes_on_with_the_reference_it_had(tmp_path, every, save_every, kill_at):
    """The kill comes after the reference has followed to `kill_at`; the last save was before that."""
    path = tmp_path / "reference.safetensors"
    whole = weights_seen(tmp_path / "whole.safetensors", every=every)
    weights_seen(path, every=every, until=kill_at + 1)
    saved = kill_at // save_every * save_every
    assert weights_seen(path, every=every, first=saved) == {step: whole[step] for step in range(saved, STEPS)}


def test_a_reference_that_is_never_replaced_leaves_no_file(tmp_path):
    weights_seen(tmp_path / "reference.safetensors", every=0)
    assert not list(tmp_path.iterdir())


def test_the_reference_is_a_copy(tmp_path):
    policy, reference = network_of(3), Reference(network_of(0), tmp_path / "reference.safetensors", 3)
    reference.follow(policy, 3)
    policy.weight.fill_(4)
    assert reference.network.weight.item() == 3
