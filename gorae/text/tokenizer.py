"""The byte-level BPE tokenizer: text → ids and back, whole or as it streams.

`Tokenizer` wraps the library `tokenizers` and its files; `StreamDecoder` yields whole characters only, because BPE cuts
a Korean or Chinese syllable into bytes. Text is never trusted: only our own template may produce control tokens.
"""

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gorae.text.conversation import read_conversation, write_conversation, write_prompt
from gorae.text.formats import TOOL_TOKENS, ChatFormat
from gorae.text.messages import (
    ASSISTANT,
    BOS,
    CONTROL_TOKENS,
    END_THINK,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    THINK,
    USER,
    Message,
    Mode,
    Part,
    Tool,
)
from gorae.text.parse import MODES, reply_parts
from gorae.text.template import CHAT_TEMPLATE, ChatTemplate, Written

_SMALLEST_VOCABULARY = len(CONTROL_TOKENS) + 256  # every byte is a token
_ASKED = {"think": "think", "direct": "answer at once"}
_LEADS = {"think": "makes it think", "direct": "has no thinking", "free": "leaves that to the model"}
_TRIAL = "whale 12 고래 鲸\n"  # some steps fail at their first text only
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_KEPT_BY_DECODE = {THINK, END_THINK, *TOOL_TOKENS}  # a reply is read by them


@dataclass(frozen=True)
class Prompt:
    """The ids of a prompt, and the mode in which the reply to it is to be read."""

    ids: list[int]
    mode: Mode


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer calls the begin, the end and the padding of a text; `bos` is None where it has no begin."""

    bos: str | None = BOS
    eos: str = EOS
    pad: str = PAD
    begins_texts: bool = True  # whether bos stands before a text that no template writes

    @staticmethod
    def of(
        library: tokenizers.Tokenizer, *, bos: str | None, eos: str, pad: str | None = None, begins_texts: bool = True
    ) -> "SpecialTokens":
        """Without `pad`, texts are padded with our token, or with the end token where there is none; neither counts."""
        own_pad = PAD if library.token_to_id(PAD) is not None else eos
        return SpecialTokens(bos, eos, pad or own_pad, begins_texts)


class Tokenizer:
    """A byte-level BPE tokenizer in which every digit is a token of its own.

    Made by `train` or `load`; raises ValueError where the given one is not byte-level or lacks a control token.
    """

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        chat_template: str = CHAT_TEMPLATE,
        chat_format: ChatFormat | None = None,
        special_tokens: SpecialTokens | None = None,
    ) -> None:
        """`chat_format`, where given, writes the prompts in place of the template and reads the replies."""
        if not isinstance(library.decoder, decoders.ByteLevel):
            raise ValueError(f"the tokenizer's decoder is {library.decoder}; only byte-level BPE can be read")
        self._library = library
        self._special_tokens = names = special_tokens or SpecialTokens()
        added = library.get_added_tokens_decoder()
        self._control_tokens = {index: token.content for index, token in added.items()}
        longest_first = sorted(self._control_tokens.values(), key=len, reverse=True)
        self._control_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._template = ChatTemplate(
            chat_template,
            control_tokens=longest_first,
            chat_format=chat_format,
            special_tokens={"eos_token": names.eos} | ({"bos_token": names.bos} if names.bos else {}),
        )
        self._builtin_format = chat_format
        self._bytes_of_id = _bytes_of_id(library)
        # The same model without its control tokens: what a user types can not become one.
        self._plain = tokenizers.Tokenizer(library.model)
        self._plain.pre_tokenizer = library.pre_tokenizer
        if library.normalizer is not None:
            self._plain.normalizer = library.normalizer
        self.vocab_size = 1 + max(library.get_vocab(with_added_tokens=True).values(), default=-1)
        self.bos_id = None if names.bos is None else self._control_id(names.bos)
        self.eos_id = self._control_id(names.eos)
        self.pad_id = self._control_id(names.pad)
        # A model from elsewhere may do without these.
        self.user_id = library.token_to_id(USER)
        self.assistant_id = library.token_to_id(ASSISTANT)
        self.think_id = library.token_to_id(THINK)
        self.end_think_id = library.token_to_id(END_THINK)

    @property
    def text_start_ids(self) -> list[int]:
        """What stands before a text that no template writes: a BOS, or nothing."""
        return [] if self.bos_id is None or not self._special_tokens.begins_texts else [self.bos_id]

    @property
    def chat_format(self) -> ChatFormat:
        """How replies are read: the built-in format, or what the template's marks say."""
        return self._template.chat_format

    @property
    def chat_template(self) -> str:
        """The jinja text that prompts are rendered with."""
        return self._template.source

    @staticmethod
    def train(texts: Iterable[str], *, vocab_size: int) -> "Tokenizer":
        """Learn a tokenizer from `texts`: the same texts give the same file, to the byte.

        The vocabulary is smaller than `vocab_size` where the texts hold too few different words to fill it.
        """
        if vocab_size < _SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocab_size={vocab_size} has no room for 256 bytes and {len(CONTROL_TOKENS)} control tokens; "
                f"set it to {_SMALLEST_VOCABULARY} or more"
            )
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(CONTROL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
        return Tokenizer(_with_thinking_kept(library))

    @staticmethod
    def load(folder: str | Path, *, chat_format: ChatFormat | None = None) -> "Tokenizer":
        """Read the tokenizer saved in `folder`, with its chat template unless `chat_format` stands in for it.

        The template is that of chat_template.jinja, else that of tokenizer_config.json, else ours.
        Raises ValueError, naming the file, if one is missing or broken.
        """
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"{folder} has no tokenizer.json; give a folder that a tokenizer was saved in")
        settings = _read_settings(folder / "tokenizer_config.json")
        library = _read_library(file)
        template = _read_template(folder, settings)
        try:
            special_tokens = _special_tokens(settings, library)
            return Tokenizer(library, chat_template=template, chat_format=chat_format, special_tokens=special_tokens)
        except ValueError as error:
            present = " with ".join(name for name in _FILES if (folder / name).is_file())
            raise ValueError(f"{folder}, {present}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, chat template included, as transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._special_tokens.bos,
            "eos_token": self._special_tokens.eos,
            "pad_token": self._special_tokens.pad,
            "clean_up_tokenization_spaces": False,
            "chat_template": self._template.source,
        } | ({} if self._special_tokens.begins_texts else {"add_bos_token": False})
        (folder / "tokenizer.json").write_text(self._library.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(
            json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of `text`, no BOS added; with `parse_special`, control tokens written in it count as such."""
        library = self._library if parse_special else self._plain
        return library.encode(_without_surrogates(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` of every text, faster than one by one."""
        texts = [_without_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_prompt(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), mode: Mode = "free") -> Prompt:
        """Return the prompt that asks for the next reply, and how that reply is to be read.

        Between two control tokens the text is encoded whole, as transformers does. Raises ValueError for a conversation
        nobody can answer, or a `mode` in which this model does not reply.
        """
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not a mode; use one of {', '.join(MODES)}")
        if self._builtin_format is None:
            written = self._template.write(messages, tools=tools, mode=mode)
        else:
            parts = self._begun(write_prompt(messages, self._builtin_format, tools=tools, mode=mode))
            written = Written(parts, self._builtin_format.mode_of("".join(text for text, is_ours in parts if is_ours)))
        if mode not in ("free", written.mode) and messages[-1].role == "user":
            raise ValueError(
                f"this model can not be made to {_ASKED[mode]}: its chat template {_LEADS[written.mode]}, whatever is "
                f"asked (mode={mode!r}); leave the choice to the model"
            )
        return Prompt(self._encode_joined(written.parts), written.mode)

    def encode_chat(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), mode: Mode = "free") -> list[int]:
        """Return the ids of `encode_prompt`; in our format they end with `<｜Assistant｜>` and what `mode` adds."""
        return self.encode_prompt(messages, tools=tools, mode=mode).ids

    def encode_results(self, results: Sequence[str]) -> list[int]:
        """Return what follows the token that ended a reply with tool calls: their results, in the order of the calls.

        Behind all ids so far, as they were sampled, it makes the prompt of the next reply, which `parse_after_results`
        reads. Nothing is encoded again, and that makes no difference: no text is ever encoded across the control token
        that ended the reply. Raises ValueError where replies have no tool calls.
        """
        if self.chat_format.tools is None:
            raise ValueError(f"the format {self.chat_format.name} has no tools; there are no calls to give results of")
        return self._encode_joined(self.chat_format.tools.write_results(results))

    def encode_conversation(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> list[int]:
        """Return a conversation in a built-in format, its last reply closed by EOS."""
        return self._encode_joined(self._begun(write_conversation(messages, self.chat_format, tools=tools)))

    def decode_conversation(self, ids: Iterable[int]) -> list[Message]:
        """Return the messages of `encode_conversation`, or of a prompt in a built-in format."""
        parts = self._parts_of(ids)
        return read_conversation([(BOS, True), *parts] if self.bos_id is None else parts, self.chat_format)

    def encode_reply(self, message: Message) -> list[int]:
        """Return what the assistant emits after a "free" prompt, EOS included.

        Reasoning, content and what separates them are encoded apart: the prompts of other modes are exact prefixes.
        """
        if message.role != "assistant":
            raise ValueError(f"a message with role {message.role} is not a reply; give one with role assistant")
        parts = reply_parts(message.reasoning, message.content, message.tool_calls, self.chat_format)
        ids = [index for text, is_ours in parts for index in self.encode(text, parse_special=is_ours)]
        return [*ids, self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`: special tokens dropped, `<think>` and `</think>` kept, broken UTF-8 as U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", errors="replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that `ids` stand for: none for special tokens, and for ids that a model has beyond ours."""
        ids = list(ids)
        if ids and min(ids) < 0:
            raise ValueError(f"id {min(ids)} is no token; ids begin with 0")
        return b"".join(self._bytes_of_id.get(index, b"") for index in ids)

    def piece(self, token_id: int) -> tuple[str, bytes | None]:
        """Return one token as text and as bytes: None for a control token, and for an id a model has beyond ours."""
        if token_id in self._control_tokens or token_id not in self._bytes_of_id:
            return self._control_tokens.get(token_id, ""), None
        data = self._bytes_of_id[token_id]
        return data.decode("utf-8", errors="replace"), data

    def _begun(self, parts: list[Part]) -> list[Part]:
        """A built-in format's conversation as it begins here: without a BOS where this tokenizer has none."""
        return parts[1:] if self.bos_id is None else parts

    def _encode_joined(self, parts: Iterable[Part]) -> list[int]:
        """Encode the text between two control tokens as one, whoever wrote its pieces."""
        ids: list[int] = []
        text = ""
        for piece, is_ours in parts:
            cut = self._control_pattern.split(piece) if is_ours else [piece]
            for place, part in enumerate(cut):
                if place % 2:
                    ids += [*self.encode(text), self._control_id(part)]
                    text = ""
                else:
                    text += part
        return ids + self.encode(text)

    def _parts_of(self, ids: Iterable[int]) -> list[Part]:
        parts: list[Part] = []
        pending: list[int] = []
        for index in ids:
            token = self._control_tokens.get(index)
            if token is None:
                pending.append(index)
                continue
            parts += [(self.decode(pending), False), (token, True)]
            pending = []
        return [part for part in [*parts, (self.decode(pending), False)] if part[0]]

    def _control_id(self, token: str) -> int:
        index = self._library.token_to_id(token)
        if index is None:
            raise ValueError(f"the tokenizer has no token {token}; train one with Tokenizer.train, or add the token")
        return index


class StreamDecoder:
    """Decodes ids as they come: the pieces joined are `Tokenizer.decode` of all ids, none ends inside a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Return the characters that are whole after `ids`."""
        return self._decoder.decode(self._tokenizer.bytes_of(ids))

    def finish(self) -> str:
        """Return U+FFFD for a character that was never finished, else nothing."""
        return self._decoder.decode(b"", final=True)


def _read_library(file: Path) -> tokenizers.Tokenizer:
    try:
        library = tokenizers.Tokenizer.from_file(str(file))
        library.no_padding()  # what a file asks for here would be done to every text
        library.no_truncation()
        library.encode(_TRIAL, add_special_tokens=False)
    except BaseException as error:  # the library raises nothing specific, and where it panics no Exception at all
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{file} can not be read as a tokenizer ({error}); save or download it again") from error
    return library


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); save or download it again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is not a JSON object; save or download it again")
    return settings


def _read_template(folder: Path, settings: dict[str, Any]) -> str:
    """Newer checkpoints have the template in a file of its own; older ones several, by name, in their settings."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error}); save or download it again") from error
    template = settings.get("chat_template", CHAT_TEMPLATE)
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'} has no chat_template that is text, nor one named default; "
            "put one into chat_template.jinja beside it"
        )
    return template


def _special_tokens(settings: dict[str, Any], library: tokenizers.Tokenizer) -> SpecialTokens:
    """The names in a checkpoint's settings; a begin that they call null there is none."""

    def named(key: str) -> str | None:
        value = settings.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None

    own_bos = BOS if "bos_token" not in settings and library.token_to_id(BOS) is not None else None
    return SpecialTokens.of(
        library,
        bos=named("bos_token") or own_bos,
        eos=named("eos_token") or EOS,
        pad=named("pad_token"),
        begins_texts=settings.get("add_bos_token") is not False,
    )


def _with_thinking_kept(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Mark `<think>` and `</think>` as added but not special; the trainer marks every token it is given as special."""
    saved = json.loads(library.to_str())
    for token in saved["added_tokens"]:
        token["special"] = token["content"] in SPECIAL_TOKENS
    return tokenizers.Tokenizer.from_str(json.dumps(saved))


def _bytes_of_id(library: tokenizers.Tokenizer) -> dict[int, bytes]:
    byte_of_character = _byte_of_character()
    added = library.get_added_tokens_decoder()
    words = library.get_vocab(with_added_tokens=False)
    own_words = [(word, index) for word, index in words.items() if index not in added]
    try:
        table = {index: bytes(byte_of_character[c] for c in word) for word, index in own_words}
    except KeyError as error:
        raise ValueError(
            f"the tokenizer has a word with {error}, which stands for no byte; only byte-level BPE can be read"
        ) from None
    is_dropped = {index: token.special and token.content not in _KEPT_BY_DECODE for index, token in added.items()}
    table.update({index: b"" if is_dropped[index] else token.content.encode() for index, token in added.items()})
    return table


def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _without_surrogates(text: str) -> str:
    """JSON may carry half a surrogate pair, which no UTF-8 text can; it becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
