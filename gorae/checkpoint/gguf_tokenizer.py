"""The tokenizer in a GGUF file: byte-level BPE, which GGUF calls `gpt2`, ↔ the library `tokenizers`.

GGUF names the rule that cuts text before BPE (`tokenizer.ggml.pre`) and leaves out the rule itself; the rules of the
published models are in the table below. Other kinds of tokenizers are an error. Knows no file.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers

_PREFIX = "tokenizer.ggml."
ADD_BOS = f"{_PREFIX}add_bos_token"
_BEGUN = ("llama-bpe",)  # whose texts begin with BOS where a file says nothing

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = {**_BYTES, "use_regex": True}

# letters that have a case, as DeepSeek-V2's tokenizer.json counts them
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅ"
    "ὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-"
    "ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)

_CUTS: dict[str, list[dict[str, Any]]] = {
    "deepseek-v3": [_split(r"\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"), _split(_DEEPSEEK_V3), _BYTES],
    "deepseek-llm": [
        _split("[\r\n]"),
        _split(rf"\s?[{_CASED}]+"),
        _split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        _split(r"\s+$"),
        _split("[一-龥ࠀ-一가-퟿]+"),
        _DIGITS,
        _BYTES,
    ],
    "qwen2": [_split(_WORDS % ""), _BYTES],
    "llama-bpe": [_split(_WORDS % "{1,3}"), _BYTES],
    "starcoder": [_DIGITS, _GPT2],  # Gorae's own tokenizers
    "gpt-2": [_GPT2],
}
_SAME = {"deepseek-r1-qwen": "qwen2", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "smollm": "starcoder"}
_IGNORING_MERGES = ("llama-bpe",)
_NORMALIZERS = {"qwen2": {"type": "NFC"}}


def read_tokenizer(metadata: Mapping[str, Any], vocab_size: int) -> tokenizers.Tokenizer | None:
    """The tokenizer of a file; None where it has none.

    Raises ValueError for another kind than byte-level BPE and for tokens or merges that make no tokenizer.
    """
    kind = metadata.get(f"{_PREFIX}model")
    if kind is None or kind == "none":
        return None
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model={kind!r:.80}; only 'gpt2', byte-level BPE, can be read")
    named = metadata.get(f"{_PREFIX}pre", "gpt-2")
    name = _SAME.get(named, named) if isinstance(named, str) else None
    if name not in _CUTS:
        known = ", ".join([*_CUTS, *_SAME])
        raise ValueError(f"tokenizer.ggml.pre={named!r:.80} is not known; Gorae knows {known}")
    tokens, types = _tokens(metadata, vocab_size)
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] != _UNUSED}
    added = [
        {**_added(token, special=types[index] == _CONTROL), "id": index}
        for index, token in enumerate(tokens)
        if types[index] in (_CONTROL, _USER_DEFINED)
    ]
    saved = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _NORMALIZERS.get(named),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[name]},
        "post_processor": _beginning(metadata, tokens, default=name in _BEGUN),
        "decoder": _GPT2,
        "model": {
            "type": "BPE",
            "ignore_merges": name in _IGNORING_MERGES,
            "vocab": vocabulary,
            "merges": _merges(metadata, vocabulary),
        },
    }
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(saved))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"tokens and merges make no tokenizer ({error}); convert the model again") from error


def tokenizer_metadata(library: tokenizers.Tokenizer, published: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a byte-level BPE tokenizer; ids up to the network's vocab_size that it lacks are unused tokens.

    Raises ValueError for another kind, for a cut that GGUF has no name for, and for more tokens than the network has.
    """
    saved = json.loads(library.to_str())
    if saved["model"]["type"] != "BPE" or (saved["decoder"] or {}).get("type") != "ByteLevel":
        raise ValueError(f"a tokenizer of type {saved['model']['type']} can not be written; only byte-level BPE can")
    vocab_size = published["vocab_size"]
    words = library.get_vocab(with_added_tokens=True)
    if max(words.values()) >= vocab_size:
        raise ValueError(
            f"the tokenizer has id {max(words.values())}, the network vocab_size={vocab_size}; take both "
            "from one checkpoint"
        )
    tokens, types = [f"[PAD{index}]" for index in range(vocab_size)], [_UNUSED] * vocab_size
    for token, index in words.items():
        tokens[index], types[index] = token, _NORMAL
    for index, token in library.get_added_tokens_decoder().items():
        types[index] = _CONTROL if token.special else _USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in saved["model"]["merges"]]
    found: dict[str, Any] = {"model": "gpt2", "pre": _name_of_cut(saved), "tokens": tokens, "token_type": types}
    if merges:
        found["merges"] = merges
    bos = published.get("bos_token_id")
    is_begun = bos is not None and library.encode("").ids[:1] == [bos]
    if is_begun or found["pre"] in _BEGUN:
        found["add_bos_token"] = is_begun
    return {_PREFIX + key: value for key, value in found.items()}


def _name_of_cut(saved: Mapping[str, Any]) -> str:
    given = saved["pre_tokenizer"] or {}
    steps = given.get("pretokenizers", [given])
    for name, cut in _CUTS.items():
        if [_essence(step) for step in steps] == [_essence(step) for step in cut]:
            return "deepseek-r1-qwen" if name == "qwen2" and not saved["normalizer"] else name
    raise ValueError(
        f"GGUF has no name known here for the tokenizer's pre_tokenizer {json.dumps(given, ensure_ascii=False):.200}; "
        f"it must be that of {', '.join(_CUTS)}"
    )


def _essence(step: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step changes the tokens: offsets do not."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}


def _added(token: str, *, special: bool) -> dict[str, Any]:
    return {
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _tokens(metadata: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    tokens, types = metadata.get(f"{_PREFIX}tokens"), metadata.get(f"{_PREFIX}token_type")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= vocab_size:
        raise ValueError(f"tokenizer.ggml.tokens must be 1 to {vocab_size} strings, as many as token_embd.weight has")
    kinds = [_NORMAL] * len(tokens) if types is None else np.asarray(types).reshape(-1).tolist()
    if len(kinds) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
    used = [token for token, kind in zip(tokens, kinds, strict=True) if kind != _UNUSED]
    if len(set(used)) < len(used) or "" in used:
        raise ValueError("tokenizer.ggml.tokens has an empty token or one token twice; convert the model again")
    return tokens, kinds


def _merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = metadata.get(f"{_PREFIX}merges", [])
    if not isinstance(merges, list):
        raise ValueError("tokenizer.ggml.merges must be strings")
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not all(part in vocabulary for part in (*pair, "".join(pair))):
            raise ValueError(
                f"tokenizer.ggml.merges has {' '.join(pair)!r:.80}, which joins no two tokens into a third"
            )
    return pairs


def _beginning(metadata: Mapping[str, Any], tokens: list[str], *, default: bool) -> dict[str, Any] | None:
    """The step that puts the first token of a text in front, where the file asks for it."""
    index = metadata.get(f"{_PREFIX}bos_token_id")
    if index is None or not metadata.get(ADD_BOS, default):
        return None
    if type(index) is not int or not 0 <= index < len(tokens):
        raise ValueError(f"tokenizer.ggml.bos_token_id={index!r:.80} is no token")
    first = {"SpecialToken": {"id": tokens[index], "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {tokens[index]: {"id": tokens[index], "ids": [index], "tokens": [tokens[index]]}},
    }
