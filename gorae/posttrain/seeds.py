"""Seeds of replies: what a step samples follows from its seed alone, and no two replies draw the same numbers."""


def seed_of(seed: int, number: int, turn: int = 0) -> int:
    """The seed of a turn of the reply with this number in a step."""
    return seed * 1_000_003 + number + (turn << 56)
