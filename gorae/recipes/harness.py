"""Gorae's models for public suites: the model `gorae` of lm-eval, the Language Model Evaluation Harness.

python -m gorae.recipes.harness --model gorae --model_args path=runs/laptop/rl/model --tasks ...

is lm-eval's own command with that model added. Nouns: a HarnessModel, which scores and continues texts; lm-eval, an
optional package, hands in requests and is nowhere else known. Log-probabilities are the engine's, in the model's mode.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from gorae.checkpoint import Model, load
from gorae.engine import Engine, SamplingParams
from gorae.text import Message, Tokenizer

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one limit
DEFAULT_LENGTH = 256
NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "use_cache": True}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


class Request(Protocol):
    @property
    def args(self) -> tuple[Any, ...]: ...


class HarnessModel:
    """What lm-eval asks of a model; its class LM stands behind this one among the bases.

    `max_length` bounds what is read at once, by default by what the engine holds. Of a generated text, what stands
    before the last `think_end_token` is dropped.
    """

    def __init__(
        self,
        path: str,
        mode: str | None = None,
        max_length: int | str | None = None,
        think_end_token: str | None = None,
        batch_size: int | str = 256,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        del device  # lm-eval's command names a GPU, whether there is one or not
        self.path, self.think_end_token = path, think_end_token
        model = load(path, mode)  # pyright: ignore[reportArgumentType]  # which refuses what is none
        self.tokenizer = tokenizer_of(model, path)
        size = max_batch_size or (256 if str(batch_size).startswith("auto") else int(batch_size))
        self.engine = Engine(model, max_batch=size, prefix_cache=False)
        room = self.engine.max_positions - 2  # one for the token behind the last one read, one that has to be sampled
        self.max_length = room if max_length is None else int(max_length)
        if not 1 <= self.max_length <= room:
            raise ValueError(f"max_length={max_length} must lie between 1 and {room}, what this model reads at once")

    def loglikelihood(self, requests: Sequence[Request], **_: object) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the continuation's log-probability, and whether it is the greedy one."""
        return self.score([self.encode_pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Request], **_: object) -> list[float]:
        """The log-probability of each whole text behind a begin, which is not predicted itself."""
        windows = [list(self.windows(self.encode_pair("", request.args[0])[1])) for request in requests]
        scored = iter(self.score([window for each in windows for window in each]))
        return [sum(next(scored)[0] for _ in each) for each in windows]

    def generate_until(self, requests: Sequence[Request], **_: object) -> list[str]:
        """The continuation of each (context, settings) up to a stop text, which is not part of it."""
        asked = [self.continuation(*request.args) for request in requests]
        outputs = self.engine.generate([ids for ids, _ in asked], [params for _, params in asked])
        texts = [output.text for output in outputs]
        if self.think_end_token:
            texts = [text.rpartition(self.think_end_token)[2].lstrip() for text in texts]
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text that asks for a reply, or that has begun with the last message's content."""
        *earlier, last = [Message(turn["role"], turn["content"]) for turn in chat_history]  # pyright: ignore
        if not add_generation_prompt and last.role != "assistant":
            raise ValueError(f"a reply is to be gone on with, and the last message is the {last.role}'s")
        ids = self.tokenizer.encode_chat([*earlier, last] if add_generation_prompt else earlier)
        pieces = [data if data is not None else text.encode() for text, data in map(self.tokenizer.piece, ids)]
        return b"".join(pieces).decode() + ("" if add_generation_prompt else last.content)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the harness keeps with its results, to tell runs apart."""
        return self.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Names what texts are encoded with, for the harness's own caches."""
        return self.path.replace("/", "__")

    def score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """What the second ids of each row have behind the first; of a row that is too long, its end counts."""
        for _, wanted in rows:
            if len(wanted) > self.max_length:
                raise ValueError(f"{len(wanted)} tokens can not be scored at once: this model reads {self.max_length}")
        whole = [(context + wanted)[-self.max_length - 1 :] for context, wanted in rows if wanted]
        outputs = iter(self.engine.generate(whole, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)))
        return [self.scored(next(outputs), len(wanted)) if wanted else (0.0, True) for _, wanted in rows]

    def scored(self, output: Any, num_wanted: int) -> tuple[float, bool]:
        """The sum over the last tokens of a prompt, and whether each was the likeliest."""
        ids, log_probs = output.prompt_token_ids[-num_wanted:], output.prompt_logprobs[-num_wanted:]
        likeliest = [next(iter(top)) for top in output.prompt_top_logprobs[-num_wanted:]]
        return sum(log_probs), ids == likeliest

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, cut where the context's end; spaces there belong to what follows.

        An empty context is the begin of a text.
        """
        kept = context.rstrip()
        if not kept:
            wanted, first = self.tokenizer.encode(context + continuation, parse_special=True), self.first_id
            return [first], wanted[1:] if wanted[:1] == [first] else wanted
        whole, known = self.encode(context + continuation), self.encode(kept)
        return whole[: len(known)], whole[len(known) :]

    def encode(self, text: str) -> list[int]:
        """Token ids, begun as this tokenizer begins texts, but once only."""
        ids, start = self.tokenizer.encode(text, parse_special=True), self.tokenizer.text_start_ids
        return ids if ids[: len(start)] == start else [*start, *ids]

    @property
    def first_id(self) -> int:
        """What a text stands behind that nothing stands before."""
        return self.tokenizer.eos_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id

    def windows(self, ids: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Parts of a text with what is read before each: every token once, each part behind as much as there is room.

        The first part stands behind `first_id` and is as long as can be read; one token lies before each of the others,
        but before the last, whose room for more is filled.
        """
        row = [self.first_id, *ids]
        for start in range(0, len(ids), self.max_length):
            end = min(start + self.max_length, len(ids))
            first = max(0, end - self.max_length)
            yield list(row[first : start + 1]), list(row[start + 1 : end + 1])

    def continuation(self, context: str, settings: Mapping[str, Any]) -> tuple[list[int], SamplingParams]:
        """A prompt cut to the room that its reply leaves, and how to go on."""
        wanted = {name: value for name, value in settings.items() if value is not None}
        lengths = [wanted.pop(name, None) for name in LENGTHS]
        num_tokens = int(next((length for length in lengths if length is not None), DEFAULT_LENGTH))
        room = self.max_length - num_tokens
        if room < 1:
            raise ValueError(f"{num_tokens} tokens are to be written and {self.max_length} can be read; ask for fewer")
        stops = wanted.pop("until", [])
        texts, token_ids = self.stops([stops] if isinstance(stops, str) else stops)
        sampled: dict[str, Any] = {name: wanted.pop(name) for name in SAMPLING if name in wanted}
        if not wanted.pop("do_sample", sampled.get("temperature", 0) > 0):
            sampled = {"temperature": 0.0}
        for name, value in wanted.items():
            if name not in NEUTRAL or value != NEUTRAL[name]:
                raise ValueError(f"{name}={value} would change the reply and this model does not know it; leave it out")
        params = SamplingParams(max_tokens=num_tokens, stop=texts, stop_token_ids=token_ids, **sampled)
        return self.encode(context)[-room:], params

    def stops(self, texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Stop texts, and of those that are one control token its id: it is never text."""
        encoded = {text: self.tokenizer.encode(text, parse_special=True) for text in texts if text}
        control = {text: ids[0] for text, ids in encoded.items() if self.tokenizer.piece(ids[0])[1] is None}
        return tuple(text for text in encoded if text not in control), tuple(control.values())


def tokenizer_of(model: Model, path: str) -> Tokenizer:
    if model.tokenizer is None:
        raise ValueError(f"{path} has no tokenizer, and a suite is text; give a folder with tokenizer.json")
    return model.tokenizer


def register() -> type:
    """Make `gorae` a model of lm-eval, and return its class. Raises ValueError where lm-eval is not installed."""
    try:
        api, registry = import_module("lm_eval.api.model"), import_module("lm_eval.api.registry")
    except ImportError as error:
        raise ValueError("lm-eval is not installed; pip install 'gorae[lm-eval]'") from error
    import_module("lm_eval.models")  # its own models come first: a registry that is not empty is taken for whole

    @registry.register_model("gorae")
    class Gorae(HarnessModel, api.LM):
        """What lm-eval makes of `--model gorae`."""

    return Gorae


if __name__ == "__main__":
    register()
    import_module("lm_eval.__main__").cli_evaluate()
