"""One forward pass over the rows of several requests, and each row's share of it. Knows no request."""

from typing import NamedTuple

from torch import Tensor

from gorae.model import Features


class Part(NamedTuple):
    """A row's share: the features of its tokens from the place `start` of its sequence on."""

    start: int
    hidden_TD: Tensor


class Passage(NamedTuple):
    """A pass over rows that begin at `starts`; the first `counts` tokens of each are its own, the others padding."""

    starts: list[int]
    counts: list[int]
    features: Features

    def part(self, row: int) -> Part:
        return Part(self.starts[row], self.features.hidden_BTD[row, : self.counts[row]])
