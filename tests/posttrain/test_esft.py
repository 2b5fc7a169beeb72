"""Which experts a task uses: shares against sums written out by hand, and a planted task that uses two."""

from dataclasses import replace

import pytest
import torch

from gorae.kernels import Routing
from gorae.model import Network
from gorae.posttrain import esft, expert_shares, relevant_experts

ROWS = [[3, 4, 5, 6, 7], [8, 9, 10], [11]]


def by_hand(network: Network, rows, score: str) -> torch.Tensor:
    """Loops over rows, layers, tokens and slots."""
    totals = torch.zeros(2, network.config.num_experts, dtype=torch.float64)
    for row in rows:
        for layer, routing in enumerate(network(torch.tensor([row])).routings):
            for experts, weights in zip(routing.experts_NA.tolist(), routing.weights_NA.tolist(), strict=True):
                for expert, weight in zip(experts, weights, strict=True):
                    totals[layer, expert] += (weight if score == "gate" else 1) / len(row)
    return torch.stack([total / total.sum() for total in totals])


@pytest.mark.parametrize("router", ["sigmoid", "softmax"])
@pytest.mark.parametrize("score", ["gate", "token"])
def test_shares_are_the_mean_over_rows_of_the_mean_over_tokens(config, score, router):
    network = Network(replace(config, router=router, normalize_routing=router == "sigmoid"), seed=1)
    shares = expert_shares(network, ROWS, score=score)
    torch.testing.assert_close(shares, by_hand(network, ROWS, score), rtol=1e-12, atol=1e-12)


def test_both_scores_of_two_tokens_computed_by_hand():
    routing = Routing(
        scores_NE=torch.rand(2, 4),
        experts_NA=torch.tensor([[0, 2], [2, 3]]),
        weights_NA=torch.tensor([[0.75, 0.25], [0.5, 0.5]]),
    )
    assert esft.row_means(routing, "gate").tolist() == [0.375, 0, 0.375, 0.25]
    assert esft.row_means(routing, "token").tolist() == [0.5, 0, 1, 0.5]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.01, [2]), (0.4, [2]), (0.41, [0, 2]), (0.7, [0, 2]), (0.71, [0, 1, 2]), (0.9, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_the_fewest_experts_that_reach_the_share_are_taken(share, expected):
    assert esft.fewest(torch.tensor([0.3, 0.2, 0.4, 0.1, 0.0], dtype=torch.float64), share) == expected


def test_a_task_that_uses_two_experts_finds_these_two(config):
    """Planted by the routers' biases, which choose and do not weigh."""
    network, planted = Network(replace(config, num_active_experts=2), seed=1), [[2, 3], [4, 7]]
    for (name, bias_E), experts in zip(
        [one for one in network.named_buffers() if one[0].endswith("bias_E")], planted, strict=True
    ):
        assert name.startswith("blocks.")
        bias_E[experts] = 10.0
    for score in ("gate", "token"):
        assert relevant_experts(network, ROWS, share=1.0, score=score) == planted


def test_a_dense_network_and_a_task_without_rows_are_refused(network_without_experts, model):
    with pytest.raises(ValueError, match="num_experts=0, so there are none to choose"):
        relevant_experts(network_without_experts, ROWS, share=0.2)
    with pytest.raises(ValueError, match="there are no rows of the task"):
        relevant_experts(model.network, [], share=0.2)


@pytest.fixture
def network_without_experts(config) -> Network:
    return Network(
        replace(
            config, num_experts=0, num_active_experts=0, num_expert_groups=1, num_active_groups=1, num_dense_layers=3
        )
    )
