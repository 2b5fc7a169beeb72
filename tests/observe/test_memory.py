from gorae.observe import memory_bytes


def test_some_of_the_memory_is_available_and_not_more_than_there_is():
    available, total = memory_bytes()
    assert 0 < available <= total
