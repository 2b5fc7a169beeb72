"""Supervised fine-tuning: conversations whose replies are to be imitated, token for token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gorae.data import Loader
from gorae.text import THINK, Message, Tokenizer, parse_reply
from gorae.train import Batch, pad_batch


@dataclass(frozen=True)
class Example:
    """Prompt ids, which are only read, and reply ids, which are learnt."""

    prompt_ids: list[int]
    reply_ids: list[int]


def example_of(tokenizer: Tokenizer, messages: Sequence[Message], reply: Message) -> Example:
    """The prompt that ends with `messages`, as an engine is given it, and what the model is then to emit.

    A reply that thinks within its content, as some data sets have it, is taken apart. Raises ValueError where the
    model's format has no thinking and the reply has.
    """
    chat_format = tokenizer.chat_format
    if reply.reasoning is None and reply.content.startswith(THINK) and chat_format.thinks != "never":
        found = parse_reply(reply.content, "free", chat_format)
        reply = replace(reply, reasoning=found.reasoning, content=found.content)
    if reply.reasoning is not None and chat_format.thinks == "never":
        raise ValueError(f"the chat format {chat_format.name} has no place for reasoning; put it into the content")
    is_asked = chat_format.thinks == "caller" and messages[-1].role == "user"
    prompt = tokenizer.encode_prompt(messages, mode="think" if is_asked and reply.reasoning is not None else "free")
    if prompt.mode == "think" and reply.reasoning is None:
        reply = replace(reply, reasoning="")
    ids = tokenizer.encode_reply(reply)
    is_after_tool = messages[-1].role == "tool" and reply.reasoning is None  # where nothing is opened
    opening = chat_format.opening("direct" if is_after_tool else prompt.mode)
    held = tokenizer.encode(opening, parse_special=True)
    return Example(prompt.ids, ids[len(held) :] if ids[: len(held)] == held else ids)


def example_batches(examples: Sequence[Example], *, batch_size: int, seed: int, pad_id: int) -> Callable[[int], Batch]:
    """The batch of any step: all examples in an order drawn anew each epoch from (seed, epoch) alone."""
    loader = Loader(len(examples), batch_size, seed=seed)

    def batch(step: int) -> Batch:
        chosen = [examples[place] for place in loader.batch(step)]
        return pad_batch([training_row(one.prompt_ids, one.reply_ids) for one in chosen], pad_id)

    return batch


def training_row(
    prompt_ids: list[int], reply_ids: list[int], weight: float = 1.0, *, is_learnt: Sequence[bool] | None = None
) -> tuple[list[int], list[float]]:
    """Token ids and weights of a conversation: the prompt weighs nothing, a token of the reply `weight`.

    is_learnt: which tokens of the reply do; the others weigh nothing. None: all.
    """
    weights = [weight] * len(reply_ids) if is_learnt is None else [weight * learnt for learnt in is_learnt]
    return prompt_ids + reply_ids, [0.0] * len(prompt_ids) + weights
