"""Speculation: tokens tried before the network has said them, and accepted only where it says the same.

A pass over several tokens of a request costs little more than a pass over one, as long as what it costs is to read the
weights. So guesses of the next tokens ("drafts") are given to the network along with the last one. At each place the
next token is drawn as ever, by the place's own number; as long as the guess is what is drawn, the place after it counts
too. Token for token, this is the reply that comes without guesses. Whether it pays is for gain.py to say.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

from gorae.engine.draft_mtp import NextTokenDrafter
from gorae.engine.draft_ngram import RepetitionDrafter
from gorae.engine.gain import Acceptance, Offer, PassCosts, best_length
from gorae.engine.passage import Part
from gorae.engine.request import Request
from gorae.engine.runner import Count
from gorae.model import Network

Mode = Literal["auto", "ngram", "mtp"]

MOST_GUESSES = 8  # of a request at once, by repetition
MOST_OF_MODULE = 3  # each takes a pass of the module, and reads what the module itself said of the one before
MOST_PLACES = 256  # of all requests at once: beyond, products take longer than reading weights, whatever the machine


class Drafter(Protocol):
    """Guesses what follows running requests."""

    def draft(self, requests: Sequence[Request], num_tokens: int) -> list[list[int]]:
        """Up to `num_tokens` guesses for each of the requests, which are all that run."""
        ...

    def note(self, requests: Sequence[Request], part: Part) -> None:
        """Learn what the network said of the next tokens of requests that share a row."""
        ...

    def forget(self, request: Request) -> None:
        """The request has left its row."""
        ...

    def clear(self) -> None:
        """All requests have."""
        ...


class Places:
    """Where tokens are to be drawn, request by request: after its last one, and after each of its guesses."""

    def __init__(self, requests: Sequence[Request], drafts: Sequence[list[int]]) -> None:
        self.drafts = drafts
        self.requests: list[Request] = []
        self.written: list[list[int]] = []  # the reply up to the place
        for request, draft in zip(requests, drafts, strict=True):
            for end in range(len(draft) + 1):
                self.requests.append(request)
                self.written.append([*request.token_ids, *draft[:end]] if end else request.token_ids)
        self.params = [request.params for request in self.requests]
        self.seeds = [request.seed for request in self.requests]
        self.allowed = [one.allowed(written) for one, written in zip(self.requests, self.written, strict=True)]

    def reached(self, token_ids: Sequence[int]) -> list[int]:
        """The places that count, of those at which `token_ids` were drawn: up to each request's first wrong guess."""
        if not any(self.drafts):
            return list(range(len(self.requests)))
        reached, place = [], 0
        for draft in self.drafts:
            right = [guess == token for guess, token in zip(draft, token_ids[place:], strict=False)]
            num_right = [*right, False].index(False)
            reached += range(place, place + num_right + 1)
            place += len(draft) + 1
        return reached


def possible(request: Request, draft: list[int]) -> list[int]:
    """The guesses up to the first one that the request's constraint forbids."""
    return draft[: request.guide.num_possible(request.token_ids, draft)] if request.guide else draft


class Speculation:
    """Guesses for running requests: by what their texts repeat ("ngram"), by the next-token module ("mtp"), or "auto".

    "auto" asks both, if the network has such a module, and takes as many guesses as are expected to pay. That depends
    on how often they were right and on how long passes took, by `clock`; it can change when a token comes, never which.
    """

    def __init__(
        self,
        network: Network,
        mode: Mode | None,
        *,
        count: Count | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if mode not in (None, *get_args(Mode)):
            raise ValueError(f"speculation={mode!r} is not known; use one of {', '.join(get_args(Mode))}, or None")
        if mode == "mtp" and not network.mtp:
            raise ValueError('speculation="mtp" needs a next-token module and this model has none; use "ngram"')
        self.is_auto = mode == "auto"
        self.repetitions = RepetitionDrafter() if mode in ("auto", "ngram") else None
        self.module = NextTokenDrafter(network, count) if mode in ("auto", "mtp") and network.mtp else None
        self.drafters: list[Drafter] = [one for one in (self.repetitions, self.module) if one]
        self.by_repetition, self.by_module = Acceptance(), Acceptance()
        self.costs = PassCosts(network.config)
        self.clock = clock
        self.since = 0.0
        self.offers: list[Offer] = []

    def draft(self, requests: Sequence[Request], has_room: Callable[[int], bool]) -> list[list[int]]:
        """Guesses for every running request, no more than each row `has_room` for together with its last token."""
        self.since = self.clock()
        self.offers = []
        longest = min(MOST_GUESSES, MOST_PLACES // max(1, len(requests)) - 1)
        longest = min(longest, max([request.num_left - 1 for request in requests], default=0))
        if longest < 1 or not self.drafters:
            return [[] for _ in requests]
        longest = next((length for length in range(longest, 0, -1) if has_room(1 + length)), 0)
        drafts = self.repetitions.draft(requests, longest) if self.repetitions else [[] for _ in requests]
        self.offers = [self.offer(one, draft, longest) for one, draft in zip(requests, drafts, strict=True)]
        if self.is_auto:
            is_known = self.costs.is_fresh(len(requests))
            length = best_length(self.offers, longest, self.costs.of) if is_known else 0
        else:
            length = longest
        if self.module and length and not all(drafts):
            guesses = self.module.draft(requests, min(length, MOST_OF_MODULE))
            drafts = [draft or guess for draft, guess in zip(drafts, guesses, strict=True)]
        drafts = [draft[: min(length, one.num_left - 1)] for one, draft in zip(requests, drafts, strict=True)]
        return [possible(request, draft) for request, draft in zip(requests, drafts, strict=True)]

    def offer(self, request: Request, draft: list[int], longest: int) -> Offer:
        """What may be tried for a request: the repetition that was found, else what the module will say."""
        acceptance = self.by_repetition if draft else self.by_module
        num_tokens = len(draft) if draft else min(longest, MOST_OF_MODULE) if self.module else 0
        return Offer(min(num_tokens, request.num_left - 1), acceptance, request.request_id)

    def passed(self, num_tokens: int) -> None:
        """The pass that tries the guesses is over; with padding, it had so many tokens."""
        if self.is_auto:
            self.costs.note(num_tokens, self.clock() - self.since)

    def settle(self, requests: Sequence[Request], drafts: Sequence[list[int]], num_right: Sequence[int]) -> None:
        """The first `num_right` guesses of each request have become its tokens."""
        if not self.offers:
            return
        for offer, request, draft, right in zip(self.offers, requests, drafts, num_right, strict=True):
            if draft:
                was_wrong = right < len(draft) and not request.finish_reason
                offer.acceptance.note(offer.request_id, right, was_wrong=was_wrong)
            elif offer.num_tokens:
                offer.acceptance.rest(offer.request_id)

    def note(self, requests: Sequence[Request], part: Part) -> None:
        """Learn what the network said of the next tokens of requests that share a row."""
        for drafter in self.drafters:
            drafter.note(requests, part)

    def clear(self) -> None:
        """Forget every request."""
        for drafter in self.drafters:
            drafter.clear()
        self.offers = []

    def forget(self, request: Request) -> None:
        """The request has left its row."""
        for drafter in self.drafters:
            drafter.forget(request)
        if request.finish_reason:
            self.by_repetition.forget(request.request_id)
            self.by_module.forget(request.request_id)
