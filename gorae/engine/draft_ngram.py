"""Guesses from the text itself: what followed the last time that it said what it says now.

Nouns: RepetitionDrafter, and Recurrence, the index of one text. Costs no pass of any network.
"""

from collections import defaultdict
from collections.abc import Sequence

from gorae.engine.passage import Part
from gorae.engine.request import Request

SHORTEST_MATCH = 3  # tokens; fewer recur by chance
LONGEST_MATCH = 32
MOST_PLACES = 16  # the latest places at which the shortest match recurs; the longest match among them wins


class Recurrence:
    """Where every run of `SHORTEST_MATCH` tokens of a growing text ends."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self.ends: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)

    def extend(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.text.append(token_id)
            if len(self.text) >= SHORTEST_MATCH:
                places = self.ends[tuple(self.text[-SHORTEST_MATCH:])]
                places.append(len(self.text))
                del places[: -1 - MOST_PLACES]

    def continuation(self, num_tokens: int) -> list[int]:
        """What followed the longest earlier match of the text's end, the latest among equals; [] without a match."""
        places = self.ends.get(tuple(self.text[-SHORTEST_MATCH:]), [])[:-1]
        if not places:
            return []
        best = max(places, key=lambda place: (self.match(place), place))
        period = len(self.text) - best  # a match that runs into the end goes on as it began
        return [self.text[best + offset % period] for offset in range(num_tokens)]

    def match(self, place: int) -> int:
        """How many tokens before `place` are those before the text's end."""
        length = SHORTEST_MATCH
        while length < min(place, LONGEST_MATCH) and self.text[place - 1 - length] == self.text[-1 - length]:
            length += 1
        return length


class RepetitionDrafter:
    """Guesses by the longest earlier match of a request's end in its prompt and reply."""

    def __init__(self) -> None:
        self.texts: dict[int, Recurrence] = {}

    def draft(self, requests: Sequence[Request], num_tokens: int) -> list[list[int]]:
        drafts = []
        for request in requests:
            text = self.texts.setdefault(request.request_id, Recurrence())
            text.extend(request.tokens_from(len(text.text)))
            drafts.append(text.continuation(num_tokens))
        return drafts

    def note(self, requests: Sequence[Request], part: Part) -> None:
        """The text says all there is to know."""

    def forget(self, request: Request) -> None:
        self.texts.pop(request.request_id, None)

    def clear(self) -> None:
        self.texts.clear()
