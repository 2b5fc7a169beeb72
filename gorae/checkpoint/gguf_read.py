"""A GGUF file in: its config.json, its tensors under published names, its tokenizer.

The file is mapped; a tensor is decoded when it is asked for, an expert at a time, so memory is that of what is held.
The decoders of the quantised types are those of the package `gguf`. Knows no network.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from torch import Tensor

from gorae.checkpoint.gguf_config import from_metadata, llama3_factors, rope_scaling
from gorae.checkpoint.gguf_header import Header, Stored, read_header
from gorae.checkpoint.gguf_names import ROTARY_FACTORS, Entry, entries, fused_experts, is_latent_up, split_latent_up
from gorae.checkpoint.gguf_tokenizer import ADD_BOS, read_tokenizer
from gorae.checkpoint.safetensors import Layout
from gorae.config import from_published
from gorae.text import CHAT_TEMPLATE, SpecialTokens, Tokenizer

# where in a block its float16 scales are
_SCALES: dict[str, tuple[int, ...]] = {
    "F32": (),
    "F16": (),
    "BF16": (),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
_SIZES = {
    int(kind): (name, *gguf.GGML_QUANT_SIZES[kind])
    for name, kind in ((name, gguf.GGMLQuantizationType[name]) for name in _SCALES)
}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of those that are not quantised
_ELEMENTS_AT_ONCE = 1 << 22  # decoding needs some ten bytes an element beside its result


@dataclass(frozen=True)
class GgufFile:
    """A file: `published` in the form of a config.json, tensors by published name, the tokenizer and its template."""

    published: Mapping[str, Any]
    tensors: "GgufTensors"
    tokenizer: tokenizers.Tokenizer | None
    chat_template: str | None
    begins_texts: bool  # False where it says that no BOS stands before a text


class GgufTensors(Mapping[str, Tensor]):
    """Published name → float32 tensor, decoded anew each time it is asked for."""

    def __init__(self, path: Path, header: Header, published: Mapping[str, Any]) -> None:
        self._path = path
        self._header = header
        self._published = published
        self._entries = {entry.published: entry for entry in entries(published)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def layout(self, name: str) -> Layout:
        """The shape of a tensor and the narrowest type that has its values: its own, float32 if it is quantised."""
        entry = self._entries[name]
        stored = {self._header.tensors[place].type_name for place in self._places(entry)}
        return Layout(_DTYPES.get(stored.pop() if len(stored) == 1 else "", torch.float32), entry.shape)

    def tensor(self, name: str) -> Tensor:
        """The tensor in the type of its layout."""
        return self[name].to(self.layout(name).dtype)

    def stored(self) -> Iterator[tuple[str, str, int]]:
        """The type and the bytes of each stored tensor, beside a published name that it holds."""
        published_of = {place: entry.published for entry in self._entries.values() for place in self._places(entry)}
        for place, published in published_of.items():
            yield published, self._header.tensors[place].type_name, self._header.tensors[place].num_bytes

    def __getitem__(self, name: str) -> Tensor:
        """Decode a tensor. Raises ValueError if a scale or a value in it is not finite."""
        entry = self._entries[name]
        places = self._places(entry)
        if len(places) > 1:
            return self._latent_up(entry)
        start, rows = self._rows(entry)
        decoded = self._decode(places[0], start, rows).reshape(entry.shape)
        return torch.from_numpy(_as_published(decoded, entry.rotary_heads))

    def _places(self, entry: Entry) -> list[str]:
        """The stored tensors that hold an entry: one, or both halves of a `kv_b_proj`."""
        if entry.name in self._header.tensors:
            return [entry.name]
        return [*split_latent_up(entry.name)] if is_latent_up(entry.name) else [fused_experts(entry.name)]

    def _rows(self, entry: Entry) -> tuple[int, int]:
        """Where the rows of an entry begin in its stored tensor, and how many they are."""
        rows = entry.shape[0] if len(entry.shape) == 2 else 1
        if entry.expert is None:
            return 0, rows
        if entry.name in self._header.tensors:
            return entry.expert * rows, rows
        return (2 * entry.expert + (".ffn_up_exps." in entry.name)) * rows, rows

    def _latent_up(self, entry: Entry) -> Tensor:
        keys, values = (
            self._decode(name, 0, self._num_rows(name)).reshape(self._header.tensors[name].shape)
            for name in self._places(entry)
        )
        return torch.from_numpy(np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(entry.shape))

    def _num_rows(self, name: str) -> int:
        return int(np.prod(self._header.tensors[name].shape[:-1], dtype=np.int64))

    def _decode(self, name: str, start: int, rows: int) -> np.ndarray:
        stored = self._header.tensors[name]
        kind = gguf.GGMLQuantizationType[stored.type_name]
        row_bytes = stored.num_bytes // self._num_rows(name)
        begin = stored.start + start * row_bytes
        raw = self._header.content[begin : begin + rows * row_bytes].reshape(rows, row_bytes)
        if not _scales_are_finite(raw, stored.type_name):
            raise ValueError(f"{self._path}: tensor {name} has a scale that is no finite number; the file is broken")
        decoded = np.empty((rows, stored.shape[-1]), dtype=np.float32)
        step = max(1, _ELEMENTS_AT_ONCE // stored.shape[-1])
        for first in range(0, rows, step):
            decoded[first : first + step] = gguf.dequantize(raw[first : first + step], kind)
            if not np.isfinite(decoded[first : first + step]).all():
                raise ValueError(f"{self._path}: tensor {name} has a value that is no finite number; it is broken")
        return decoded


def read_gguf(path: str | PathLike[str]) -> GgufFile:
    """Open a GGUF file of a `deepseek2`, `qwen2` or `llama`; decode nothing yet.

    MTP modules in it are left out. Raises ValueError, naming the file, if it is cut short or broken, or if its
    metadata, tensors and tokenizer do not fit each other.
    """
    path = Path(path)
    header = read_header(path, _SIZES)
    try:
        published = from_metadata(header.metadata, {name: stored.shape for name, stored in header.tensors.items()})
        _require_fitting(header, published)
        tensors = GgufTensors(path, header, published)
        _require_rotary_factors(header, published)
        tokenizer = read_tokenizer(header.metadata, published["vocab_size"])
        template = header.metadata.get("tokenizer.chat_template")
        if template is not None and not isinstance(template, str):
            raise ValueError("tokenizer.chat_template is no text")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return GgufFile(published, tensors, tokenizer, template, header.metadata.get(ADD_BOS) is not False)


def text_tokenizer(file: GgufFile) -> Tokenizer | None:
    """The tokenizer of a file with its chat template, or ours if it has none.

    Raises ValueError if it lacks the tokens that begin and end a text.
    """
    if file.tokenizer is None:
        return None
    config, library = from_published(file.published), file.tokenizer
    bos, eos = (None if one is None else library.id_to_token(one) for one in (config.bos_id, config.eos_id))
    if eos is None or (bos is None and config.bos_id is not None):
        raise ValueError("its tokenizer has no token of the ids its metadata begins and ends a text with")
    special = SpecialTokens.of(library, bos=bos, eos=eos, begins_texts=file.begins_texts)
    return Tokenizer(library, chat_template=file.chat_template or CHAT_TEMPLATE, special_tokens=special)


def _require_fitting(header: Header, published: Mapping[str, Any]) -> None:
    """Judge every tensor's shape against the metadata; tell all that is wrong at once."""
    expected: dict[str, tuple[int, ...]] = {}
    for entry in entries(published):
        expected |= _expected(entry, published, header.tensors)
    complaints = [f"missing: {name}" for name in expected if name not in header.tensors]
    for name, stored in header.tensors.items():
        if name in expected and expected[name] != stored.shape:
            complaints.append(f"shape: {name} is {list(stored.shape)}, metadata makes it {list(expected[name])}")
        elif name not in expected and not _is_left_out(name, published):
            complaints.append(f"unknown: {name}")
    if complaints:
        told = complaints[:20] + ([f"and {len(complaints) - 20} more"] if len(complaints) > 20 else [])
        raise ValueError(f"{len(complaints)} tensors do not fit the metadata\n  " + "\n  ".join(told))


def _expected(entry: Entry, published: Mapping[str, Any], held: Mapping[str, Stored]) -> dict[str, tuple[int, ...]]:
    if is_latent_up(entry.name) and entry.name not in held:
        heads, latent = published["num_attention_heads"], published["kv_lora_rank"]
        keys, values = split_latent_up(entry.name)
        return {
            keys: (heads, latent, published["qk_nope_head_dim"]),
            values: (heads, published["v_head_dim"], latent),
        }
    if entry.expert is None:
        return {entry.name: entry.shape}
    experts, fused = published["n_routed_experts"], fused_experts(entry.name)
    if entry.name not in held and fused in held:
        return {fused: (experts, 2 * entry.shape[0], entry.shape[1])}
    return {entry.name: (experts, *entry.shape)}


def _is_left_out(name: str, published: Mapping[str, Any]) -> bool:
    if name == ROTARY_FACTORS:
        return True
    kind, _, rest = name.partition(".")
    layer = rest.partition(".")[0]
    return kind == "blk" and layer.isascii() and layer.isdigit() and int(layer[:9]) >= published["num_hidden_layers"]


def _require_rotary_factors(header: Header, published: dict[str, Any]) -> None:
    """Find the rule of `rope_freqs.weight`: the one the file names, or else that of the published Llama-3 models."""
    stored = header.tensors.get(ROTARY_FACTORS)
    scaling = rope_scaling(published)
    if stored is None:
        if scaling.get("rope_type") == "llama3":
            raise ValueError(f"gorae.rope_scaling is there, {ROTARY_FACTORS} is not; convert the model again")
        return
    if published["model_type"] != "llama" or stored.type_name != "F32" or len(stored.shape) != 1:
        raise ValueError(f"{ROTARY_FACTORS} must be a row of F32 in a llama")
    raw = header.content[stored.start : stored.start + stored.num_bytes]
    factors = raw.view("<f4")
    if not scaling and np.isfinite(factors).all():
        scaling = {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    follow = llama3_factors(published, scaling) if _is_rule(scaling) else []
    if len(follow) != len(factors) or not np.allclose(factors, follow, rtol=1e-4, atol=0):
        raise ValueError(f"{ROTARY_FACTORS} follows no rule of Llama-3's RoPE scaling that config.json could name")
    published["rope_scaling"] = scaling


def _is_rule(scaling: Mapping[str, Any]) -> bool:
    if scaling.get("rope_type") != "llama3":
        return False
    return scaling["factor"] > 0 and scaling["high_freq_factor"] > scaling["low_freq_factor"]


def _scales_are_finite(raw: np.ndarray, type_name: str) -> bool:
    block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]][1]
    blocks = raw.reshape(-1, block_bytes)
    return all(
        np.isfinite(np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2")).all()
        for place in _SCALES[type_name]
    )


def _as_published(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of adjacent rotary pairs → first halves before second halves, head by head."""
    if not heads:
        return rows
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
