"""Preferences: loss and gradient against float64 by hand, what it begins with to the bit, and that it learns."""

import math
from functools import partial

import pytest
import torch

from gorae.model import Network
from gorae.posttrain import DpoSettings, Preference, preference_batches, preference_loss, reference_log_probs
from gorae.posttrain.dpo import rows_of
from gorae.train import HybridOptimizer, LowRankAdapter, OptimizerSettings

PAIRS = [
    Preference([3, 4, 5], [6, 7, 8, 9, 1], [10, 1]),
    Preference([11], [12, 1], [13, 14, 15, 1]),
    Preference([3, 4], [20, 21, 1], [21, 20, 1]),
]
BETA = 0.3


def log_prob(network: Network, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """Of one reply by itself, in float64 from the logits on; with autograd."""
    ids = torch.tensor([prompt + reply])
    hidden = network(ids[:, :-1]).hidden_BTD[0].double()
    logits = hidden @ network.head_WD.double().T
    return logits.log_softmax(-1)[len(prompt) - 1 :].gather(-1, torch.tensor(reply)[:, None]).sum()


def reference_of(network: Network, pairs=PAIRS, batch_size: int = 2) -> torch.Tensor:
    return reference_log_probs(network, pairs, batch_size=batch_size, pad_id=2, count=lambda batch: None)


def batch_of(reference, pairs=PAIRS, **named):
    return preference_batches(pairs, reference, **{"batch_size": 3, "seed": 0, "pad_id": 2} | named)


def test_loss_figures_and_gradient_are_those_computed_by_hand(config):
    network, other = Network(config, seed=1), Network(config, seed=2)
    found = preference_loss(network, batch_of(reference_of(other))(0), beta=BETA)
    found.total.backward()
    gradients = {name: one.grad for name, one in network.named_parameters()}
    network.zero_grad()
    rewards = [
        [
            BETA * (log_prob(network, one.prompt_ids, reply) - log_prob(other, one.prompt_ids, reply).detach())
            for reply in (one.chosen_ids, one.rejected_ids)
        ]
        for one in PAIRS
    ]
    margins = [chosen - rejected for chosen, rejected in rewards]
    total = torch.stack([torch.log1p(torch.exp(-margin)) for margin in margins]).mean()
    total.backward()
    # hidden states are float32, and so are the log-probabilities that are added up
    assert found.total.item() == pytest.approx(total.item(), abs=1e-5)
    chosen, rejected = (sum(pair[place].item() for pair in rewards) / 3 for place in (0, 1))
    expected = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sum(margin.item() > 0 for margin in margins) / 3,
        "loss": total.item(),
    }
    assert {name: found.figures[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert len(gradients) > 20
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_model_that_is_its_own_reference_begins_at_log_2_to_the_bit_whatever_the_batches_were(model):
    for batch_size in (1, 2, 3):
        batch = batch_of(reference_of(model.network, batch_size=batch_size))(0)
        found = preference_loss(model.network, batch, beta=BETA)
        names = ("rewards/chosen", "rewards/rejected", "rewards/margins")
        assert [found.figures[name] for name in names] == [0.0, 0.0, 0.0]
        assert found.total.item() == pytest.approx(math.log(2), abs=1e-15)


def test_references_follow_their_pairs_into_every_batch(model):
    reference = reference_of(model.network)
    batch_at = batch_of(reference, batch_size=2, seed=3)
    seen = []
    for step in range(3):
        batch = batch_at(step)
        assert batch.token_ids_BT.shape[0] == 4
        found = preference_loss(model.network, batch, beta=BETA)
        assert found.figures["rewards/margins"] == 0
        seen += batch.reference_2P.T.tolist()
    assert sorted(seen) == sorted(reference.tolist() * 2), "two epochs"


def test_prompts_and_padding_have_no_say():
    batch = rows_of(PAIRS, 2)
    assert batch.weights_BT.sum(1).tolist() == [5, 2, 3, 2, 4, 3]
    assert not (batch.weights_BT * (batch.token_ids_BT == 2)).any()


@pytest.mark.parametrize("is_low_rank", [False, True])
def test_what_was_chosen_becomes_likelier_and_what_was_not_less(config, is_low_rank):
    network = Network(config, seed=1)
    batch_at = batch_of(reference_of(network))
    adapter = LowRankAdapter(network, rank=4) if is_low_rank else None
    parameters = adapter.parameters.items() if adapter else network.named_parameters()
    optimizer = HybridOptimizer(parameters, OptimizerSettings(lr=3e-3, matrix_lr=None))
    loss = partial(preference_loss, beta=BETA)
    figures = []
    for step in range(12):
        found = loss(network, batch_at(step))
        found.total.backward()
        optimizer.step(1.0)
        if adapter:
            adapter.write()
        figures.append(found.figures)
    assert figures[-1]["rewards/accuracies"] == 1.0
    assert figures[-1]["rewards/rejected"] < 0
    assert figures[-1]["rewards/margins"] > 0.5
    assert figures[-1]["loss"] < 0.5 * figures[0]["loss"]


@pytest.mark.parametrize("given", [{"beta": 0.0}, {"batch_size": 0}, {"save_every": 0}])
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}=0"):
        DpoSettings(**given)
