"""What the difference of two ways of running a model would do to reinforcement learning: one samples, the other scores.

Noun: ParityReport. A way is named by what it runs: a model's folder, file or id, `:exact` or `:fast` behind it if the
mode is not what its weights are made for; `transformers:` and a folder or id; or the address of an API.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from gorae.checkpoint import Mode, load
from gorae.posttrain import (
    Comparison,
    EndpointSide,
    GoraeSide,
    GrpoSettings,
    Mismatch,
    Prompt,
    Side,
    TransformersSide,
    compare_layers,
    measure_mismatch,
    widest,
)
from gorae.tasks import draw_problems
from gorae.text import Message, Tokenizer

MODES: dict[str, Mode] = {"exact": "exact", "fast": "fast"}
TYPES = ("float32", "bfloat16", "float16")
FOREIGN = "transformers:"
NUM_PROMPTS, NUM_SAMPLES, RANDOM_LENGTH = 8, 4, 16
LOOKED_AT = 4  # rows whose layers are compared


@dataclass(frozen=True)
class ParityReport:
    """Where layers could not be compared, `layers` is None and `obstacle` says why."""

    sampler: str
    trainer: str
    num_prompts: int
    replies_a_step: int
    mismatch: Mismatch
    layers: Comparison | None
    obstacle: str | None


def run_parity(
    sampler: str,
    trainer: str,
    *,
    prompts: Path | None = None,
    num_tokens: int = 64,
    served_model: str | None = None,
    seed: int = 0,
) -> ParityReport:
    """Let `sampler` reply to prompts, the lines of a file if there is one, and `trainer` score the same tokens.

    `served_model` is the model's name at an address. Raises ValueError for sides that can not be compared.
    """
    a, b = open_sides(sampler, trainer, served_model=served_model)
    asked = read_prompts(a, b, prompts)
    require_room(a, b, asked, num_tokens)
    samples = a.sample([one for one in asked for _ in range(NUM_SAMPLES)], num_tokens=num_tokens, seed=seed)
    if b.vocab_size is not None and widest(samples) >= b.vocab_size:
        raise ValueError(f"{a.name} uses token {widest(samples)} and {b.name} has {b.vocab_size}; they are two models")
    settings = GrpoSettings()
    replies_a_step = settings.num_prompts * settings.num_samples
    mismatch = measure_mismatch(
        [one.log_probs for one in samples],
        b.score(samples),
        epsilon=settings.rule.epsilon,
        epsilon_high=settings.rule.epsilon_high,
        num_replies=replies_a_step,
    )
    rows = [one.prompt_ids + one.reply_ids for one in samples[:: NUM_SAMPLES * len(asked) // LOOKED_AT or 1]]
    layers, obstacle = layers_of(a, b, rows)
    return ParityReport(a.name, b.name, len(asked), replies_a_step, mismatch, layers, obstacle)


def open_sides(sampler: str, trainer: str, *, served_model: str | None) -> tuple[Side, Side]:
    """Both sides; an address is matched to the tokenizer of the other, which has to be a model at hand."""
    addresses = [is_address(name) for name in (sampler, trainer)]
    if all(addresses):
        raise ValueError(
            f"{sampler} and {trainer} are both addresses, and nothing here has a tokenizer; give a model's folder or "
            "id for one of them"
        )
    if not any(addresses):
        return open_model(sampler), open_model(trainer)
    known, url = (trainer, sampler) if addresses[0] else (sampler, trainer)
    at_hand = open_model(known)
    if at_hand.tokenizer is None:
        raise ValueError(f"{known} has no tokenizer, without which the tokens of {url} have no ids; add tokenizer.json")
    served = EndpointSide(url, served_model, at_hand.tokenizer)
    return (served, at_hand) if addresses[0] else (at_hand, served)


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def open_model(name: str) -> Side:
    """A model in Gorae or transformers, with its mode or type behind a colon."""
    whole = name.removeprefix(FOREIGN)
    path, _, last = whole.rpartition(":")
    if name.startswith(FOREIGN):
        return TransformersSide(name, *((path, last) if last in TYPES else (whole, TYPES[0])))
    return GoraeSide(name, load(path, MODES[last]) if last in MODES else load(whole))


def read_prompts(a: Side, b: Side, file: Path | None) -> list[Prompt]:
    """Prompts in tokens that both sides agree on; random ids where neither has a tokenizer."""
    tokenizers = [side.tokenizer for side in (a, b) if side.tokenizer is not None]
    if file is not None and not tokenizers:
        raise ValueError(f"{a.name} and {b.name} have no tokenizer to read {file} with; leave out --prompts")
    if not tokenizers:
        size = min(side.vocab_size for side in (a, b) if side.vocab_size is not None)
        draw = Random("parity")
        return [Prompt([draw.randrange(size) for _ in range(RANDOM_LENGTH)]) for _ in range(NUM_PROMPTS)]
    texts = own_texts() if file is None else lines_of(file)
    encoded = [encode(tokenizer, texts) for tokenizer in tokenizers]
    if encoded[0] != encoded[-1]:
        raise ValueError(
            f"{a.name} and {b.name} write prompts in different tokens, so what they say can not be compared; give them "
            "the same tokenizer and chat template"
        )
    return [Prompt(token_ids, text) for token_ids, text in zip(encoded[0], texts, strict=True)]


def own_texts() -> list[str]:
    return [problem.prompt for problem in islice(draw_problems("parity"), NUM_PROMPTS)]


def lines_of(file: Path) -> list[str]:
    texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{file} has no prompt; write one a line")
    return texts


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.encode_chat([Message("user", text)]) for text in texts]


def require_room(a: Side, b: Side, prompts: Sequence[Prompt], num_tokens: int) -> None:
    longest = max(len(one.token_ids) for one in prompts)
    for side in (a, b):
        if side.max_positions is not None and longest + num_tokens > side.max_positions:
            raise ValueError(
                f"a prompt of {longest} tokens and {num_tokens} to sample exceed the {side.max_positions} positions of "
                f"{side.name}; give shorter prompts, or fewer --tokens"
            )


def layers_of(a: Side, b: Side, rows: list[list[int]]) -> tuple[Comparison | None, str | None]:
    """The layers of both beside each other, or why there are none to be seen."""
    for side in (a, b):
        if side.body is None:
            return None, f"{side.name} shows no layers"
    assert a.body is not None
    assert b.body is not None
    try:
        return compare_layers(a.body, b.body, rows), None
    except ValueError as error:
        return None, str(error)
