"""Who holds which page of a cache: rows, by reference, and whoever keeps it for sequences that begin alike.

Nouns: a page is a number from 1 on; it is free, or held by rows, or kept, or both; kept but held by none, it is idle.
Page 0 is nobody's: what is written there is not read. Knows numbers only, no tensor.
"""

from collections.abc import Iterable
from heapq import heappop, heappush


class PageBook:
    """Up to `num_pages` pages; the lowest that is free is taken first, so no more memory is touched than needed."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.holders = [0]  # rows that hold a page, of all pages that were ever taken
        self.is_kept = [False]
        self.returned: list[int] = []  # a heap
        self.num_idle = 0

    @property
    def num_free(self) -> int:
        return self.num_pages - self.num_used

    @property
    def num_used(self) -> int:
        return len(self.holders) - 1 - len(self.returned)

    @property
    def num_available(self) -> int:
        """Pages that are free or, once they are not kept any more, can be."""
        return self.num_free + self.num_idle

    def is_idle(self, page: int) -> bool:
        return self.is_kept[page] and not self.holders[page]

    def take(self) -> int:
        """A free page, for one row to hold."""
        assert self.num_free > 0, f"all {self.num_pages} pages are used: who asks for one looks first"
        if not self.returned:
            self.holders.append(0)
            self.is_kept.append(False)
        page = heappop(self.returned) if self.returned else len(self.holders) - 1
        self.holders[page] = 1
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """One more row holds these."""
        for page in pages:
            self.num_idle -= self.is_idle(page)
            self.holders[page] += 1

    def let_go(self, pages: Iterable[int]) -> None:
        """One row less holds these."""
        for page in pages:
            assert self.holders[page] > 0, f"page {page} is held by none"
            self.holders[page] -= 1
            self.num_idle += self.is_idle(page)
            self._return_unused(page)

    def keep(self, page: int) -> None:
        """Keep a page that a row holds for others."""
        assert self.holders[page] > 0, f"page {page} is held by none"
        self.is_kept[page] = True

    def drop(self, page: int) -> None:
        """Keep a page no longer."""
        self.num_idle -= self.is_idle(page)
        self.is_kept[page] = False
        self._return_unused(page)

    def _return_unused(self, page: int) -> None:
        if not self.holders[page] and not self.is_kept[page]:
            heappush(self.returned, page)
