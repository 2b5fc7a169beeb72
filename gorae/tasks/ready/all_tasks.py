"""Problems that want thought and turns that want none, one after the other, each with its own rewards."""

from gorae.tasks.ready import readable_counter, turns
from gorae.tasks.rewards import reward_exact as reward_exact
from gorae.tasks.rewards import reward_format as reward_format

reward_weights = readable_counter.reward_weights


def rows(seed):
    for deep, quick in zip(readable_counter.rows(seed), turns.rows(seed), strict=True):
        yield deep | {"is_deep": True}
        yield quick | {"is_deep": False}


def reward_language(completions, language, is_deep):
    shares = readable_counter.reward_language(completions, language)
    return [share if deep else None for share, deep in zip(shares, is_deep, strict=True)]


def reward_length(completion_ids, is_deep):
    lost = turns.reward_length(completion_ids)
    return [None if deep else less for less, deep in zip(lost, is_deep, strict=True)]
