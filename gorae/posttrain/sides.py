"""Ways of running a model, any of which can sample for any other to score: the two sides of a measurement of parity.

Nouns: a Side; a Prompt and the Sample that a side makes of it, token ids in and token ids out. Gorae in either mode,
a checkpoint in transformers, and an address that speaks OpenAI's format. Knows no files but those it is told of.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gorae.checkpoint import Model, load_tokenizer, resolve
from gorae.client import ChatClient, ClientError, TokenLogprob
from gorae.engine import Engine, SamplingParams
from gorae.kernels import log_softmax
from gorae.model import Replay
from gorae.posttrain.layers import Body, GoraeBody
from gorae.text import Tokenizer
from gorae.train import token_log_probs


@dataclass(frozen=True)
class Prompt:
    """`token_ids` are what `text` is as a conversation's first question, or else drawn at random: then it is empty."""

    token_ids: list[int]
    text: str = ""


@dataclass(frozen=True)
class Sample:
    prompt_ids: list[int]
    reply_ids: list[int]
    log_probs: list[float]


class Side(Protocol):
    """tokenizer, body, vocab_size and max_positions are None where they are not known."""

    name: str
    tokenizer: Tokenizer | None
    body: Body | None
    vocab_size: int | None
    max_positions: int | None

    def sample(self, prompts: Sequence[Prompt], *, num_tokens: int, seed: int) -> list[Sample]:
        """A reply to each prompt, from the whole softmax at temperature 1."""
        ...

    def score(self, samples: Sequence[Sample]) -> list[list[float]]:
        """What this side says of the same tokens."""
        ...


class GoraeSide(Side):
    """Samples with the engine, scores with the forward pass that training differentiates."""

    def __init__(self, name: str, model: Model) -> None:
        self.name, self.model = name, model
        self.tokenizer, self.body = model.tokenizer, GoraeBody(model.network)
        self.vocab_size, self.max_positions = model.config.vocab_size, model.config.max_positions

    def sample(self, prompts: Sequence[Prompt], *, num_tokens: int, seed: int) -> list[Sample]:
        params = [SamplingParams(max_tokens=num_tokens, seed=seed + place) for place in range(len(prompts))]
        outputs = Engine(self.model, prefix_cache=False).generate([one.token_ids for one in prompts], params)
        return [Sample(one.prompt_token_ids, one.token_ids, one.logprobs) for one in outputs]

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[list[float]]:
        network, scored = self.model.network, []
        for one in samples:
            ids_1T = torch.tensor([[*one.prompt_ids, *one.reply_ids]], device=network.device)
            hidden_ND = network(ids_1T[:, :-1]).hidden_BTD[0, len(one.prompt_ids) - 1 :]
            scored.append(token_log_probs(network, hidden_ND, ids_1T[0, len(one.prompt_ids) :]).tolist())
        return scored


class TransformersSide(Side):
    """A checkpoint as transformers runs it, in one of its floating-point types; that library is no part of Gorae."""

    def __init__(self, name: str, path: str, type_name: str) -> None:
        try:
            transformers = import_module("transformers")
        except ImportError as error:
            raise ValueError(
                f"{name} is to be run by transformers, which is not installed; pip install 'transformers>=5'"
            ) from error
        folder = resolve(path)
        with quiet(transformers):
            # Its grouped product of experts refuses rows that are no multiple of 16 bytes.
            options = {"dtype": getattr(torch, type_name), "experts_implementation": "eager"}
            self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        self.name, self.tokenizer = name, load_tokenizer(folder)
        self.body = TransformersBody(self.model) if TransformersBody.fits(self.model) else None
        self.vocab_size = self.model.config.vocab_size
        self.max_positions = self.model.config.max_position_embeddings

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], *, num_tokens: int, seed: int) -> list[Sample]:
        """A token at a time with its own cache, one prompt after the other: nothing is padded."""
        samples = []
        for place, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(seed + place)
            given, memory = torch.tensor([prompt.token_ids]), None
            made = Sample(prompt.token_ids, [], [])
            while len(made.reply_ids) < num_tokens and (made.reply_ids or [None])[-1] not in self.end_ids:
                output = self.model(given, past_key_values=memory, use_cache=True)
                memory, log_probs_W = output.past_key_values, log_softmax(output.logits[0, -1:].float())[0]
                token_id = int(torch.multinomial(log_probs_W.exp(), 1, generator=generator))
                made.reply_ids.append(token_id)
                made.log_probs.append(log_probs_W[token_id].item())
                given = torch.tensor([[token_id]])
            samples.append(made)
        return samples

    @property
    def end_ids(self) -> set[int]:
        ends = self.model.config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or ())

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[list[float]]:
        scored = []
        for one in samples:
            logits_TW = self.model(torch.tensor([[*one.prompt_ids, *one.reply_ids]]), use_cache=False).logits[0]
            log_probs_NW = log_softmax(logits_TW[len(one.prompt_ids) - 1 : -1].float())
            scored.append(log_probs_NW.gather(-1, torch.tensor(one.reply_ids)[:, None])[:, 0].tolist())
        return scored


class TransformersBody(Body):
    """The parts of a model of transformers that is built as those of DeepSeek, Qwen2 and Llama are there."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.first = model.model.layers[0]
        self.layers = [(layer.self_attn, layer.mlp) for layer in model.model.layers]

    @staticmethod
    def fits(model: Any) -> bool:
        layers = getattr(getattr(model, "model", None), "layers", ())
        return bool(len(layers)) and all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers)

    def features(self, token_ids_BT: Tensor) -> Tensor:
        return self.model.model(token_ids_BT, use_cache=False).last_hidden_state

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden_BTD)

    def route(self, feed_forward: nn.Module, x_ND: Tensor) -> Replay | None:
        if not all(hasattr(feed_forward, part) for part in ("gate", "experts", "shared_experts")):
            return None
        module: Any = feed_forward
        _, weights_NA, experts_NA = module.gate(x_ND)
        return Replay(experts_NA, weights_NA)

    def mix(self, feed_forward: nn.Module, x_BTD: Tensor, ways: Replay) -> Tensor:
        module: Any = feed_forward
        mixed_ND = module.experts(x_BTD.flatten(0, 1), ways.experts_NA.long(), ways.weights_NA)
        return mixed_ND.view_as(x_BTD) + module.shared_experts(x_BTD)


REFUSES_IDS = (400, 404, 405, 422, 500)  # what servers answer that have no such route, or want a text there


class EndpointSide(Side):
    """An address that speaks OpenAI's format and returns log-probabilities, such as vLLM's, SGLang's or llama.cpp's.

    It is asked for tokens by their ids, by /completions; where there is no such route, for a chat. What it returns has
    to be the ids of `tokenizer`, which is the other side's: it is matched by id, else by bytes, and refused if neither
    decides. To score, it has to echo a prompt with its log-probabilities.
    """

    body = vocab_size = max_positions = None

    def __init__(self, url: str, model: str | None, tokenizer: Tokenizer) -> None:
        self.name, self.tokenizer = url, tokenizer
        self.options = {"model": model} if model else {}
        self.id_of = ids_by_piece(tokenizer)

    def sample(self, prompts: Sequence[Prompt], *, num_tokens: int, seed: int) -> list[Sample]:
        options = self.options | {"max_tokens": num_tokens, "temperature": 1.0, "top_p": 1.0}
        with ChatClient(self.name) as client:
            for ask in (self.continued, self.answered):
                try:
                    return [ask(client, one, seed=seed + place, **options) for place, one in enumerate(prompts)]
                except ClientError as error:
                    if ask == self.answered or error.status not in REFUSES_IDS:
                        raise ValueError(str(error)) from error
        raise AssertionError("the last way of asking returns or raises")

    def continued(self, client: ChatClient, prompt: Prompt, **options: Any) -> Sample:
        named = {"return_token_ids": True, "return_tokens_as_token_ids": True}  # vLLM's; others know neither
        return self.matched(prompt, client.continue_tokens(prompt.token_ids, **options, **named))

    def answered(self, client: ChatClient, prompt: Prompt, **options: Any) -> Sample:
        if not prompt.text:
            raise ValueError(f"{self.name} takes no token ids, and the prompts are random ids; give --prompts FILE")
        reply = client.complete([{"role": "user", "content": prompt.text}], logprobs=True, top_logprobs=1, **options)
        told = reply.usage.get("prompt_tokens")
        if told is not None and told != len(prompt.token_ids):
            raise ValueError(
                f"{self.name} read a prompt as {told} tokens and the other side's chat template makes "
                f"{len(prompt.token_ids)} of it, so what they say can not be compared; serve it with the same template"
            )
        return self.matched(prompt, [*reply.reasoning_logprobs, *reply.logprobs])

    def matched(self, prompt: Prompt, entries: Sequence[TokenLogprob]) -> Sample:
        if not entries:
            raise ValueError(f"{self.name} returned no log-probabilities; serve it with them switched on")
        ids = [self.id_of_token(entry) for entry in entries]
        return Sample(prompt.token_ids, ids, [entry.logprob for entry in entries])

    def id_of_token(self, entry: TokenLogprob) -> int:
        if entry.token_id is not None:
            return entry.token_id
        pieces = (entry.token, entry.token.encode()) if entry.data is None else (entry.data,)
        found = next((self.id_of[piece] for piece in pieces if piece in self.id_of), [])
        if len(found) != 1:
            raise ValueError(
                f"{self.name} returned the token {entry.token!r}, which is {len(found)} tokens of the other side's "
                "tokenizer, so their ids can not be matched; serve the same tokenizer, with ids if the server has them"
            )
        return found[0]

    def score(self, samples: Sequence[Sample]) -> list[list[float]]:
        with ChatClient(self.name) as client:
            return [self.echoed(client, one) for one in samples]

    def echoed(self, client: ChatClient, sample: Sample) -> list[float]:
        row = [*sample.prompt_ids, *sample.reply_ids]
        try:
            entries = client.continue_tokens(row, **self.options, max_tokens=0, echo=True)
        except ClientError as error:
            raise ValueError(f"{self.name} can not score given tokens ({error}); make it the first side") from error
        if len(entries) != len(row):
            raise ValueError(
                f"{self.name} echoed {len(entries)} of {len(row)} tokens, so it can not score; make it the first side"
            )
        return [entry.logprob for entry in entries[len(sample.prompt_ids) :]]


def ids_by_piece(tokenizer: Tokenizer) -> dict[str | bytes, list[int]]:
    """Token ids by their bytes, those of control tokens by their text."""
    found: dict[str | bytes, list[int]] = {}
    for token_id in range(tokenizer.vocab_size):
        text, data = tokenizer.piece(token_id)
        found.setdefault(text if data is None else data, []).append(token_id)
    return found


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Its progress bars and remarks on missing keys are nothing of this measurement's."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def widest(samples: Sequence[Sample]) -> int:
    """The largest token id there is."""
    return max(chain.from_iterable((*one.prompt_ids, *one.reply_ids) for one in samples))
