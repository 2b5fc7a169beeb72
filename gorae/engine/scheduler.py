"""Who may run: how much cache requests take side by side, and which of those that wait are read next.

Nouns: Reading, the requests whose texts are being read. Counts tokens only; knows no tensor's shape but through them.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gorae.engine.request import Request
from gorae.kernels import TILE_KEYS, whole_pages
from gorae.model import Page


@dataclass
class Reading:
    """Requests that are read together: several short sequences in one pass, or one long sequence in many.

    known: every distinct sequence, with the pages of it that have been read before.
    """

    requests: list[Request] = field(default_factory=list)
    known: dict[tuple[int, ...], list[Page]] = field(default_factory=dict)

    def joined_by(self, request: Request, find: Callable[[Sequence[int]], list[Page]]) -> "Reading":
        # The last token is always read: the next one follows from what the network says of it.
        known = dict(self.known)
        if request.is_read_whole:
            known[request.sequence] = []
        elif request.sequence not in known:
            known[request.sequence] = find(request.sequence[:-1])
        return Reading([*self.requests, request], known)

    @property
    def num_new(self) -> list[int]:
        """Tokens to read of every distinct sequence."""
        return [len(sequence) - TILE_KEYS * len(pages) for sequence, pages in self.known.items()]

    @property
    def reach(self) -> int:
        """Tokens that the longest row is written to, padding included."""
        return max(self.num_new) + TILE_KEYS * max(map(len, self.known.values()))

    def is_one_pass(self, prefill_tokens: int) -> bool:
        """Whether the padded sequences are at most so many tokens, and no more than half of them padding."""
        padded = len(self.known) * max(self.num_new)
        return padded <= min(prefill_tokens, 2 * sum(self.num_new))


def tokens_held(running: Sequence[Request], reading: Reading, *, spare: int = 0) -> int:
    """Tokens of cache that requests take: a row each, all as long as the longest, `spare` tokens and whole pages."""
    return (len(running) + len(reading.requests)) * whole_pages(longest_row(running, reading) + spare)


def longest_row(running: Sequence[Request], reading: Reading) -> int:
    """Tokens of the longest row, the next one of running requests included."""
    return max([request.num_tokens for request in running] + ([reading.reach] if reading.requests else []), default=0)


def spare_tokens(running: Sequence[Request], reading: Reading, cache_tokens: int) -> int:
    """Tokens by which every row may grow beyond what requests take now."""
    longest = max(
        [request.num_tokens for request in running] + ([reading.reach] if reading.requests else []), default=0
    )
    num_rows = max(1, len(running) + len(reading.requests))
    return cache_tokens // TILE_KEYS // num_rows * TILE_KEYS - longest


def next_reading(
    waiting: deque[Request],
    running: Sequence[Request],
    find: Callable[[Sequence[int]], list[Page]],
    *,
    max_batch: int,
    cache_tokens: int,
    prefill_tokens: int,
) -> Reading:
    """Take the head of the queue, as much as the cache and one pass have room for; alone, any request has room.

    A page more than they take now is left to each, so that a request is not preempted as soon as it is admitted.
    """
    reading = Reading()
    while waiting and len(running) + len(reading.requests) < max_batch:
        joined = reading.joined_by(waiting[0], find)
        is_first = not running and not reading.requests
        if len(joined.known) > 1 and not joined.is_one_pass(prefill_tokens):
            break
        if not is_first and tokens_held(running, joined, spare=TILE_KEYS) > cache_tokens:
            break
        reading = joined
        waiting.popleft()
    return reading
