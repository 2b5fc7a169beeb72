"""The arithmetic of a mismatch by hand; and its corrections on a network small enough to try every reply there is.

With 5 tokens and replies of 2, all 25 replies of a sampler with rounded weights are known with their probabilities, so
the gradient that endless rollouts would give is a sum, and nothing here is left to chance.
"""

import itertools
import math

import pytest
import torch

from gorae.config import ModelConfig
from gorae.model import Network
from gorae.posttrain import (
    GrpoSettings,
    PolicyBatch,
    masked,
    measure_mismatch,
    of_sequences,
    policy_loss,
    truncated,
)
from gorae.posttrain.mismatch import CORRECTIONS
from gorae.train import token_log_probs

TINY = ModelConfig(
    vocab_size=5,
    model_dim=12,
    num_layers=2,
    num_heads=2,
    query_rank=6,
    latent_dim=6,
    nope_dim=4,
    rope_dim=2,
    value_dim=4,
    dense_dim=12,
    expert_dim=6,
    num_experts=4,
    num_active_experts=2,
    init_std=0.4,
)
REPLIES = torch.tensor(list(itertools.product(range(5), repeat=2)))
ADVANTAGES = torch.randn(25, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def log_probs(network: Network) -> torch.Tensor:
    """[25, 2]: of both tokens of every reply to the prompt [0]."""
    rows = torch.cat((torch.zeros(25, 1, dtype=torch.long), REPLIES), dim=1)
    return token_log_probs(network, network(rows[:, :-1]).hidden_BTD.flatten(0, 1), REPLIES.flatten()).view(25, 2)


def rounded(network: Network, levels: int) -> Network:
    """A copy whose matrices have so many steps on either side of 0: 7 are those of 4 bits."""
    copy = Network(network.config)
    copy.load_state_dict(network.state_dict())
    with torch.no_grad():
        for matrix in (one for one in copy.parameters() if one.ndim > 1):
            step = matrix.abs().max() / levels
            matrix.copy_((matrix / step).round() * step)
    return copy


def flat_gradient(network: Network, loss: torch.Tensor, **options) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, **options)
    return torch.cat([one.flatten() for one in found if one is not None]).double()


@pytest.fixture(scope="module")
def pair():
    trainer = Network(TINY, seed=2)
    return trainer, rounded(trainer, 7)


@pytest.fixture(scope="module")
def expected(pair):
    """Weights [25, 2] → the gradient that endless replies of the sampler give so weighted; None: the trainer's own."""
    trainer, sampler = pair
    trained = log_probs(trainer)
    with torch.no_grad():
        share_of = {"trainer": trained.double().sum(1).exp(), "sampler": log_probs(sampler).double().sum(1).exp()}

    def expected(weights=None):
        shares, c = (share_of["trainer"], 1.0) if weights is None else (share_of["sampler"], weights)
        reward = (shares * ADVANTAGES)[:, None] * c / 2
        return flat_gradient(trainer, (reward * trained).sum(), retain_graph=True)

    return expected


@pytest.fixture(scope="module")
def log_ratio(pair):
    with torch.no_grad():
        return (log_probs(pair[0]) - log_probs(pair[1])).double()


def whole(log_ratio):
    return of_sequences(log_ratio.flatten(), [2] * 25).view(25, 2)


def relative_bias(expected, weights) -> float:
    exact = expected()
    return ((expected(weights) - exact).norm() / exact.norm()).item()


def test_a_sampler_of_rounded_weights_biases_the_gradient_and_its_whole_ratio_takes_the_bias_away(expected, log_ratio):
    assert relative_bias(expected, torch.ones(25, 2)) > 0.1
    assert relative_bias(expected, truncated(whole(log_ratio), most=1e9)) < 1e-5  # float32 passes


def test_truncation_leaves_a_part_of_the_bias_and_the_less_the_higher_its_cap(expected, log_ratio):
    left = [relative_bias(expected, truncated(whole(log_ratio), most=most)) for most in (1.05, 1.2, 1.5, 1e9)]
    assert left == sorted(left, reverse=True)
    assert left[0] < relative_bias(expected, torch.ones(25, 2))


def test_the_ratio_of_single_tokens_reduces_the_bias_but_does_not_remove_it(expected, log_ratio):
    left = relative_bias(expected, truncated(log_ratio))
    assert 0.01 < left < 0.7 * relative_bias(expected, torch.ones(25, 2))


def test_masking_reduces_the_bias_where_few_replies_are_masked(expected, log_ratio):
    left = relative_bias(expected, masked(whole(log_ratio), least=0.25, most=4.0))
    assert left < 0.7 * relative_bias(expected, torch.ones(25, 2))


def test_the_bias_that_is_told_bounds_that_of_any_rewards(pair, expected, log_ratio):
    """25 replies as often as the sampler says them stand for its samples."""
    trainer, sampler = pair
    with torch.no_grad():
        sampled, scored = log_probs(sampler).double(), log_probs(trainer).double()
    copies = (sampled.sum(1).exp() * 20_000).round().int()
    drawn, read = (side.repeat_interleave(copies, 0).tolist() for side in (sampled, scored))
    told = measure_mismatch(drawn, read).corrections
    trained = log_probs(trainer).flatten()
    largest = max(flat_gradient(trainer, one, retain_graph=True).norm() for one in trained)
    largest *= ADVANTAGES.abs().max()
    weights = {"none": torch.ones(25, 2), "TIS, tokens": truncated(log_ratio), "MIS, tokens": masked(log_ratio)}
    weights |= {"TIS, sequences": truncated(whole(log_ratio)), "MIS, sequences": masked(whole(log_ratio))}
    exact, shares = expected(), sampled.sum(1).exp()
    for name, c in weights.items():
        distance = (shares[:, None] * (c - whole(log_ratio).exp()).abs() / 2).sum().item()
        assert told[name].bias == pytest.approx(distance, abs=2e-3), f"{name}: by rounding to whole copies"
        assert (expected(c) - exact).norm() <= distance * largest, name
    assert told["TIS, sequences"].bias < told["TIS, tokens"].bias < told["none"].bias


def loss_gradient(pair, correction: str) -> torch.Tensor:
    """What the loss itself gives for all 25 replies, each with an advantage as large as it is often sampled."""
    trainer, sampler = pair
    with torch.no_grad():
        sampled = log_probs(sampler)
    batch = PolicyBatch(
        torch.cat((torch.zeros(25, 1, dtype=torch.long), REPLIES), dim=1),
        torch.tensor([[0.0, 1.0, 1.0]]).expand(25, -1),
        advantages_N=(sampled.double().sum(1).exp() * ADVANTAGES).repeat_interleave(2),
        sampled_log_probs_N=sampled.flatten(),
        divisor=2,
        figures={},
    )
    loss = policy_loss(trainer, batch, settings=GrpoSettings(correction=correction, rollouts="int4"))
    return -flat_gradient(trainer, loss.total)


def test_the_loss_weights_tokens_by_the_correction_that_is_set(pair, expected, log_ratio):
    weights = {"tis_tokens": truncated(log_ratio), "mis_tokens": masked(log_ratio)}
    weights |= {"tis_sequences": truncated(whole(log_ratio)), "mis_sequences": masked(whole(log_ratio))}
    for name, c in weights.items():
        torch.testing.assert_close(loss_gradient(pair, name), expected(c), rtol=1e-3, atol=1e-6, msg=name)


def test_a_correction_of_whole_replies_restores_the_gradient_in_the_loss(pair, expected):
    near = pair[0], rounded(pair[0], 20)
    with torch.no_grad():
        ratio = whole(log_probs(near[0]) - log_probs(near[1])).exp()
    assert ratio.min() > 0.5
    assert ratio.max() < 2, "nothing is truncated or masked"
    exact = expected()
    left = {name: ((loss_gradient(near, name) - exact).norm() / exact.norm()).item() for name in CORRECTIONS}
    assert left["tis_sequences"] == left["mis_sequences"] < 1e-5  # float32 passes
    assert left["none"] > 0.05
    assert left["tis_tokens"] < 0.7 * left["none"]


def test_equal_log_probs_have_no_mismatch_and_need_no_correction():
    found = measure_mismatch([[-1.0, -2.0], [-0.5]], [[-1.0, -2.0], [-0.5]])
    assert found.is_exact
    assert (found.kl, found.clipped_share, found.token_share, found.sequence_share) == (0, 0, 1, 1)
    assert found.ratio_quantiles == (1,) * 5
    assert {one.bias for one in found.corrections.values()} == {0}
    assert found.best == "none"


def test_the_figures_of_two_replies_by_hand():
    found = measure_mismatch([[-1.0, -2.0], [-0.5]], [[-1.0 + math.log(1.5), -2.0], [-0.5 + math.log(0.5)]])
    assert found.mean_difference == pytest.approx((math.log(1.5) + math.log(2)) / 3)
    assert found.max_difference == pytest.approx(math.log(2))
    assert found.kl == pytest.approx((0.5 - math.log(1.5) - 0.5 + math.log(2)) / 3)
    assert found.clipped_share == pytest.approx(2 / 3)
    assert found.token_share == pytest.approx(3**2 / (3 * (1.5**2 + 1 + 0.5**2)))
    assert found.sequence_share == pytest.approx(2**2 / (2 * (1.5**2 + 0.5**2)))
    assert found.corrections["none"].bias == pytest.approx((abs(1 - 1.5) + abs(1 - 0.5)) / 2)
    assert found.corrections["none"].noise == pytest.approx(192**-0.5)
    assert (found.num_sequences, found.num_tokens) == (2, 3)


def test_clipping_drops_the_ratios_that_left_the_interval_upwards_or_downwards_by_the_advantage():
    found = measure_mismatch([[0.0], [0.0]], [[math.log(1.5)], [math.log(0.5)]], num_replies=1)
    # rewarded: 0 and 0.5; punished: 1.5 and 0
    assert found.corrections["GRPO's clipping"].bias == pytest.approx((1.5 / 2 + 0.5 / 2) / 2)


def test_truncated_weights_end_at_their_cap_and_masked_ones_are_0_outside():
    log_ratio = torch.tensor([0.1, 0.4, 1.0, 3.0, 900.0], dtype=torch.float64).log()
    log_ratio[-1] = 900.0
    assert truncated(log_ratio).tolist() == pytest.approx([0.1, 0.4, 1, 2, 2])
    assert masked(log_ratio).tolist() == pytest.approx([0, 0, 1, 0, 0])


def test_a_few_replies_of_ratio_0_are_told_to_need_a_correction():
    """One reply in ten is one that the trainer would hardly say; the others are as likely as before."""
    found = measure_mismatch([[-1.0] * 4] * 10, [[-9.0] * 4, *[[-1.0] * 4] * 9])
    assert found.best in ("TIS, sequences", "MIS, sequences")
    assert found.corrections[found.best].error < found.corrections["none"].error


@pytest.mark.parametrize(
    ("sampled", "scored", "message"),
    [
        ([[-1.0]], [[-1.0, -2.0]], r"replies of \[1\] sampled and \[2\] scored"),
        ([], [], "at least one a reply"),
        ([[]], [[]], "at least one a reply"),
        ([[-1.0]], [[-math.inf]], "the trainer gives a sampled token the log-probability -inf"),
        ([[math.nan]], [[-1.0]], "the sampler gives a sampled token the log-probability nan"),
    ],
)
def test_what_can_not_be_compared_is_refused(sampled, scored, message):
    with pytest.raises(ValueError, match=message):
        measure_mismatch(sampled, scored)
