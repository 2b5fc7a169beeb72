"""Where guesses come from: repetitions of the text, and the next-token module with its own memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gorae.config import ModelConfig
from gorae.engine import SamplingParams
from gorae.engine.draft_mtp import WINDOW, NextTokenDrafter
from gorae.engine.draft_ngram import LONGEST_MATCH, SHORTEST_MATCH, Recurrence
from gorae.engine.passage import Part
from gorae.engine.request import Request
from gorae.engine.sampler import draw
from gorae.model import Network

CONFIG = ModelConfig(
    vocab_size=60,
    model_dim=16,
    num_layers=2,
    num_heads=2,
    query_rank=10,
    latent_dim=8,
    nope_dim=6,
    rope_dim=4,
    value_dim=6,
    dense_dim=20,
    expert_dim=8,
    num_experts=4,
    num_active_experts=2,
    num_mtp_modules=1,
    max_positions=512,
    init_std=0.3,
)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(CONFIG, seed=1).eval()


def longest_match(text: list[int], place: int) -> int:
    length = 0
    while length < min(place, LONGEST_MATCH) and text[place - 1 - length] == text[-1 - length]:
        length += 1
    return length


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=16), st.lists(st.integers(0, 9), max_size=5), st.integers(1, 8))
def test_a_continuation_is_what_followed_the_latest_of_the_longest_matches(text, pieces, num_tokens):
    recurrence = Recurrence()
    for cut in sorted(min(piece, len(text)) for piece in pieces):
        recurrence.extend(text[len(recurrence.text) : cut])
    recurrence.extend(text[len(recurrence.text) :])
    matches = {place: longest_match(text, place) for place in range(1, len(text))}
    best = max(matches, key=lambda place: (matches[place], place), default=0)
    if not matches or matches[best] < SHORTEST_MATCH:
        assert recurrence.continuation(num_tokens) == []
        return
    continued = list(text)  # as if the text went on as it did there, even into what is being guessed
    for offset in range(num_tokens):
        continued.append(continued[best + offset])
    assert recurrence.continuation(num_tokens) == continued[len(text) :]


def request_of(number: int, length: int, num_written: int, **params) -> Request:
    drawn = torch.randint(0, 60, (length + num_written,), generator=torch.Generator().manual_seed(number)).tolist()
    request = Request(number, drawn[:length], SamplingParams(**params), seed=number)
    request.token_ids = drawn[length:]
    return request


@torch.no_grad()
def module_features(network, request) -> torch.Tensor:
    """By the function that training uses, over prompt and reply at once."""
    ids_BT = torch.tensor([request.sequence])
    return network.predict_further(network(ids_BT), ids_BT)[0].hidden_BTD[0]


def note(drafter, network, requests, start, end) -> None:
    """What the engine notes after a pass over tokens `start` to `end` of a sequence."""
    hidden_TD = network(torch.tensor([requests[0].sequence[:end]])).hidden_BTD[0, start:]
    drafter.note(requests, Part(start, hidden_TD))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[39], [10, 20, 39], [30, *range(31, 40)]])
def test_the_first_guess_is_what_the_module_says_in_training_however_the_text_was_read(network, cuts):
    drafter, request = NextTokenDrafter(network, None), request_of(1, 30, 10, temperature=0.0)
    start = 0
    for end in cuts:
        note(drafter, network, [request], start, end)
        start = end
    expected = network.logits(module_features(network, request)[-1]).argmax()
    assert drafter.draft([request], 1) == [[int(expected)]]


@torch.no_grad()
def test_the_memory_grows_with_the_reply_and_guesses_leave_no_trace_in_it(network):
    drafter, request = NextTokenDrafter(network, None), request_of(2, 20, 1, temperature=0.0)
    reply = request_of(2, 20, 30).token_ids
    note(drafter, network, [request], 0, 20)
    for num_written in range(1, 30, 3):  # two accepted, one drawn
        request.token_ids = reply[:num_written]
        if num_written > 1:
            note(drafter, network, [request], 16 + num_written, 19 + num_written)
        guesses = drafter.draft([request], 3)[0]
        assert guesses[0] == int(network.logits(module_features(network, request)[-1]).argmax())
        assert drafter.cache.lengths_B[0] == 19 + num_written


@torch.no_grad()
def test_requests_come_and_go_and_each_keeps_its_own_memory(network):
    drafter = NextTokenDrafter(network, None)
    requests = [request_of(number, 10 + number, 5, temperature=0.0) for number in range(6)]
    expected = [int(network.logits(module_features(network, one)[-1]).argmax()) for one in requests]
    for request in requests[:4]:
        note(drafter, network, [request], 0, request.num_tokens - 1)
    assert [one[0] for one in drafter.draft(requests[:4], 2)] == expected[:4]
    drafter.forget(requests[0])
    drafter.forget(requests[2])
    for request in (requests[1], requests[3]):  # the same token again, to be told the same
        request.token_ids.append(7)
        note(drafter, network, [request], request.num_tokens - 2, request.num_tokens - 1)
    for request in requests[4:]:
        note(drafter, network, [request], 0, request.num_tokens - 1)
    now = [requests[5], requests[1], requests[4], requests[3]]
    found = [int(network.logits(module_features(network, one)[-1]).argmax()) for one in now]
    assert [one[0] for one in drafter.draft(now, 2)] == found
    for request in now:
        drafter.forget(request)
    assert (drafter.requests, drafter.unread, drafter.cache.book.num_used) == ([], {}, 0)


@torch.no_grad()
def test_requests_that_share_a_row_learn_the_same(network):
    drafter = NextTokenDrafter(network, None)
    first, second = request_of(1, 40, 0, temperature=0.0), request_of(1, 40, 0, temperature=0.0)
    second.request_id = 2
    note(drafter, network, [first, second], 0, 40)
    first.token_ids, second.token_ids = [5], [9]
    expected = [int(network.logits(module_features(network, one)[-1]).argmax()) for one in (first, second)]
    assert [one[0] for one in drafter.draft([first, second], 1)] == expected


@torch.no_grad()
def test_of_a_long_text_the_module_reads_the_last_part_alone(network):
    drafter, request = NextTokenDrafter(network, None), request_of(3, 400, 1, temperature=0.0)
    for start in (0, 100, 200, 300):
        note(drafter, network, [request], start, start + 100)
        assert sum(len(one) for one in drafter.unread[3]) < 2 * WINDOW
    drafter.draft([request], 1)
    assert WINDOW <= drafter.cache.lengths_B[0] < 2 * WINDOW


@torch.no_grad()
def test_a_memory_with_a_gap_is_given_up(network):
    """Requests that are not drafted for go on; what they say in the meantime is kept as far as a window."""
    drafter, request = NextTokenDrafter(network, None), request_of(3, 20, 1, temperature=0.0)
    note(drafter, network, [request], 0, 20)
    drafter.draft([request], 1)
    request.token_ids = request_of(3, 20, 181).token_ids
    for end in range(21, 201):
        note(drafter, network, [request], end - 1, end)
    assert drafter.requests == []
    drafter.draft([request], 1)
    assert drafter.cache.lengths_B[0] == WINDOW


@torch.no_grad()
def test_guesses_are_drawn_as_tokens_are_with_the_number_of_their_place(network):
    params = {"temperature": 1.3, "top_p": 0.9, "frequency_penalty": 0.5, "logit_bias": {7: 2.0}}
    drafter, request = NextTokenDrafter(network, None), request_of(4, 20, 3, **params)
    note(drafter, network, [request], 0, 22)
    log_probs_1W = network.logits(module_features(network, request)[-1:]).log_softmax(-1)
    expected = draw(log_probs_1W, [request.params], [request.seed], [request.token_ids], [None]).token_ids
    assert drafter.draft([request], 1) == [expected]
