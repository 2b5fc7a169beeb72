"""Batches ahead: whose weights sample which batch, and that bytes keep all of a batch."""

import pytest
import torch

from gorae.engine import Engine, SamplingParams
from gorae.posttrain import BatchesAhead, Here, Rollout, SampledBatch, rollouts_of, sample_groups
from gorae.posttrain.ahead import finished


def batches(staleness: int, begun: list[int] | None = None, *, num_batches: int = 6) -> BatchesAhead:
    """Empty ones, whose FLOPs are their number."""

    def begin(number: int):
        if begun is not None:
            begun.append(number)
        return finished(SampledBatch([], float(number), 0))

    return BatchesAhead(begin, staleness=staleness, num_batches=num_batches)


@pytest.mark.parametrize("staleness", [0, 1, 2, 9])
def test_a_batch_is_begun_by_the_policy_that_has_learnt_from_so_many_fewer(staleness):
    begun: list[int] = []
    ahead = batches(staleness, begun)
    begun_by = {}
    for number in range(6):
        before = len(begun)
        assert ahead.take(number).flops == number
        begun_by |= dict.fromkeys(begun[before:], number)
    assert begun_by == {number: max(0, number - staleness) for number in range(6)}
    assert begun == list(range(6)), "each once, and in order"
    assert not ahead.state_dict()


@pytest.mark.parametrize("staleness", [0, 1, 2, 9])
@pytest.mark.parametrize("taken", [1, 3, 5])
def test_nothing_is_begun_twice_or_never_when_a_save_is_taken_up(staleness, taken):
    begun: list[int] = []
    killed, resumed = batches(staleness, begun), batches(staleness, begun)
    for number in range(taken):
        killed.take(number)
    resumed.load_state_dict(killed.state_dict())
    assert [resumed.take(number).flops for number in range(taken, 6)] == list(range(taken, 6))
    assert begun == list(range(6))


def test_a_batch_that_was_not_kept_is_an_error_and_not_sampled_by_other_weights():
    with pytest.raises(ValueError, match=r"batch 3 was not kept, .* less than staleness=2"):
        batches(2).take(3)


def test_all_of_a_batch_is_kept_to_the_last_bit(model, prompts):
    def work(sampler) -> SampledBatch:
        groups = sample_groups(
            sampler, prompts[:3], num_samples=2, params=SamplingParams(max_tokens=7, routings=True), seed=5
        )
        rewards = [[1, None], [0.1, -0.0], [1e-45, 2.0]]
        return SampledBatch(rollouts_of(groups, rewards), 2.0**60 + 2**8, 12)

    ahead = BatchesAhead(lambda _: Here(Engine(model)).begin(work, version=0), staleness=1, num_batches=2)
    kept_ids = [torch.tensor([2, 66]), None]
    episode = Rollout([1], [2, 3], [-0.5], None, 7, "turns", is_sampled=[True, False], kept_ids=kept_ids)
    sampled = ahead.take(0)
    ahead.batches[2] = finished(SampledBatch([episode], 0.0, 0))
    again = batches(1)
    again.load_state_dict(ahead.state_dict())
    found = again.batches[1].result()
    assert found == sampled, "routings do not count here"
    assert list(map(repr, found.rollouts)) == list(map(repr, sampled.rollouts)), "-0.0, and all types"
    for one, other in zip(found.rollouts, sampled.rollouts, strict=True):
        assert one.routings is not None
        assert other.routings is not None
        for kept, tensor in zip(one.routings, other.routings, strict=True):
            assert kept.dtype == tensor.dtype
            assert torch.equal(kept, tensor)
    assert again.batches[2].result().rollouts == [episode]
    first, second = again.batches[2].result().rollouts[0].kept_ids or ()
    assert torch.equal(first, kept_ids[0])
    assert second is None


def test_here_work_is_done_at_once_and_with_the_weights_of_now(model, prompts):
    engine, named = Engine(model), {"num_samples": 2, "params": SamplingParams(max_tokens=9), "seed": 3}
    expected = sample_groups(engine, prompts, **named)
    begun = Here(engine).begin(lambda sampler: sample_groups(sampler, prompts, **named), version=4)
    assert begun.done()
    with torch.no_grad():
        model.network.head_WD.mul_(-1)
    assert begun.result() == expected != sample_groups(engine, prompts, **named)
