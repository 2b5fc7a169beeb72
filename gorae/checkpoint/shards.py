"""The safetensors of a checkpoint folder: one `model.safetensors`, or several files under an index that must be true.

Nouns: a plan says which tensors go to which file; `Shards` are the open files of a folder, read as one. Every file is
judged by its header, and against the index, before any tensor is read. Knows no network and no config.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol, Self

from torch import Tensor

from gorae.checkpoint.safetensors import Layout, TensorFile, parse_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_END = "eos_token_id"
MAX_SHARD_BYTES = 5_000_000_000


def read_published(folder: Path) -> dict[str, Any]:
    """The config.json beside the tensors, with the tokens that end a reply by generation_config.json alone.

    Raises ValueError, naming the file, if config.json is missing or one of the two is not what it must be.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give a folder with a whole checkpoint")
    published = _read_object(folder / "config.json")
    path = folder / "generation_config.json"
    if path.is_file():
        named, given = published.get(_END), _read_object(path).get(_END)
        if any(type(one) is not int or one < 0 for one in _listed(given)):
            raise ValueError(f"{path}: {_END}={given!r} must be one whole number or a list")
        if more := [one for one in _listed(given) if one not in _listed(named)]:
            ids = [*_listed(named), *more]
            published[_END] = ids if len(ids) > 1 else ids[0]
    return published


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:  # json's and Unicode's errors are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


def _listed(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


class Tensors(Protocol):
    """Tensors by published name, to be had one at a time: those of a folder, or of a GGUF file."""

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, name: str, /) -> bool: ...

    def layout(self, name: str, /) -> Layout: ...

    def tensor(self, name: str, /) -> Tensor: ...


class Shards:
    """The tensors of a folder by name. Raises ValueError naming all files that are missing, broken or elsewhere.

    `complaints` lists what the index says wrongly of its files: the reader adds what else is wrong and tells it all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, TensorFile] = {}
        with ExitStack() as stack:
            index = _read_index(folder)
            holders: dict[str, list[str]] = {}
            for file in _open_files(folder, [WEIGHTS] if index is None else sorted(set(index.values())), stack):
                for name in file.entries:
                    self._file_of[name] = file
                    holders.setdefault(name, []).append(file.path.name)
            self.complaints = list(_contradictions(index, holders))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def layout(self, name: str) -> Layout:
        return self._file_of[name].entries[name].layout

    def tensor(self, name: str, *, keep: bool = False) -> Tensor:
        """The tensor, mapped (see `TensorFile.tensor`)."""
        return self._file_of[name].tensor(name, keep=keep)


def plan_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> dict[str, list[str]]:
    """The names that go to each file, in their order, none above `max_shard_bytes` unless one tensor alone is."""
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes={max_shard_bytes} must be positive")
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": names for number, names in enumerate(shards, start=1)}


def write_index(folder: Path, plan: Mapping[str, list[str]], layouts: Mapping[str, Layout]) -> None:
    """Write the index of a plan with several files; one file needs none."""
    if len(plan) > 1:
        file_of = {name: file_name for file_name, names in plan.items() for name in names}
        total_bytes = sum(layout.num_bytes for layout in layouts.values())
        index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(file_of.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read_index(folder: Path) -> dict[str, str] | None:
    """The file of each tensor as the index has it; None for a folder with one file and no index."""
    path = folder / INDEX
    if (folder / WEIGHTS).is_file() or not path.is_file():
        return None
    try:
        file_of = parse_object(path.read_bytes()).get("weight_map")
        if not isinstance(file_of, dict) or not file_of:
            raise ValueError("weight_map is no table of tensors and their files")
        elsewhere = sorted({str(file) for file in file_of.values() if not _is_plain_name(file)})
        if elsewhere:
            raise ValueError(f"it names {', '.join(map(repr, elsewhere))}; only .safetensors files beside it may be")
    except ValueError as error:
        raise ValueError(f"{path} is no index of a checkpoint ({error}); download it again") from error
    return file_of


def _is_plain_name(name: Any) -> bool:
    """Whether a file of this name lies in the folder itself, on any system."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and "\0" not in name
        and PurePosixPath(name).name == PureWindowsPath(name).name == name
    )


def _open_files(folder: Path, names: list[str], stack: ExitStack) -> list[TensorFile]:
    files, complaints = [], []
    for name in names:
        if not (folder / name).is_file():
            complaints.append(f"{folder} has no {name}")
            continue
        try:
            files.append(stack.enter_context(TensorFile(folder / name)))
        except ValueError as error:
            complaints.append(f"{folder / name} is no whole safetensors file ({error})")
    if complaints:
        head = f"{folder} is no whole checkpoint of safetensors; give one that is, or save or download it again"
        raise ValueError("\n  ".join([head, *complaints]))
    return files


def _contradictions(index: Mapping[str, str] | None, holders: Mapping[str, list[str]]) -> Iterator[str]:
    """What the index says that is not so, and tensors that are in several files."""
    for name, files in holders.items():
        if len(files) > 1:
            yield f"twice: {name} is in {' and in '.join(files)}"
        elif index is not None and name not in index:
            yield f"index: {name} is in {files[0]} and not named in it"
        elif index is not None and index[name] != files[0]:
            yield f"index: {name} is in {files[0]}, not in {index[name]}"
    yield from (f"missing: {name}" for name in index or () if name not in holders)
