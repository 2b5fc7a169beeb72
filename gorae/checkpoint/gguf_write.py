"""A GGUF file out, as llama.cpp reads it: one tensor or expert at a time, under another name, then put in place whole.

Noun: a plan is the header and the place of every tensor; it follows from config.json and the tokenizer alone, so no
tensor is touched before its turn, and those that are in a file already can stay. Quantising is that of the package
`gguf`. Knows no network.
"""

import os
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import tokenizers
from torch import Tensor

from gorae.checkpoint.folder import flush
from gorae.checkpoint.gguf_config import llama3_factors, rope_scaling, to_metadata
from gorae.checkpoint.gguf_names import ARCHITECTURES, ROTARY_FACTORS, Entry, entries, is_latent_up, split_latent_up
from gorae.checkpoint.gguf_tokenizer import tokenizer_metadata

FORMATS = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}

_F32, _F16, _Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0
_ELEMENTS_AT_ONCE = 1 << 22
_SMALLEST = 1e-30  # the float16 scale of a block of smaller numbers is 0, and dividing by it overflows
_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT


class PlannedTensor(NamedTuple):
    """A tensor of the file: its name, shape and type, the entries it is made of, and its first byte."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    parts: list[Entry]
    begin: int = 0

    @property
    def num_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * block_bytes

    @property
    def end(self) -> int:
        """Where the next tensor begins."""
        return _aligned(self.begin + self.num_bytes)


class GgufPlan(NamedTuple):
    """A GGUF file before its tensors are known: the config.json it is made from, its header, and what goes where."""

    published: Mapping[str, Any]
    header: bytes
    tensors: list[PlannedTensor]

    @property
    def num_bytes(self) -> int:
        return self.tensors[-1].end


def write_gguf(
    path: str | PathLike[str],
    published: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: tokenizers.Tokenizer | None = None,
    *,
    to: str = "f16",
    chat_template: str | None = None,
) -> None:
    """Write a model of config.json `published` and tensors under published names as one GGUF file.

    `to` is f16, q8_0 or q4_0; norms, biases and routers stay float32, rows that are no multiple of 32 float16, and the
    head of a q4_0 file q8_0. MTP modules are left out. Raises ValueError, leaving what is at `path` as it was, for a
    tensor that is missing, unknown, of another shape or not finite in the chosen type, and for a config or tokenizer
    that GGUF can not hold.
    """
    path = Path(path)
    plan = plan_gguf(published, tokenizer, to=to, chat_template=chat_template)
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_planned(partial, plan, tensors)
        flush(partial)
        os.replace(partial, path)
        flush(path.absolute().parent)
    except Exception:
        partial.unlink(missing_ok=True)
        raise


def plan_gguf(
    published: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None = None,
    *,
    to: str = "f16",
    chat_template: str | None = None,
) -> GgufPlan:
    """Lay out the file of `write_gguf`. Raises ValueError for a config or tokenizer that GGUF can not hold."""
    if to not in FORMATS:
        raise ValueError(f"to={to!r}; GGUF is written as {', '.join(FORMATS)}")
    metadata = to_metadata(published)
    if tokenizer is not None:
        metadata |= tokenizer_metadata(tokenizer, published)
    else:
        metadata["tokenizer.ggml.model"] = "none"
    if chat_template:
        metadata["tokenizer.chat_template"] = chat_template
    unplaced = list(_tensors(published, to))
    header = _header(ARCHITECTURES[published["model_type"]], metadata, unplaced, to)
    tensors, begin = [], len(header)
    for planned in unplaced:
        tensors.append(planned._replace(begin=begin))
        begin = tensors[-1].end
    return GgufPlan(published, header, tensors)


def write_planned(
    path: Path,
    plan: GgufPlan,
    tensors: Mapping[str, Tensor],
    *,
    finished: Container[str] = (),
    finish: Callable[[str], None] | None = None,
) -> None:
    """Write the file of a plan; `finished` are the tensors that the file at `path` has from an earlier attempt.

    `finish` is called with the name of each tensor once the disk has it. Raises ValueError, as `write_gguf` does, for
    tensors that do not fit.
    """
    _require_complete(plan, tensors)
    left = [planned for planned in plan.tensors if planned.name not in finished]
    with path.open("wb" if len(left) == len(plan.tensors) else "r+b") as file:
        file.write(plan.header)
        for planned in left:
            file.seek(planned.begin)
            for encoded in _encoded(planned, plan.published, tensors):
                file.write(encoded)
            assert file.tell() == planned.begin + planned.num_bytes, f"{planned.name} is not as long as announced"
            file.write(bytes(planned.end - file.tell()))
            if finish is not None:
                file.flush()
                os.fsync(file.fileno())
                finish(planned.name)


def _tensors(published: Mapping[str, Any], to: str) -> Iterator[PlannedTensor]:
    target = gguf.GGMLQuantizationType[to.upper()]
    stack: list[Entry] = []
    if rope_scaling(published).get("rope_type") == "llama3":
        yield PlannedTensor(ROTARY_FACTORS, (len(llama3_factors(published, rope_scaling(published))),), _F32, [])
    for entry in entries(published):
        if entry.expert is not None:
            stack.append(entry)
            if len(stack) == published["n_routed_experts"]:
                shape = (len(stack), *entry.shape)
                yield PlannedTensor(entry.name, shape, _kind(entry.name, shape, target, published), stack)
                stack = []
        elif is_latent_up(entry.name):
            heads, latent = published["num_attention_heads"], published["kv_lora_rank"]
            key_shape = (heads, latent, published["qk_nope_head_dim"])
            value_shape = (heads, published["v_head_dim"], latent)
            for name, shape in zip(split_latent_up(entry.name), (key_shape, value_shape), strict=True):
                yield PlannedTensor(name, shape, _kind(name, shape, target, published), [entry])
        else:
            yield PlannedTensor(entry.name, entry.shape, _kind(entry.name, entry.shape, target, published), [entry])


def _kind(
    name: str, shape: tuple[int, ...], target: gguf.GGMLQuantizationType, published: Mapping[str, Any]
) -> gguf.GGMLQuantizationType:
    if len(shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        return _F32
    head = "token_embd.weight" if published.get("tie_word_embeddings", False) else "output.weight"
    if target not in (_F16, _Q8_0) and name == head:
        target = _Q8_0
    return target if shape[-1] % gguf.GGML_QUANT_SIZES[target][0] == 0 else _F16


def _require_complete(plan: GgufPlan, tensors: Mapping[str, Tensor]) -> None:
    needed = {entry.published for planned in plan.tensors for entry in planned.parts}
    missing = [f"missing: {name}" for name in sorted(needed) if name not in tensors]
    unknown = [f"unknown: {name}" for name in tensors if name not in needed and not _is_left_out(name, plan.published)]
    if missing or unknown:
        raise ValueError("tensors do not fit config.json\n  " + "\n  ".join([*missing, *unknown]))


def _is_left_out(name: str, published: Mapping[str, Any]) -> bool:
    """MTP modules, the copy of a tied head, and rotary frequencies, which follow from config.json."""
    layer = name.removeprefix("model.layers.").partition(".")[0]
    is_mtp = name.startswith("model.layers.") and layer.isdigit() and int(layer) >= published["num_hidden_layers"]
    is_copy = name == "lm_head.weight" and published.get("tie_word_embeddings", False)
    return is_mtp or is_copy or name.endswith("rotary_emb.inv_freq")


def _header(architecture: str, metadata: Mapping[str, Any], plan: list[PlannedTensor], to: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:  # the package writes to files only
        file = Path(folder) / "header.gguf"
        writer = gguf.GGUFWriter(file, architecture)
        writer.add_type("model")
        writer.add_file_type(gguf.LlamaFileType[FORMATS[to]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in metadata.items():
            _add(writer, key, value)
        for planned in plan:
            writer.add_tensor_info(
                planned.name, planned.shape, np.dtype(np.float32), planned.num_bytes, raw_dtype=planned.kind
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        header = file.read_bytes()
    return header + bytes(_aligned(len(header)) - len(header))


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


def _encoded(planned: PlannedTensor, published: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """The bytes of a tensor, some rows at a time."""
    if planned.name == ROTARY_FACTORS:
        yield np.array(llama3_factors(published, rope_scaling(published)), dtype="<f4").tobytes()
    for entry in planned.parts:
        rows = _rows(planned, entry, published, tensors[entry.published])
        yield from _encode(rows, planned.kind, entry.published)


def _rows(planned: PlannedTensor, entry: Entry, published: Mapping[str, Any], tensor: Tensor) -> np.ndarray:
    """The values of an entry in the order of the file; the type stays that of the checkpoint."""
    if tuple(tensor.shape) != entry.shape:
        raise ValueError(
            f"{entry.published} is {list(tensor.shape)}, config.json makes it {list(entry.shape)}; "
            "take both from one checkpoint"
        )
    if entry.rotary_heads:
        halves = tensor.reshape(entry.rotary_heads, 2, -1, *tensor.shape[1:])
        tensor = halves.transpose(1, 2).reshape(tensor.shape)
    if is_latent_up(entry.name):
        nope, heads = published["qk_nope_head_dim"], published["num_attention_heads"]
        both = tensor.reshape(heads, -1, published["kv_lora_rank"])
        is_key = planned.name == split_latent_up(entry.name)[0]
        tensor = both[:, :nope].transpose(1, 2) if is_key else both[:, nope:]
    return tensor.detach().reshape(-1, tensor.shape[-1]).float().contiguous().numpy()


def _encode(rows: np.ndarray, kind: gguf.GGMLQuantizationType, name: str) -> Iterator[bytes]:
    step = max(1, _ELEMENTS_AT_ONCE // rows.shape[1])
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        # the float16 scale of a Q8_0 block is the largest magnitude over 127, of a Q4_0 block over 8
        limit = {_F32: np.inf, _F16: 65504.0, _Q8_0: 65504.0 * 127}.get(kind, 65504.0 * 8)
        if not np.isfinite(some).all() or np.abs(some).max() > limit:
            raise ValueError(
                f"{name} has a value that is no finite number in {kind.name}; this checkpoint is broken, "
                "or too wide for this type"
            )
        if kind not in (_F32, _F16):
            some = np.where(np.abs(some) < _SMALLEST, np.float32(0), some)
        yield np.ascontiguousarray(gguf.quantize(some, kind)).tobytes()
