from collections import Counter

import pytest
import tokenizers
import torch

from gorae.posttrain import Example, example_batches, example_of
from gorae.text import GORAE, R1, TOOL_TOKENS, V3, V3_1, Message, Tokenizer, ToolCall, parse_reply

EXAMPLES = [Example([3, 4], [number, 1]) for number in range(10, 17)]


def numbers_of(step: int, *, batch_size: int = 3, seed: int = 0) -> list[int]:
    batch = example_batches(EXAMPLES, batch_size=batch_size, seed=seed, pad_id=2)(step)
    return batch.token_ids_BT[:, 2].tolist()


def test_only_the_reply_is_learnt():
    batch = example_batches([Example([3, 4, 5], [6, 1]), Example([3], [1])], batch_size=2, seed=1, pad_id=2)(0)
    rows = dict(zip(map(tuple, batch.token_ids_BT.tolist()), batch.weights_BT.tolist(), strict=True))
    assert rows == {(3, 4, 5, 6, 1): [0, 0, 0, 1, 1], (3, 1, 2, 2, 2): [0, 1, 0, 0, 0]}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_every_example_comes_once_an_epoch(batch_size):
    """Steps of which seven epochs are made exactly: 7 examples, so 7 x batch_size places."""
    seen = [number for step in range(7) for number in numbers_of(step, batch_size=batch_size)]
    for epoch in range(batch_size):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(10, 17))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [tuple(numbers_of(epoch, batch_size=7, seed=seed)) for epoch in range(3) for seed in range(3)]
    assert Counter(orders).most_common(1)[0][1] == 1


def test_a_batch_depends_on_the_step_alone():
    in_order = [numbers_of(step) for step in range(10)]
    batch_of = example_batches(EXAMPLES, batch_size=3, seed=0, pad_id=2)
    backwards = [batch_of(step).token_ids_BT[:, 2].tolist() for step in reversed(range(10))]
    assert backwards == in_order[::-1]


def test_a_batch_is_made_of_integers_and_weights():
    batch = example_batches(EXAMPLES, batch_size=3, seed=0, pad_id=2)(0)
    assert (batch.token_ids_BT.dtype, batch.weights_BT.dtype) == (torch.int64, torch.float32)


ASKED = Message("user", "계수기 1 + 1?")
FORMS = [GORAE, R1, V3, V3_1]

every_format = pytest.mark.parametrize("chat_format", FORMS, ids=lambda chat_format: chat_format.name)


@pytest.fixture(scope="module")
def make():
    """Format → a tokenizer that has its control tokens."""
    trained = Tokenizer.train(["계수기 plus 0123456789 question answer one and one"] * 9, vocab_size=300)
    library = tokenizers.Tokenizer.from_str(trained._library.to_str())
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    return lambda chat_format: Tokenizer(library, chat_format=chat_format)


@every_format
@pytest.mark.parametrize("reasoning", [None, "one and one"])
def test_a_reply_is_learnt_as_an_engine_is_asked_for_it_and_reads_it(make, chat_format, reasoning):
    if reasoning and chat_format is V3:
        pytest.skip("a format without reasoning")
    tokenizer = make(chat_format)
    example = example_of(tokenizer, [ASKED], Message("assistant", "answer 2", reasoning))
    asked = [
        tokenizer.encode_prompt([ASKED], mode=mode)
        for mode in ("free", "think")
        if (mode, chat_format) != ("think", V3)
    ]
    prompt = next(one for one in asked if one.ids == example.prompt_ids)
    reply = parse_reply(tokenizer.decode(example.reply_ids), prompt.mode, chat_format)
    thinks = "" if chat_format is R1 and reasoning is None else reasoning  # R1 always thinks, if only for no words
    assert (reply.reasoning, reply.content, reply.complete) == (thinks, "answer 2", True)
    assert example.reply_ids[-1] == tokenizer.eos_id


@every_format
def test_turns_after_each_other_are_what_the_format_makes_of_the_conversation(make, chat_format):
    tokenizer = make(chat_format)
    messages = [ASKED, Message("assistant", "answer 2"), Message("user", "one?"), Message("assistant", "answer 1")]
    example = example_of(tokenizer, messages[:3], messages[3])
    whole = tokenizer.encode_conversation(messages)
    if chat_format is not R1:  # which forgets that it thought
        assert example.prompt_ids + example.reply_ids == whole
    assert tokenizer.decode_conversation(whole) == messages


@every_format
def test_what_is_said_after_a_tool_opens_nothing(make, chat_format):
    if chat_format.tools is None:
        pytest.skip("a format without tools")
    tokenizer, call = make(chat_format), ToolCall("call_0", "add", "{}")
    messages = [ASKED, Message("assistant", "", tool_calls=(call,)), Message("tool", "2", tool_call_id="call_0")]
    reply = Message("assistant", "answer 2")
    example = example_of(tokenizer, messages, reply)
    assert example.prompt_ids + example.reply_ids == tokenizer.encode_conversation([*messages, reply])


@pytest.mark.parametrize("chat_format", [GORAE, R1, V3_1], ids=lambda chat_format: chat_format.name)
def test_thinking_within_the_content_is_thinking(make, chat_format):
    tokenizer = make(chat_format)
    written = Message("assistant", "<think>\none and one\n</think>\n\nanswer 2")
    if chat_format is V3_1:
        written = Message("assistant", "<think>one and one</think>answer 2")
    apart = Message("assistant", "answer 2", "one and one")
    assert example_of(tokenizer, [ASKED], written) == example_of(tokenizer, [ASKED], apart)


def test_thinking_that_a_format_has_no_place_for_is_refused(make):
    with pytest.raises(ValueError, match="deepseek-v3 has no place for reasoning; put it into the content"):
        example_of(make(V3), [ASKED], Message("assistant", "answer", "one and one"))
