"""Training data: files → documents → packed rows of token ids → batches of row numbers.

Nouns: `Document`, `Sources`, `PackedTokens`, `Loader`. Knows neither a model nor how text becomes tokens.
"""

from gorae.data.conversations import Demonstration, PreferredReply, read_demonstrations, read_preferences
from gorae.data.loader import Loader
from gorae.data.pack import PackedTokens, read_packed, write_packed
from gorae.data.sources import Document, Sources, find_sources, read_documents, standard_library_documents
from gorae.data.split import split_held_out

__all__ = [
    "Demonstration",
    "Document",
    "Loader",
    "PackedTokens",
    "PreferredReply",
    "Sources",
    "find_sources",
    "read_demonstrations",
    "read_documents",
    "read_packed",
    "read_preferences",
    "split_held_out",
    "standard_library_documents",
    "write_packed",
]
