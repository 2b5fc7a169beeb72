"""Closeness of two networks, against its definition over windows taken one by one."""

import math

import pytest
import torch

from gorae.checkpoint import Closeness, compare
from gorae.checkpoint import closeness as closeness_module
from gorae.config import ModelConfig
from gorae.model import Network

CONFIG = ModelConfig.dense(
    vocab_size=50, model_dim=32, num_layers=2, num_heads=2, head_dim=16, dense_dim=48, init_std=0.3
)


@pytest.fixture
def networks() -> tuple[Network, Network]:
    original, result = Network(CONFIG, seed=1), Network(CONFIG, seed=1)
    with torch.no_grad():
        result.head_WD.mul_(1.1)
    return original, result


def drawn(num_tokens: int) -> list[int]:
    return torch.randint(50, (num_tokens,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.no_grad()
def by_definition(networks, windows: list[list[int]], num_start: int) -> Closeness:
    divergences, surprises = [], ([], [])
    for window in windows:
        p, q = (one.logits(one(torch.tensor([window])).hidden_BTD[0]).double().softmax(-1) for one in networks)
        for place in range(max(1, num_start), len(window)):
            divergences.append(float((p[place - 1] * (p[place - 1] / q[place - 1]).log()).sum()))
            for surprise, probabilities in zip(surprises, (p, q), strict=True):
                surprise.append(-math.log(probabilities[place - 1, window[place]]))
    perplexities = [math.exp(sum(one) / len(one)) for one in surprises]
    p99 = torch.tensor(divergences, dtype=torch.float64).quantile(0.99).item()
    return Closeness(len(divergences), *perplexities, sum(divergences) / len(divergences), p99)


@pytest.mark.parametrize("start_ids", [[], [3], [3, 4]])
@pytest.mark.parametrize(("num_tokens", "num_windows"), [(10, 1), (37, 1), (70, 2), (500, 3)])
def test_it_is_what_its_definition_says(networks, monkeypatch, start_ids, num_tokens, num_windows):
    monkeypatch.setattr(closeness_module, "WINDOW", 32)
    monkeypatch.setattr(closeness_module, "MOST_TOKENS", 100)
    monkeypatch.setattr(closeness_module, "_ELEMENTS_AT_ONCE", 50 * 7)
    token_ids = drawn(num_tokens)
    width = min(32 - len(start_ids), num_tokens)
    windows = [[*start_ids, *token_ids[begin : begin + width]] for begin in range(0, num_windows * width, width)]
    expected = by_definition(networks, windows, len(start_ids))
    found = compare(*networks, token_ids, start_ids=start_ids)
    assert found.num_tokens == expected.num_tokens
    for name in ("original_perplexity", "result_perplexity", "mean_kl", "p99_kl"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4)
    assert found.mean_kl > 0


def test_a_network_is_no_distance_from_itself(networks):
    found = compare(networks[0], networks[0], drawn(100))
    assert (found.mean_kl, found.p99_kl) == (0, 0)
    assert found.original_perplexity == found.result_perplexity > 1


def test_a_text_of_one_token_is_refused(networks):
    with pytest.raises(ValueError, match="the text has fewer than two tokens"):
        compare(*networks, [7])
