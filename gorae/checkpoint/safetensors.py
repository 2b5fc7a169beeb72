"""One safetensors file: the header is judged before anything else is read, tensors are mapped, writing is a stream.

Nouns: a `Layout` is a tensor's type and shape; an `Entry` is a layout and where in the file the bytes lie. The header
says everything, so a wrong one is found before memory is reserved. Knows no tensor name and no folder.
"""

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

ALIGNMENT = 64  # a line of the processor's cache

_LENGTH_BYTES = 8  # the file begins with the length of its header, little-endian
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_DIMS, _MAX_SIZE = 64, 1 << 60  # torch's own limits, in elements that may have 8 bytes
_METADATA = "__metadata__"


class Layout(NamedTuple):
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def alignment(self) -> int:
        """What our files align a tensor to: the largest power of two, up to `ALIGNMENT`, that divides its size."""
        return min(ALIGNMENT, self.num_bytes & -self.num_bytes) or ALIGNMENT

    @property
    def type_name(self) -> str:
        return _NAMES[self.dtype]

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        return cls(tensor.dtype, tuple(tensor.shape))


class Entry(NamedTuple):
    """A tensor of a file: its layout, and its first byte counted from the beginning of the file."""

    layout: Layout
    begin: int

    @property
    def end(self) -> int:
        return self.begin + self.layout.num_bytes


class TensorFile:
    """An open safetensors file. Raises ValueError, saying what is wrong, for one whose header is not true."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self.entries = _read_entries(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, name: str, *, keep: bool = False) -> Tensor:
        """The tensor, mapped: pages are read when touched, and writing to it changes no file.

        The pages belong to it alone and go with it, or with `keep` to the whole file: systems allow few maps.
        """
        (dtype, shape), begin = self.entries[name]
        num_bytes = self.entries[name].layout.num_bytes
        if num_bytes == 0:
            return torch.empty(shape, dtype=dtype)
        first = 0 if keep else begin - begin % mmap.ALLOCATIONGRANULARITY
        pages = self._whole if keep else self._map(first, begin + num_bytes - first)
        raw = torch.frombuffer(pages, dtype=torch.uint8, count=num_bytes, offset=begin - first)
        if begin % dtype.itemsize:
            raw = raw.clone()  # the format allows odd places, torch does not
        return raw.view(dtype).view(shape)

    @cached_property
    def _whole(self) -> mmap.mmap:
        """All of the file, in 2 MB pages where the system can: whatever order weights are touched in, it reads so much.

        Linux 6.18 on ext4, 8 MB touched at a time in random order: without this none of 937 MB came to lie in such
        pages, with it 892 MB, and passing over all of it once more took a sixth less time, first touching it a third.
        """
        pages = self._map(0, 0)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system built without
                pages.madvise(mmap.MADV_HUGEPAGE)
        return pages

    def _map(self, begin: int, num_bytes: int) -> mmap.mmap:
        """Bytes of the file from a page's first on; 0 stands for all of them."""
        return mmap.mmap(self._file.fileno(), num_bytes, access=mmap.ACCESS_COPY, offset=begin)


def write_file(path: Path, layouts: Mapping[str, Layout], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a file whose layouts are known beforehand, taking its tensors one by one in any order."""
    header, entries = _plan(layouts)
    with path.open("wb") as file:
        file.write(header)
        for name, tensor in tensors:
            layout, begin = entries.pop(name)
            assert Layout.of(tensor) == layout, f"{name} came as {Layout.of(tensor)}, announced as {layout}"
            file.seek(begin)
            file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        assert not entries, f"{path}: {', '.join(entries)} announced and not given"


def _plan(layouts: Mapping[str, Layout]) -> tuple[bytes, dict[str, Entry]]:
    # The sizes of those before it are then multiples of what a tensor is aligned to.
    names = sorted(layouts, key=lambda name: -layouts[name].alignment)
    told: dict[str, Any] = {_METADATA: {"format": "pt"}}
    offset, offsets = 0, {}
    for name in names:
        layout, offsets[name] = layouts[name], offset
        offset += layout.num_bytes
        told[name] = {
            "dtype": layout.type_name,
            "shape": list(layout.shape),
            "data_offsets": [offsets[name], offset],
        }
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return header, {name: Entry(layouts[name], len(header) + offsets[name]) for name in names}


def _read_entries(file: BinaryIO) -> dict[str, Entry]:
    """The tensors of a file in the order of their bytes."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file_bytes < _LENGTH_BYTES:
        raise ValueError(f"{file_bytes} bytes are too few to tell the length of its header")
    header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    data_begin = _LENGTH_BYTES + header_bytes
    if header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {header_bytes} bytes; the format allows {_MAX_HEADER_BYTES}")
    if data_begin > file_bytes:
        raise ValueError(f"its header claims {header_bytes} bytes, the whole file has {file_bytes}")
    told = parse_object(file.read(header_bytes))
    metadata = told.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} in its header is no table of texts")
    entries = {name: _entry(name, value, data_begin) for name, value in told.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _require_gapless(entries, data_begin, file_bytes)
    return entries


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError also for a key that stands twice: one of its values would be lost."""
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("it holds no JSON object")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key} stands twice in one JSON object")
        table[key] = value
    return table


def _entry(name: str, told: Any, data_begin: int) -> Entry:
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} in its header does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} in its header is of the unknown type {str(dtype)[:20]!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMS or math.prod(size or 1 for size in shape) >= _MAX_SIZE:
        raise ValueError(f"{name} in its header has a shape that is no list of at most {_MAX_DIMS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} in its header has data_offsets that are no two sizes")
    layout = Layout(DTYPES[dtype], tuple(shape))
    if offsets[1] - offsets[0] != layout.num_bytes:
        raise ValueError(
            f"{name} in its header lies in {offsets[1] - offsets[0]} bytes; {dtype} {shape} takes {layout.num_bytes}"
        )
    return Entry(layout, data_begin + offsets[0])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


def _require_gapless(entries: Mapping[str, Entry], data_begin: int, file_bytes: int) -> None:
    expected = data_begin
    for name, entry in entries.items():
        if entry.begin < expected:
            raise ValueError(f"{name} overlaps the tensor before it")
        if entry.begin > expected:
            raise ValueError(f"{entry.begin - expected} bytes before {name} belong to no tensor")
        expected = entry.end
    if expected != file_bytes:
        raise ValueError(f"its tensors end at byte {expected}, the file at {file_bytes}")
