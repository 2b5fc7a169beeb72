"""Who may run: how many pages requests take, and which of those that wait are read next.

Nouns: Reading, the requests whose texts are being read. Counts tokens and pages only; knows no tensor.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gorae.config import ModelConfig, pass_bytes_per_token
from gorae.engine.request import Request
from gorae.kernels import TILE_KEYS, kernels_in_use
from gorae.model import PageBook, pages_for

LONG_PASS = 2048  # tokens, after which nothing is gained: experts that are multiplied with 16 rows are at full speed
LONGEST_PASS = 8192  # the same, where a pass reads its weights from the disk
PASS_SHARE = 0.125  # of the memory available when an engine is made: what one pass may hold


@dataclass
class Reading:
    """Requests that are read together: several short sequences in one pass, or one long sequence in many.

    known: every distinct sequence, with the pages of it that have been read before.
    """

    requests: list[Request] = field(default_factory=list)
    known: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def joined_by(self, request: Request, find: Callable[[Sequence[int]], list[int]]) -> "Reading":
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
    def num_copied(self) -> int:
        """Pages, at most, that equal sequences take when each gets a row of its own: a last one that is not full."""
        return len(self.requests) - len(self.known)

    def num_pages(self, book: PageBook) -> int:
        """Pages that it takes of those available."""
        idle = {page for pages in self.known.values() for page in pages if book.is_idle(page)}
        fresh = sum(pages_for(len(sequence)) - len(pages) for sequence, pages in self.known.items())
        return len(idle) + fresh + self.num_copied

    def is_one_pass(self, prefill_tokens: int) -> bool:
        """Whether the padded sequences are at most so many tokens, and no more than half of them padding."""
        padded = len(self.known) * max(self.num_new)
        return padded <= min(prefill_tokens, 2 * sum(self.num_new))


def tokens_of_a_pass(
    config: ModelConfig, weight_bytes: float, available_bytes: int, total_bytes: int, *, is_fast: bool
) -> int:
    """As many tokens as a pass should read that nobody waits for, in whole pages.

    Weights of more than half of the memory do not stay in it beside a cache. The reference's attention takes too much
    for the longest passes.
    """
    is_from_disk = weight_bytes > total_bytes / 2 and kernels_in_use() != "reference"
    most = LONGEST_PASS if is_from_disk else LONG_PASS
    fitting = int(PASS_SHARE * available_bytes) // pass_bytes_per_token(config, is_fast=is_fast)
    return max(TILE_KEYS, min(most, fitting // TILE_KEYS * TILE_KEYS))


def next_reading(
    waiting: deque[Request],
    num_running: int,
    find: Callable[[Sequence[int]], list[int]],
    book: PageBook,
    *,
    max_batch: int,
    prefill_tokens: int,
) -> Reading:
    """Take the head of the queue, as much as the cache and one pass have room for; alone, any request has room.

    A page more than they take now is left to each, so that a request is not preempted as soon as it is admitted.
    """
    reading = Reading()
    while waiting and num_running + len(reading.requests) < max_batch:
        joined = reading.joined_by(waiting[0], find)
        is_first = not num_running and not reading.requests
        if len(joined.known) > 1 and not joined.is_one_pass(prefill_tokens):
            break
        spare = num_running + len(joined.requests)
        if not is_first and joined.num_pages(book) + spare > book.num_available:
            break
        reading = joined
        waiting.popleft()
    return reading
