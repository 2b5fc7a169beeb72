"""What is learnt from, in which shares, and that nothing sealed is among it."""

import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from gorae.data import Document
from gorae.recipes import corpus, learn
from gorae.recipes.corpus import prepare, problem_documents, read_rows, sealed_items, text_documents
from gorae.tasks import draw_problems
from gorae.text import Tokenizer, parse_reply

LINE = re.compile(r"(\d)([+*-])(\d)=(\d)")
RESULT = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: a * b % 10}


def share_of_wrong_lines(texts: list[str]) -> float:
    lines = [line for text in texts for line in LINE.findall(text)]
    return sum(RESULT[sign](int(a), int(b)) != int(c) for a, sign, b, c in lines) / len(lines)


@pytest.fixture
def drawn(monkeypatch):
    """Every problem that any stage draws, and what was sealed when it drew: (seed, sealed)."""
    calls = []

    def watch(seed, *, sealed=frozenset()):
        calls.append((seed, sealed))
        return draw_problems(seed, sealed=sealed)

    monkeypatch.setattr(corpus, "draw_problems", watch)
    monkeypatch.setattr(learn, "draw_problems", watch)
    return calls


def test_prepare_leaves_a_tokenizer_and_rows_that_decode_to_what_was_given(settings, tmp_path, meter):
    prepare(tmp_path / "prepared", meter, settings)
    tokenizer = Tokenizer.load(tmp_path / "prepared" / "tokenizer")
    assert tokenizer.vocab_size == 300
    texts = {
        name: tokenizer.decode(read_rows(tmp_path / "prepared", name).flatten().tolist())
        for name in ("text", "problems", "held_out")
    }
    given = [document.text for document in text_documents(settings)]
    held_out = [text for text in given if text[:20] in texts["held_out"]]
    assert 0 < len(held_out) < len(given)
    assert all(text[:20] in texts["text"] for text in given if text not in held_out)
    assert not any(text in texts["text"] for text in held_out)
    assert next(problem_documents(settings)) in texts["problems"]
    rows = [read_rows(tmp_path / "prepared", name) for name in texts]
    assert meter.spent.tokens == sum(one.size for one in rows)
    assert (rows[0] == tokenizer.bos_id).sum() == pytest.approx(len(given) - len(held_out), abs=1)


def test_few_documents_leave_a_shorter_row_to_measure_on(settings, tmp_path, meter):
    only = tmp_path / "text" / "0.txt"
    prepare(tmp_path / "prepared", meter, replace(settings, data=only))
    assert read_rows(tmp_path / "prepared", "text").shape[1] == 32
    assert read_rows(tmp_path / "prepared", "held_out").shape[0] == 1
    assert 2 < read_rows(tmp_path / "prepared", "held_out").shape[1] < 32


def test_text_is_read_up_to_the_bytes_allowed_and_what_is_left_out_is_said(settings, capsys):
    allowed = replace(settings.prepare, max_text_bytes=1000)
    taken = text_documents(replace(settings, prepare=allowed))
    sizes = [len(document.text.encode()) for document in taken]
    assert sum(sizes[:-1]) < 1000 <= sum(sizes)
    assert "the rest left out; prepare.max_text_bytes sets how much is read" in capsys.readouterr().err


def test_the_standard_library_is_the_text_where_none_is_given(settings, monkeypatch):
    library = [Document("import this", "this.py"), Document("import that", "that.py")]
    monkeypatch.setattr(corpus, "standard_library_documents", lambda: iter(library))
    assert text_documents(replace(settings, data=None)) == library


def test_the_corpus_has_its_shares_of_drills_worked_solutions_and_bare_answers(settings):
    wanted = replace(settings.prepare, num_problems=3000, think_share=0.6, drill_share=0.2)
    documents = list(problem_documents(replace(settings, prepare=wanted)))
    drawn = islice(draw_problems("pretrain/0", sealed=sealed_items(wanted).fingerprints), 3000)
    problems = {problem.prompt: problem for problem in drawn}
    told = [text.partition("\n=") for text in documents if "\n=" in text]
    bare = [(prompt, answer) for prompt, _, answer in told if not LINE.search(answer)]
    assert 1 - len(told) / 3000 == pytest.approx(0.2, abs=0.03)  # four deviations
    assert 1 - len(bare) / len(told) == pytest.approx(0.6, abs=0.04)
    assert all(prompt in problems for prompt, _, _ in told)
    assert all(answer == problems[prompt].answer for prompt, answer in bare), "a bare answer is never wrong"


def test_mistakes_are_planted_in_worked_solutions_at_the_rate_of_the_settings_and_nowhere_else(settings):
    wanted = replace(settings.prepare, num_problems=1500, think_share=1.0, drill_share=0.0, mistake_rate=0.3)
    # A random digit is right by chance once in ten times.
    assert share_of_wrong_lines(list(problem_documents(replace(settings, prepare=wanted)))) == pytest.approx(
        0.27, abs=0.025
    )
    clean = replace(wanted, mistake_rate=0.0, drill_share=0.5)
    assert share_of_wrong_lines(list(problem_documents(replace(settings, prepare=clean)))) == 0


def test_another_seed_is_another_corpus_of_other_problems_and_the_same_sealed_items(settings):
    first, again, other = (list(problem_documents(replace(settings, seed=seed))) for seed in (0, 0, 1))
    assert first == again
    assert not set(first) & set(other)
    assert sealed_items(settings.prepare) == sealed_items(replace(settings, seed=1).prepare)


def test_no_stage_draws_a_sealed_problem(settings, drawn, tokenizer):
    list(problem_documents(settings))
    learn.cold_start_examples(tokenizer, settings)
    sealed = sealed_items(settings.prepare).fingerprints
    assert len(sealed) == 30
    assert [seed for seed, _ in drawn] == ["pretrain/0", "cold start/0"]
    assert all(given == sealed for _, given in drawn)


def test_cold_start_conversations_are_well_formed_and_think_in_their_share(settings, tokenizer):
    examples = learn.cold_start_examples(tokenizer, settings)
    replies = [parse_reply(tokenizer.decode(one.reply_ids)) for one in examples]
    assert all(reply.complete and reply.content in "0123456789" for reply in replies)
    assert all(one.reply_ids[-1] == tokenizer.eos_id for one in examples)
    assert all(one.prompt_ids[-1] == tokenizer.assistant_id for one in examples)
    thinking = Counter(reply.reasoning is not None for reply in replies)[True] / 200
    assert thinking == pytest.approx(settings.cold_start.think_share, abs=0.15)  # four deviations
    assert len({tuple(one.prompt_ids) for one in examples}) == 200


def test_a_cold_start_in_words_thinks_in_as_many_languages_as_it_is_told_to(settings, tokenizer):
    for mixing, foreign in ((0.0, 0.0), (0.5, 1 / 3)):
        examples = learn.cold_start_examples(
            tokenizer, replace(settings, cold_start=replace(settings.cold_start, mixing=mixing))
        )
        thoughts = [parse_reply(tokenizer.decode(one.reply_ids)).reasoning for one in examples]
        told = [line for thought in thoughts if thought for line in thought.splitlines()]
        assert all(re.match(r"[①-⑤]\w+ \d[+*-]\d=\d$", line) for line in told)
        asked = [tokenizer.decode(one.prompt_ids) for one in examples]
        english = [t for a, t in zip(asked, thoughts, strict=True) if t and not re.search("[가-힣一-鿿]", a)]
        lines = [line for thought in english for line in thought.splitlines()]
        share = sum(re.search("[가-힣一-鿿]", line) is not None for line in lines) / len(lines)
        assert share == pytest.approx(foreign, abs=0.12)


def test_all_three_languages_are_in_the_cold_start(settings, tokenizer):
    prompts = [tokenizer.decode(one.prompt_ids) for one in learn.cold_start_examples(tokenizer, settings)]
    korean = sum(re.search("[가-힣]", prompt) is not None for prompt in prompts)
    english = sum(prompt.isascii() or re.search("[가-힣一-鿿]", prompt) is None for prompt in prompts)
    assert all(share > 40 for share in (korean, english, 200 - korean - english))
