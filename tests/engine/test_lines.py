"""The lines that are timed: what a turn reads and writes. Nothing is claimed about time."""

from dataclasses import replace

import pytest

from gorae.engine import DECODED, LINES, Engine, Line, Trial, obstacle, random_prompts


class Counting:
    """Counts tokens as a meter would."""

    def __init__(self):
        self.passes = []

    def __call__(self, *, flops, tokens):
        assert flops > 0
        self.passes.append(tokens)


@pytest.fixture
def counted(model):
    count = Counting()
    return Engine(model, prefix_cache=False, prefill_tokens=64, cache_tokens=2048, count=count), count


def turns(engine, line, number):
    trial, prompts = Trial(engine, line), random_prompts(line, engine.config.vocab_size)
    return [trial.turn(next(prompts)) for _ in range(number)]


def test_a_turn_of_reading_reads_every_token_once_and_leaves_nothing(counted):
    engine, count = counted
    line = Line("reading", 100, is_prefill=True)
    assert all(seconds > 0 for seconds in turns(engine, line, 2))
    assert count.passes == [64, 36] * 2
    assert line.tokens_a_turn == 100
    assert not engine.has_work


def test_a_turn_of_decoding_adds_so_many_tokens_to_every_request_and_begins_anew(counted):
    engine, count = counted
    line = Line("decoding", 8, requests=3)
    turns(engine, line, 2)
    assert count.passes == [24, *[3] * DECODED] * 2
    assert line.tokens_a_turn == 3 * DECODED
    assert not engine.has_work


def test_behind_a_long_prompt_the_next_turn_goes_on(counted):
    engine, count = counted
    line = Line("far", 70)
    turns(engine, line, 3)
    assert count.passes == [64, 6, *[1] * 3 * DECODED]
    assert [request.num_tokens for request in engine.running] == [70 + 1 + 3 * DECODED]


def test_a_line_that_does_not_fit_says_why(model):
    engine = Engine(model, prefix_cache=False, max_batch=2, cache_tokens=256)
    assert obstacle(engine, Line("fits", 8), turns=3) is None
    assert "160 positions" in str(obstacle(engine, Line("far", 150), turns=1))
    assert obstacle(engine, Line("far", 100), turns=1) is None
    assert "positions" in str(obstacle(engine, Line("far", 100), turns=3)), "each turn goes on behind the one before"
    assert "cache" in str(obstacle(engine, Line("many", 64, requests=3), turns=3))
    assert "2 at a time" in str(obstacle(engine, Line("crowd", 1, requests=3), turns=3))


def test_prompts_are_distinct_from_turn_to_turn_and_the_same_in_every_run():
    line = replace(LINES["8 at once"], depth=16)
    first, second, again = random_prompts(line, 300), random_prompts(line, 300), random_prompts(line, 300)
    drawn = [*next(first), *next(first)]
    assert len({tuple(prompt) for prompt in drawn}) == 16
    assert drawn == [*next(second), *next(second)]
    assert next(again) == drawn[:8]
    assert all(0 <= token_id < 300 for prompt in drawn for token_id in prompt)
