"""Prepare: the tokenizer and the packed rows everything learns from, and the items nothing may learn from."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from gorae.data import (
    Document,
    find_sources,
    read_documents,
    read_packed,
    split_held_out,
    standard_library_documents,
    write_packed,
)
from gorae.observe import Meter, log, progress
from gorae.recipes.settings import LaptopSettings, PrepareSettings
from gorae.tasks import Problem, SealedItems, draw_problems, drill
from gorae.text import Message, Tokenizer

SEAL = "gorae laptop 1"  # names the sealed items; training seeds are numbers and can not meet it
TOKENIZER_BYTES = 600_000


def prepare(folder: Path, meter: Meter, settings: LaptopSettings) -> None:
    """Read the text, write the problems, train the tokenizer, pack everything into rows."""
    wanted = settings.prepare
    with progress("prepare", total=4) as bar:
        held_in, held_out = split_held_out(text_documents(settings), fraction=wanted.held_out_fraction)
        bar.advance(documents=len(held_in) + len(held_out))
        problems = list(problem_documents(settings))
        bar.advance(problems=len(problems))
        texts = [document.text for document in held_in]
        tokenizer = Tokenizer.train(
            [*first_bytes(texts, TOKENIZER_BYTES), *problems[:6000]], vocab_size=wanted.vocab_size
        )
        tokenizer.save(folder / "tokenizer")
        bar.advance(vocabulary=tokenizer.vocab_size)
        # A solution cut off from its problem would teach to guess, so problems are kept whole.
        for name, documents, pad_id in (("text", texts, None), ("problems", problems, tokenizer.pad_id)):
            sequences = as_sequences(tokenizer, documents)
            packed = write_packed(folder / name, sequences, length=wanted.row_length, pad_id=pad_id)
            meter.add(tokens=packed.rows.size)
        measured_on = list(as_sequences(tokenizer, [document.text for document in held_out]))
        # Of few documents, those held out may not fill a row; a shorter one measures as well.
        length = min(wanted.row_length, sum(map(len, measured_on)))
        meter.add(tokens=write_packed(folder / "held_out", measured_on, length=length).rows.size)
        bar.advance()


def text_documents(settings: LaptopSettings) -> list[Document]:
    """The user's files, or the standard library's source; enough of them to fill `max_text_bytes`."""
    if settings.data is None:
        documents = standard_library_documents()
    else:
        find_sources(settings.data)  # a path that holds nothing to read is refused before anything is read
        documents = read_documents(settings.data)
    taken, num_bytes = [], 0
    for document in documents:
        if num_bytes >= settings.prepare.max_text_bytes:
            log(f"text: {num_bytes:,} bytes taken, the rest left out; prepare.max_text_bytes sets how much is read")
            break
        taken.append(document)
        num_bytes += len(document.text.encode(errors="replace"))
    return taken


def problem_documents(settings: LaptopSettings) -> Iterator[str]:
    """Problems with worked solutions and with bare answers, and drills; mistakes planted as settings say."""
    wanted, random = settings.prepare, Random(f"corpus/{settings.seed}")
    problems = draw_problems(f"pretrain/{settings.seed}", sealed=sealed_items(wanted).fingerprints)
    for problem in islice(problems, wanted.num_problems):
        yield problem_document(problem, random, wanted)


def problem_document(problem: Problem, random: Random, wanted: PrepareSettings) -> str:
    if random.random() < wanted.drill_share:
        return drill(random)
    if random.random() >= wanted.think_share:
        return f"{problem.prompt}\n={problem.answer}"
    reasoning, answer = problem.worked_solution(random, mistake_rate=wanted.mistake_rate)
    return f"{problem.prompt}\n=\n{reasoning}\n\n{answer}"


def sealed_items(wanted: PrepareSettings) -> SealedItems:
    return SealedItems.draw(SEAL, wanted.sealed_items)


def as_sequences(tokenizer: Tokenizer, documents: list[str]) -> Iterator[list[int]]:
    for ids in tokenizer.encode_batch(documents):
        yield [*tokenizer.text_start_ids, *ids, tokenizer.eos_id]


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """An even sample of the texts: the beginning of each, all together about `limit` bytes."""
    texts = list(texts)
    share = max(1, limit // len(texts))
    return (text[:share] for text in texts)


def read_rows(prepared: Path, name: str) -> np.ndarray:
    return read_packed(prepared / name).rows


def chat_prompt(tokenizer: Tokenizer, problem: Problem) -> list[int]:
    """What a chat page would send for the problem."""
    return tokenizer.encode_chat([Message("user", problem.prompt)])
