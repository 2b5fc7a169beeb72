"""The draws themselves: where the numbers come from, and that they follow the distribution asked for."""

import pytest
import torch

from gorae.engine import SamplingParams
from gorae.engine.sampler import Draws, adjusted, keep_likeliest, pick, policies, probabilities, uniforms

NUM_DRAWS = 40_000


def log_probs_of(*probs: float) -> torch.Tensor:
    return torch.tensor([probs], dtype=torch.float64).log().float()


def sample(scores_BW: torch.Tensor, params: list[SamplingParams], uniforms_B: torch.Tensor) -> torch.Tensor:
    return pick(scores_BW, probabilities(scores_BW, params), params, uniforms_B)


def draw(log_probs_1W: torch.Tensor, num_draws: int, **params: float) -> torch.Tensor:
    """As many draws of one distribution as the engine would make for requests with seeds 0, 1, 2, …"""
    numbers_B = uniforms(list(range(num_draws)), [0] * num_draws)
    return sample(log_probs_1W.expand(num_draws, -1), [SamplingParams(**params)] * num_draws, numbers_B)


def keep_top_p(probs_BW: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    return keep_likeliest(probs_BW, torch.zeros_like(top_p_B), top_p_B, torch.zeros_like(top_p_B))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    logits_1W = 1.5 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    drawn = draw(logits_1W.log_softmax(-1), NUM_DRAWS, temperature=temperature)
    expected_W = (logits_1W[0].double() / temperature).softmax(-1) * NUM_DRAWS
    found_W = drawn.bincount(minlength=50).double()
    chi_square = ((found_W - expected_W) ** 2 / expected_W).sum().item()
    # 49 degrees of freedom: mean 49, deviation 9.9. Beyond 95 lies one in ten thousand; the seeds are fixed.
    assert chi_square < 95
    assert not torch.equal(found_W, expected_W.round())


def test_the_draws_of_one_request_follow_the_softmax_too():
    probs_W = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=torch.float64)
    numbers_B = uniforms([7] * NUM_DRAWS, list(range(NUM_DRAWS)))
    drawn = sample(probs_W.log().float().expand(NUM_DRAWS, -1), [SamplingParams()] * NUM_DRAWS, numbers_B)
    found_W = drawn.bincount(minlength=5) / NUM_DRAWS
    # The total variation of 40,000 fair draws from 5 classes is about 0.003.
    assert 0.5 * (found_W - probs_W).abs().sum() < 0.01


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probs_BW = torch.tensor([[0.1, 0.5, 0.15, 0.25]] * 6, dtype=torch.float64)
    top_p_B = torch.tensor([0.4, 0.5, 0.500001, 0.75, 0.76, 1.0], dtype=torch.float64)
    kept = [row.nonzero().flatten().tolist() for row in keep_top_p(probs_BW, top_p_B)]
    assert kept == [[1], [1], [1, 3], [1, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_equal_probabilities_at_the_edge_keep_the_lower_ids():
    kept = keep_top_p(torch.full((1, 4), 0.25, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    assert kept.tolist() == [[0.25, 0.25, 0.0, 0.0]]


def test_top_p_1_beside_a_neighbour_that_is_cut_keeps_even_what_the_rounded_sum_can_not_hold():
    probs_BW = torch.tensor([[0.7, 0.3, 1e-20, 1e-30]] * 2, dtype=torch.float64)
    kept_BW = keep_top_p(probs_BW, torch.tensor([1.0, 0.9], dtype=torch.float64))
    assert torch.equal(kept_BW[0], probs_BW[0])
    assert kept_BW[1].tolist() == [0.7, 0.3, 0.0, 0.0]


def test_top_p_draws_only_from_what_is_kept_in_its_proportions():
    drawn = draw(log_probs_of(0.1, 0.5, 0.15, 0.25), NUM_DRAWS, top_p=0.7)
    shares = (drawn.bincount(minlength=4) / NUM_DRAWS).tolist()
    assert shares == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.01)  # three deviations of a share are 0.007
    assert shares[0] == shares[2] == 0


def test_top_p_cuts_the_distribution_at_the_temperature():
    """At temperature 3 the two likeliest of four hold 0.62 of the probability, at temperature 1 they hold 0.9."""
    log_probs = log_probs_of(0.7, 0.2, 0.06, 0.04)
    assert set(draw(log_probs, 2000, top_p=0.85).tolist()) == {0, 1}
    assert set(draw(log_probs, 2000, top_p=0.85, temperature=3.0).tolist()) == {0, 1, 2, 3}


def test_top_k_keeps_the_likeliest_and_the_lower_id_of_equals():
    probs_BW = torch.tensor([[0.1, 0.3, 0.3, 0.3]] * 4, dtype=torch.float64)
    top_k_B, ones_B = torch.tensor([0, 1, 2, 9], dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    kept_BW = keep_likeliest(probs_BW, top_k_B, ones_B, torch.zeros(4, dtype=torch.float64))
    kept = [row.nonzero().flatten().tolist() for row in kept_BW]
    assert kept == [[0, 1, 2, 3], [1], [1, 2], [0, 1, 2, 3]]


def test_min_p_keeps_what_is_not_far_below_the_likeliest():
    drawn = draw(log_probs_of(0.1, 0.5, 0.15, 0.25), NUM_DRAWS, min_p=0.25)
    shares = (drawn.bincount(minlength=4) / NUM_DRAWS).tolist()
    assert shares == pytest.approx([0, 5 / 9, 1.5 / 9, 2.5 / 9], abs=0.01)
    assert shares[0] == 0


def test_top_p_is_a_share_of_what_top_k_leaves():
    """The two likeliest have 0.5 and 0.25: two thirds of what is left is the first alone."""
    assert set(draw(log_probs_of(0.1, 0.5, 0.15, 0.25), 500, top_k=2, top_p=0.66).tolist()) == {1}
    assert set(draw(log_probs_of(0.1, 0.5, 0.15, 0.25), 500, top_k=2, top_p=0.67).tolist()) == {1, 3}


def test_a_row_that_is_not_cut_draws_the_same_beside_one_that_is():
    log_probs_BW = torch.randn(64, 30, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    numbers_B = uniforms(list(range(64)), [0] * 64)
    alone = sample(log_probs_BW, [SamplingParams()] * 64, numbers_B)
    cut = SamplingParams(top_k=2, top_p=0.5, min_p=0.1, logit_bias={3: 5.0})
    mixed = [SamplingParams(), cut] * 32
    beside = sample(adjusted(log_probs_BW, mixed, [[3]] * 64), mixed, numbers_B)
    assert torch.equal(beside[::2], alone[::2])
    assert not torch.equal(beside[1::2], alone[1::2])


def test_penalties_and_bias_are_taken_from_and_added_to_the_scores_of_their_row_alone():
    log_probs_BW = torch.zeros(3, 5)
    params = [
        SamplingParams(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 3.0, 1: -2.0}),
        SamplingParams(),
        SamplingParams(presence_penalty=-1.0),
    ]
    scores_BW = adjusted(log_probs_BW, params, [[1, 2, 1, 1], [1, 2], []])
    assert scores_BW.tolist() == [[0, -3.25, -0.75, 0, 3], [0] * 5, [0] * 5]
    assert not log_probs_BW.any(), "log-probabilities stay what they are"


def test_a_token_without_probability_is_never_drawn():
    assert set(draw(log_probs_of(0.0, 0.5, 0.0, 0.5, 0.0), NUM_DRAWS).tolist()) == {1, 3}


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_smallest_and_the_largest_number_draw_a_token_that_has_probability(number):
    log_probs = log_probs_of(0.0, 0.0, 0.3, 0.3, 0.3, 0.1, 0.0)
    token = int(sample(log_probs, [SamplingParams()], torch.tensor([number], dtype=torch.float64)))
    assert token == (2 if number == 0 else 5)


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_temperature_near_0_is_greedy_in_the_limit(temperature):
    log_probs_BW = torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    drawn_B = sample(log_probs_BW, [SamplingParams(temperature=temperature)] * 20, uniforms(list(range(20)), [0] * 20))
    assert torch.equal(drawn_B, log_probs_BW.argmax(-1))


def test_greedy_rows_beside_drawn_rows_stay_greedy():
    log_probs_BW = torch.zeros(64, 9).log_softmax(-1)
    params = [SamplingParams(temperature=0), SamplingParams()] * 32
    drawn_B = sample(log_probs_BW, params, uniforms(list(range(64)), [0] * 64))
    assert set(drawn_B[::2].tolist()) == {0}, "the first of equals"
    assert len(set(drawn_B[1::2].tolist())) == 9


def test_numbers_follow_from_seed_and_place_alone():
    numbers = uniforms([1, 1, 2, 2**64 - 1], [0, 1, 0, 3])
    again = [uniforms([seed], [place]).item() for seed, place in ((1, 0), (1, 1), (2, 0), (2**64 - 1, 3))]
    assert numbers.tolist() == again
    # Golden: a run's replies, and so its weights, follow from these.
    assert numbers.tolist() == [0.36818951565166946, 0.9435642308648544, 0.3922164624235318, 0.9269618291063265]


def test_numbers_are_even_and_neighbours_in_seed_and_place_are_independent():
    size = 64
    grid = uniforms([s for s in range(size) for _ in range(size)], [p for _ in range(size) for p in range(size)])
    grid_SP = grid.view(size, size)
    assert 0 <= grid.min() < 0.001
    assert 0.999 < grid.max() < 1
    assert grid.unique().numel() == size * size
    tenths = (grid * 10).long().bincount(minlength=10) / grid.numel()
    assert tenths.tolist() == pytest.approx([0.1] * 10, abs=0.02)  # four deviations of a share are 0.019
    for one, other in ((grid_SP[1:], grid_SP[:-1]), (grid_SP[:, 1:], grid_SP[:, :-1])):
        correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
        assert abs(correlation) < 0.065  # four deviations for 4,032 pairs


def told(log_probs_BW: torch.Tensor, params: list[SamplingParams], drawn: list[int]):
    probs_BW = probabilities(log_probs_BW, params)
    return policies(Draws(drawn, log_probs_BW, probs_BW > 0), list(range(len(drawn))), params)


def test_what_a_token_was_drawn_from_by_hand():
    log_probs_1W = log_probs_of(0.1, 0.5, 0.15, 0.25)
    params = [
        SamplingParams(temperature=0.5),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.4),
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.5, top_p=0.9),
    ]
    found = told(log_probs_1W.expand(6, -1), params, [3, 3, 2, 1, 1, 3])
    squares = 0.1**2 + 0.5**2 + 0.15**2 + 0.25**2
    expected = [0.25**2 / squares, 0.25 / 0.75, 0.15 / 0.9, 0.5 / 0.75, 1.0, 0.25**2 / (0.5**2 + 0.25**2)]
    assert torch.tensor([one.log_prob for one in found]).exp().tolist() == pytest.approx(expected, rel=1e-6)
    kept = [None if one.kept_ids is None else one.kept_ids.tolist() for one in found]
    assert kept == [None, [1, 3], [1, 2, 3], [1, 3], [1], [1, 3]]


def test_what_a_row_was_drawn_from_has_the_same_bits_beside_others():
    log_probs_BW = torch.randn(30, 41, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    kinds = [SamplingParams(temperature=0.7), SamplingParams(top_k=5), SamplingParams(temperature=1.3, top_p=0.9)]
    drawn = log_probs_BW.argmax(-1).tolist()
    beside = told(log_probs_BW, kinds * 10, drawn)
    for row, one in enumerate(beside):
        (alone,) = told(log_probs_BW[row : row + 1], [kinds[row % 3]], [drawn[row]])
        assert alone.log_prob == one.log_prob
        assert alone.kept_ids is one.kept_ids is None or torch.equal(alone.kept_ids, one.kept_ids)
