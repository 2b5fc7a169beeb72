"""What has been read stays, key page by key page, for whoever begins alike; the least recently used goes first.

Nouns: PrefixCache, a tree of nodes with a page each. A node is found under its tokens themselves, so no two texts can
be taken for one. Pages are shared with the rows that hold them, and stay when these leave; letting them go harms none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gorae.kernels import TILE_KEYS
from gorae.model import PageBook


@dataclass(eq=False)
class Node:
    """A page that follows those of its parents."""

    tokens: tuple[int, ...] = ()
    parent: "Node | None" = None
    page: int = 0
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)


class PrefixCache:
    """Pages under the tokens they were read from; all of them for one set of weights."""

    def __init__(self, book: PageBook) -> None:
        self.book = book
        self.root = Node()
        self.by_use: dict[Node, None] = {}  # the least recently used first, and every node before its parent

    @property
    def num_pages(self) -> int:
        return len(self.by_use)

    def find(self, sequence: Sequence[int]) -> list[int]:
        """The pages of the longest beginning that is known."""
        path = self.known(sequence)
        self.use(path)
        return [node.page for node in path]

    def keep(self, sequence: Sequence[int], pages: Sequence[int]) -> range:
        """Remember the whole pages of a sequence that a row holds in `pages`; which of them were not known."""
        path = self.known(sequence)
        new = range(len(path), len(sequence) // TILE_KEYS)
        for number in new:
            parent, tokens = path[-1] if path else self.root, page_tokens(sequence, number)
            node = parent.children[tokens] = Node(tokens, parent, pages[number])
            self.book.keep(node.page)
            self.by_use[node] = None
            path.append(node)
        self.use(path)
        return new

    def make_room(self, num_pages: int) -> None:
        """Let pages go until so many are free, or none is kept."""
        while self.by_use and self.book.num_free < num_pages:
            oldest = next(iter(self.by_use))
            del self.by_use[oldest]
            assert oldest.parent is not None
            assert not oldest.children, "a page is used whenever one that follows it is"
            del oldest.parent.children[oldest.tokens]
            self.book.drop(oldest.page)

    def known(self, sequence: Sequence[int]) -> list[Node]:
        path, node = [], self.root
        for number in range(len(sequence) // TILE_KEYS):
            if (child := node.children.get(page_tokens(sequence, number))) is None:
                break
            path.append(node := child)
        return path

    def use(self, path: list[Node]) -> None:
        for node in reversed(path):
            del self.by_use[node]
            self.by_use[node] = None


def page_tokens(sequence: Sequence[int], number: int) -> tuple[int, ...]:
    return tuple(sequence[number * TILE_KEYS : (number + 1) * TILE_KEYS])
