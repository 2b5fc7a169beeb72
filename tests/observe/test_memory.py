import mmap

import pytest

from gorae.observe import held_memory, memory_bytes


def test_some_of_the_memory_is_available_and_not_more_than_there_is():
    available, total = memory_bytes()
    assert 0 < available <= total


def test_what_a_process_takes_for_itself_is_seen_in_what_it_holds():
    if (before := held_memory()) is None:
        pytest.skip("only Linux tells what a process holds")
    with mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE) as own:  # fresh pages: a list may lie in freed ones
        for place in range(0, len(own), 4096):
            own[place] = 1
        now = held_memory()
    assert now is not None
    assert now.anonymous - before.anonymous == pytest.approx(50_000_000, rel=0.1)
    assert now.proportional >= now.anonymous
