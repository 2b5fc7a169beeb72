"""Documents to search and to cite: an index over their words, and an environment whose one tool searches.

Any search function can be handed in: from a query to the ids of documents, the best first. Ours ranks by BM25
(Robertson, Zaragoza 2009) over words of letters and digits, and over pairs of characters where words are not set apart.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

SATURATION, LENGTH_SHARE = 1.2, 0.75  # BM25's k1 and b
_TERMS = re.compile(r"[0-9A-Za-z]+|[^\W0-9A-Za-z_]+")


class Index:
    """Documents by id, searched by calling it."""

    def __init__(self, documents: Mapping[str, str], *, most: int = 3) -> None:
        self.most = most
        self.lengths = {name: len(terms_of(text)) for name, text in documents.items()}
        self.mean_length = sum(self.lengths.values()) / max(1, len(self.lengths))
        self.places: defaultdict[str, Counter[str]] = defaultdict(Counter)  # how often each document has a term
        for name, text in documents.items():
            for term in terms_of(text):
                self.places[term][name] += 1

    def __call__(self, query: str) -> list[str]:
        """The ids of the best documents that share a term with the query; of equals the first."""
        scores = dict.fromkeys(self.lengths, 0.0)
        for term in terms_of(query):
            for name, number in self.places.get(term, {}).items():
                scores[name] += self.score(term, number, self.lengths[name] / self.mean_length)
        best = sorted(scores, key=lambda name: -scores[name])[: self.most]
        return [name for name in best if scores[name]]

    def score(self, term: str, number: int, length: float) -> float:
        """What a term adds to a document that has it so many times; `length` is the document's, over the mean."""
        spread = len(self.places[term])
        rarity = math.log(1 + (len(self.lengths) - spread + 0.5) / (spread + 0.5))
        damping = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * length)
        return rarity * number * (SATURATION + 1) / (number + damping)


class Library:
    """An environment: documents, and a tool that searches them; `found` are those that it has shown."""

    def __init__(self, documents: Mapping[str, str], search: Callable[[str], Sequence[str]] | None = None) -> None:
        self._documents = documents
        self._search = search or Index(documents)
        self.found: set[str] = set()

    def reset(self) -> None:
        self.found = set()

    def search(self, query: str) -> str:
        """Search the documents. Each is shown behind its id, as in [d0].

        Args:
            query: what to look for
        """
        names = self._search(query)
        self.found.update(names)
        return "\n".join(f"[{name}] {self._documents[name]}" for name in names) or "Nothing was found."


def terms_of(text: str) -> list[str]:
    """What is counted of a text."""
    terms = []
    for word in _TERMS.findall(text.lower()):
        is_latin = word[0].isascii()
        terms += [word] if is_latin or len(word) == 1 else [word[at : at + 2] for at in range(len(word) - 1)]
    return terms
