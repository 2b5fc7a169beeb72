"""Guesses by the network's first next-token module (arXiv 2412.19437, section 2.2), which reads the network's features.

The module attends to the places before, so it has a memory of its own: a cache of one layer, a row for each running
request, beside the engine's. It begins with the last `WINDOW` tokens read, grows with the reply, and is dropped with
the row. For guesses after the first, the module reads its own features in place of the network's. A guess is drawn as
the token itself will be, by the place's own number: where the two distributions are close, so are the two draws.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gorae.config import forward_flops
from gorae.engine.passage import Part
from gorae.engine.request import Request
from gorae.engine.runner import Count
from gorae.engine.sampler import draw
from gorae.kernels import log_softmax
from gorae.model import Cache, Network

WINDOW = 128  # features that wait to be read by the module, at most; those before are left out


class NextTokenDrafter:
    """Rows of the module's memory, in the order of `requests`, and the features that it has not read yet."""

    def __init__(self, network: Network, count: Count | None) -> None:
        self.network = network
        self.count = count
        self.config = replace(network.config, num_layers=1, num_dense_layers=0)
        self.clear()

    def clear(self) -> None:
        self.cache = Cache(self.config, is_fast=self.network.is_fast, device=self.network.device)
        self.requests: list[Request] = []
        self.unread: dict[int, list[Tensor]] = {}

    @torch.inference_mode()
    def note(self, requests: Sequence[Request], part: Part) -> None:
        """Features of tokens that follow those noted before, for requests that share them."""
        features_TD = part.hidden_TD[-WINDOW:].clone()
        for request in requests:
            unread = self.unread.setdefault(request.request_id, [])
            unread.append(features_TD)
            while sum(map(len, unread[1:])) >= WINDOW:
                unread.pop(0)
                self.leave(request)  # its memory would have a gap

    @torch.inference_mode()
    def draft(self, requests: Sequence[Request], num_tokens: int) -> list[list[int]]:
        self.seat(requests)
        rows = slice(0, len(self.requests))
        unread = [torch.cat(self.unread.pop(request.request_id)) for request in self.requests]
        counts_B = torch.tensor([len(features_TD) for features_TD in unread])
        hidden_BTD = torch.nn.utils.rnn.pad_sequence(unread, batch_first=True)
        next_ids_BT = torch.zeros(hidden_BTD.shape[:2], dtype=torch.long)
        for row, (request, features_TD) in enumerate(zip(self.requests, unread, strict=True)):
            following = request.tokens_from(request.num_tokens - len(features_TD))
            next_ids_BT[row, : len(following)] = torch.tensor(following)
        device = self.cache.device
        hidden_BTD = self.read(hidden_BTD, next_ids_BT.to(device), rows)
        hidden_BD = hidden_BTD[torch.arange(len(counts_B), device=device), (counts_B - 1).to(device)]
        self.cache.lengths_B[rows] += counts_B
        lengths_B = self.cache.lengths_B[rows].clone()
        drafts: list[list[int]] = [[] for _ in self.requests]
        while True:
            self.draw(hidden_BD, drafts)
            if len(drafts[0]) == num_tokens:
                break
            guessed_B1 = torch.tensor([draft[-1:] for draft in drafts], device=device)
            hidden_BD = self.read(hidden_BD[:, None], guessed_B1, rows)[:, 0]
            self.cache.lengths_B[rows] += 1
        self.cache.lengths_B[rows] = lengths_B  # guesses are read again, as what they turn out to be
        found = dict(zip((request.request_id for request in self.requests), drafts, strict=True))
        return [found[request.request_id] for request in requests]

    def read(self, hidden_BTD: Tensor, next_ids_BT: Tensor, rows: slice) -> Tensor:
        if self.count:
            context = self.cache.lengths_B[rows].double().mean().item() + hidden_BTD.shape[1] / 2
            flops = forward_flops(self.config, next_ids_BT.numel(), context=context)
            self.count(flops=flops, tokens=0)  # none of the network's own
        return self.network.predict_next(hidden_BTD, next_ids_BT, self.cache, rows)

    def draw(self, hidden_BD: Tensor, drafts: Sequence[list[int]]) -> None:
        """Append a guess to every request's drafts."""
        log_probs_BW = log_softmax(self.network.logits(hidden_BD)).cpu()
        written = [[*request.token_ids, *draft] for request, draft in zip(self.requests, drafts, strict=True)]
        params, seeds = [one.params for one in self.requests], [one.seed for one in self.requests]
        allowed = [request.allowed(tokens) for request, tokens in zip(self.requests, written, strict=True)]
        guesses = draw(log_probs_BW, params, seeds, written, allowed).token_ids
        for draft, guess in zip(drafts, guesses, strict=True):
            draft.append(guess)

    def seat(self, requests: Sequence[Request]) -> None:
        """Give an empty row to every request without one; requests that run are all asked for at once."""
        seated = {request.request_id for request in self.requests}
        self.requests += [request for request in requests if request.request_id not in seated]
        assert len(self.requests) == len(requests), "a request that left has been forgotten"
        while self.cache.num_rows < len(self.requests):
            self.cache.add_row()

    def leave(self, request: Request) -> None:
        """Give up a request's row."""
        if request in self.requests:
            row = self.requests.index(request)
            self.requests.pop(row)
            self.cache.arrange([other for other in range(self.cache.num_rows) if other != row])

    @torch.inference_mode()
    def forget(self, request: Request) -> None:
        self.unread.pop(request.request_id, None)
        self.leave(request)
