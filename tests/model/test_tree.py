"""Rows that begin alike: computed as a tree, each has the bits it has alone, and the gradient is that of all rows."""

import pytest
import torch

from gorae.config import ModelConfig
from gorae.model import shared_tokens
from gorae.model.tree import tree_of

# Groups of one beginning, replies of one beginning among them, a row twice, a row that another goes on, nothing shared.
ROWS = [
    [5, 6, 7, 8, 9, 10],
    [5, 6, 7, 8, 11],
    [5, 6, 7, 12, 13, 14, 15, 16],
    [*range(20, 60), 1, 2],
    [*range(20, 60), 1, 2],
    [*range(20, 60)],
    [*range(20, 60), 3, 4, 5],
    [9],
]


@pytest.fixture
def config(every_config) -> ModelConfig:
    return every_config


def padded(rows: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths_B = torch.tensor([len(row) for row in rows])
    token_ids_BT = torch.full((len(rows), int(lengths_B.max())), pad_id)
    for row, ids in enumerate(rows):
        token_ids_BT[row, : len(ids)] = torch.tensor(ids)
    return token_ids_BT, lengths_B


def test_every_token_is_computed_once():
    token_ids_BT, lengths_B = padded(ROWS, 0)
    beginnings = {tuple(row[: place + 1]) for row in ROWS for place in range(len(row))}
    tree = tree_of(token_ids_BT, lengths_B)
    assert len(tree.token_ids_N) == len(beginnings)
    assert int((lengths_B - shared_tokens(token_ids_BT, lengths_B)).sum()) == len(beginnings)
    for row, ids in enumerate(ROWS):
        nodes_T = tree.nodes_BT[row, : len(ids)]
        assert tree.token_ids_N[nodes_T].tolist() == ids
        assert tree.positions_N[nodes_T].tolist() == list(range(len(ids)))


@pytest.mark.parametrize("pad_id", [0, 7])
def test_rows_have_the_bits_that_each_has_alone(network, pad_id):
    token_ids_BT, lengths_B = padded(ROWS, pad_id)
    with torch.no_grad():
        found = network.read_rows(token_ids_BT, lengths_B)
        for row, ids in enumerate(ROWS):
            alone = network(torch.tensor([ids]))
            assert torch.equal(found.hidden_BTD[row, : len(ids)], alone.hidden_BTD[0])
            for ours, theirs in zip(found.routings, alone.routings, strict=True):
                for one, other in zip(ours, theirs, strict=True):
                    assert torch.equal(one.unflatten(0, token_ids_BT.shape)[row, : len(ids)], other)


def test_the_gradient_is_that_of_all_rows(network):
    token_ids_BT, lengths_B = padded(ROWS, 0)
    is_read_BT1 = (torch.arange(token_ids_BT.shape[1]) < lengths_B[:, None])[..., None]
    gradients = []
    for read in (network, lambda ids_BT: network.read_rows(ids_BT, lengths_B)):
        network.zero_grad()
        hidden_BTD = read(token_ids_BT).hidden_BTD
        weights_BTD = torch.randn(hidden_BTD.shape, generator=torch.Generator().manual_seed(0))
        (hidden_BTD * weights_BTD * is_read_BT1).sum().backward()
        gradients.append({name: one.grad for name, one in network.named_parameters() if one.grad is not None})
    whole, shared = gradients
    assert set(whole) == set(shared)
    for name, expected in whole.items():
        apart = (shared[name] - expected).norm() / expected.norm()
        assert apart < 1e-5, name  # float32 sums of up to 60 rows in another order
