"""What has been read stays, key page by key page, for whoever begins alike; the least recently used goes first.

Nouns: PrefixCache, a tree of nodes with a page each. A node is found under its tokens themselves, so no two texts can
be taken for one. Pages are copies: they outlive the row they come from, and letting them go harms nobody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gorae.kernels import TILE_KEYS
from gorae.model import Page


@dataclass(eq=False)
class Node:
    """A page that follows those of its parents."""

    tokens: tuple[int, ...] = ()
    parent: "Node | None" = None
    page: Page | None = None
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)


class PrefixCache:
    """Pages under the tokens they were read from; all of them for one set of weights."""

    def __init__(self) -> None:
        self.root = Node()
        self.by_use: dict[Node, None] = {}  # the least recently used first, and every node before its parent

    @property
    def num_tokens(self) -> int:
        return len(self.by_use) * TILE_KEYS

    def find(self, sequence: Sequence[int]) -> list[Page]:
        """The pages of the longest beginning that is known."""
        path = self.known(sequence)
        self.use(path)
        return [node.page for node in path if node.page]

    def keep(self, sequence: Sequence[int], copy_page: Callable[[int], Page], *, max_tokens: int) -> None:
        """Remember the whole pages of a sequence, as far as `max_tokens` have room; `copy_page` gives those unknown."""
        num_pages = min(len(sequence), max_tokens) // TILE_KEYS
        path = self.known(sequence[: num_pages * TILE_KEYS])
        self.use(path)  # what has to go now is of other sequences
        for number in range(len(path), num_pages):
            self.shrink(max_tokens - TILE_KEYS)
            parent, tokens = path[-1] if path else self.root, page_tokens(sequence, number)
            node = parent.children[tokens] = Node(tokens, parent, copy_page(number))
            self.by_use[node] = None
            path.append(node)
        self.use(path)

    def shrink(self, max_tokens: int) -> None:
        """Let pages go until at most `max_tokens` are held."""
        while self.num_tokens > max(0, max_tokens):
            oldest = next(iter(self.by_use))
            del self.by_use[oldest]
            assert oldest.parent is not None
            assert not oldest.children, "a page is used whenever one that follows it is"
            del oldest.parent.children[oldest.tokens]

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
