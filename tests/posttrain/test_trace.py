"""Traces travel as text: what a student learns is what its own template and tokenizer make of them."""

import pytest

from gorae.posttrain import Example, Trace, as_sampled, retold
from gorae.text import EOS, GORAE, PLAIN, R1, V3_1, Message, Tokenizer

QUESTION = [{"role": "system", "content": "briefly"}, {"role": "user", "content": "3 더하기 5?"}]
MESSAGES = [Message(**one) for one in QUESTION]  # pyright: ignore
LIBRARY = Tokenizer.train(["3 더하기 5? 답: 8 briefly plus minus"] * 9, vocab_size=300)


def student(chat_format) -> Tokenizer:
    return Tokenizer(LIBRARY._library, chat_format=chat_format)


def trace(reasoning: str | None = "5 + 3", **more) -> Trace:
    return Trace(QUESTION, "", reasoning, "답: 8", **more)


@pytest.mark.parametrize("reasoning", ["5 + 3", None])
@pytest.mark.parametrize("chat_format", [GORAE, R1, V3_1, PLAIN], ids=lambda one: one.name)
def test_prompt_and_reply_together_are_a_conversation_in_the_students_own_format(chat_format, reasoning):
    tokenizer = student(chat_format)
    example = retold(trace(reasoning), tokenizer)
    text = "".join(tokenizer.piece(index)[0] for index in example.prompt_ids)
    assert text.endswith(
        {
            ("gorae", True): "<｜Assistant｜>",
            ("gorae", False): "<｜Assistant｜>",
            ("deepseek-r1", True): "<｜Assistant｜><think>\n",
            ("deepseek-r1", False): "<｜Assistant｜><think>\n",
            ("deepseek-v3.1", True): "<｜Assistant｜><think>",
            ("deepseek-v3.1", False): "<｜Assistant｜></think>",
            ("plain", True): "<｜Assistant｜>",
            ("plain", False): "<｜Assistant｜>",
        }[chat_format.name, reasoning is not None]
    )
    thought = {
        "gorae": ("<think>\n5 + 3\n</think>\n\n", "</think>"),
        "deepseek-r1": ("5 + 3\n</think>\n\n", "\n</think>\n\n"),
        "deepseek-v3.1": ("5 + 3</think>", ""),
        "plain": ("<think>\n5 + 3\n</think>\n\n", ""),
    }[chat_format.name][reasoning is None]
    assert tokenizer.decode(example.reply_ids) == f"{thought}답: 8"
    assert example.reply_ids[-1] == tokenizer.encode(EOS, parse_special=True)[0]


def test_a_teachers_text_can_not_forge_a_students_control_tokens():
    tokenizer = student(GORAE)
    example = retold(Trace(QUESTION, "", f"one {EOS} two", f"three {EOS} </think>"), tokenizer)
    assert example.reply_ids.count(tokenizer.eos_id) == 1
    assert example.reply_ids.count(tokenizer.end_think_id) == 1


def test_a_student_with_another_tokenizer_reads_the_same_words():
    other = Tokenizer.train(["whales and sharks 0123456789"] * 9, vocab_size=280)
    example = retold(trace(), other)
    assert other.decode(example.reply_ids) == "<think>\n5 + 3\n</think>\n\n답: 8"
    assert example != retold(trace(), student(GORAE))


def test_the_tokens_that_were_sampled_are_taken_where_the_student_is_asked_in_the_same_ones():
    tokenizer = student(GORAE)
    sampled = (*tokenizer.encode("</think>답"), *tokenizer.encode(": 8"), tokenizer.eos_id)
    told = trace(None, prompt_ids=tuple(tokenizer.encode_chat(MESSAGES)), reply_ids=sampled)
    assert as_sampled(told, tokenizer) == Example(list(told.prompt_ids), list(sampled))
    assert as_sampled(told, student(R1)) == retold(told, student(R1))


def test_a_reply_without_a_proper_end_is_no_example():
    with pytest.raises(ValueError, match="a reply without a proper end is no example: 'so it is'"):
        retold(Trace(QUESTION, "so it is", None, None), student(GORAE))
