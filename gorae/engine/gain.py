"""Does speculation pay? Tokens expected of a pass, over what the pass is expected to cost.

Nouns: Acceptance (how often guesses were right), Offer (guesses that a request could try), PassCosts (what passes of so
many tokens took). Knows no clock and no token.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gorae.config import ModelConfig, count_parameters

UNKNOWN = 0.5  # the share of guesses expected to be right before any was tried
ADAPTS = 0.1  # how far one outcome moves the share of a request, a tenth as far that of all
RETRIES = 0.01  # how far a step without guesses moves a share back to UNKNOWN, so that they are tried again one day
TOKEN_COST = 0.1  # what the products of a token cost, where reading all it needs costs 1: until it has been measured
FRESH = 64  # passes; what passes without guesses take is measured again after so many
MARGIN = 1.05  # a pass with guesses has to promise so many times what one without does


class Acceptance:
    """The running share of guesses that were right: of each request, which begins with that of all before it."""

    def __init__(self) -> None:
        self.of_all = UNKNOWN
        self.of_request: dict[int, float] = {}

    def share(self, request_id: int) -> float:
        return self.of_request.get(request_id, self.of_all)

    def note(self, request_id: int, num_right: int, *, was_wrong: bool) -> None:
        """Guesses have been tried; those after the first wrong one say nothing."""
        share = self.share(request_id)
        for outcome in [1.0] * num_right + [0.0] * was_wrong:
            share += ADAPTS * (outcome - share)
            self.of_all += ADAPTS / 10 * (outcome - self.of_all)
        self.of_request[request_id] = share

    def rest(self, request_id: int) -> None:
        """Guesses could have been tried and were not."""
        share = self.share(request_id)
        self.of_request[request_id] = share + RETRIES * (UNKNOWN - share)

    def forget(self, request_id: int) -> None:
        self.of_request.pop(request_id, None)


class Offer(NamedTuple):
    """Guesses of one request: how many there are, and how likely each is right if those before it are."""

    num_tokens: int
    acceptance: Acceptance
    request_id: int

    def expected(self, num_tokens: int) -> float:
        """How many of the first `num_tokens` will be right, on average."""
        share = self.acceptance.share(self.request_id)
        return sum(share**place for place in range(1, min(num_tokens, self.num_tokens) + 1))


def best_length(offers: Sequence[Offer], longest: int, cost: Callable[[int], float]) -> int:
    """How many guesses a request, padding included, give the most tokens for a pass's cost; 0 if none pay."""

    def rate(length: int) -> float:
        num_tokens = sum(1 + offer.expected(length) for offer in offers)
        return num_tokens / cost(len(offers) * (1 + length)) / (MARGIN if length else 1.0)

    return max(range(longest + 1), key=rate)


class PassCosts:
    """What a pass costs by the number of its tokens: as measured, and between by the weights it has to read.

    More tokens of a network with experts go to more experts, whose weights are read too.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.weights = count_parameters(config)
        self.idle_share = 1 - config.num_active_experts / config.num_experts if config.num_experts else 1.0
        self.ratios: dict[int, float] = {}  # what was measured, over what is expected
        self.num_passes = 0
        self.last_pass: dict[int, int] = {}

    def note(self, num_tokens: int, seconds: float) -> None:
        size, ratio = rounded(num_tokens), max(seconds, 1e-9) / self.expected(num_tokens)
        before = self.ratios.get(size, ratio)
        self.ratios[size] = before + 0.2 * (ratio - before)
        self.num_passes += 1
        self.last_pass[size] = self.num_passes

    def is_fresh(self, num_tokens: int) -> bool:
        """Whether a pass of about so many tokens was among the last few: texts grow, and neighbours come and go."""
        return self.num_passes - self.last_pass.get(rounded(num_tokens), -FRESH) < FRESH

    def of(self, num_tokens: int) -> float:
        """Seconds, or before any pass was measured, passes of one token."""
        size = rounded(num_tokens)
        nearest = min(self.ratios, key=lambda known: (max(known, size) / min(known, size), known), default=None)
        return self.expected(num_tokens) * (1.0 if nearest is None else self.ratios[nearest])

    def expected(self, num_tokens: int) -> float:
        """By arithmetic: a token reads what it needs, several read less than the sum of that."""
        total, active = self.weights.total, self.weights.active
        experts = (total - active) / self.idle_share if total > active else 0.0
        read = total - experts * self.idle_share**num_tokens
        return read / active + TOKEN_COST * (num_tokens - 1)


def rounded(num_tokens: int) -> int:
    """Numbers up to 16 as they are, larger ones in steps of a sixteenth to an eighth."""
    step = max(1, 2 ** (num_tokens.bit_length() - 4)) if num_tokens > 16 else 1
    return num_tokens // step * step
