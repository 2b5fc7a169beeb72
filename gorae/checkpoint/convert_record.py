"""A conversion that may be interrupted: a locked folder beside the target, and in it a record of what is finished.

The record belongs to one request: the same source, unchanged, to the same target. Knows no tensor and no format.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gorae.checkpoint.folder import locked
from gorae.checkpoint.safetensors import parse_object
from gorae.observe import log, replace_text

RECORD, LOCK = "conversion.json", "conversion.lock"


@dataclass
class ConversionError:
    """How far the quantised tensors of one kind are from the original."""

    tensors: int = 0
    squared_error: float = 0.0
    squared_size: float = 0.0
    largest: float = 0.0  # relative error of the worst tensor

    @property
    def relative(self) -> float:
        """Root of squared error over squared size."""
        return math.sqrt(self.squared_error / self.squared_size) if self.squared_size else 0.0

    def add(self, other: "ConversionError") -> None:
        self.tensors += other.tensors
        self.squared_error += other.squared_error
        self.squared_size += other.squared_size
        self.largest = max(self.largest, other.largest)


def add_errors(total: dict[str, ConversionError], more: Mapping[str, ConversionError]) -> None:
    """Add errors to a total, kind by kind."""
    for kind, error in more.items():
        total.setdefault(kind, ConversionError()).add(error)


class Record:
    """What of an unfinished conversion is finished, by name, with the errors in each."""

    def __init__(self, folder: Path, request: dict[str, Any], finished: dict[str, dict[str, ConversionError]]) -> None:
        self.folder, self._request, self._finished = folder, request, finished

    @classmethod
    def open(cls, folder: Path, request: dict[str, Any]) -> "Record":
        """Go on with what `folder` has of the same request, or empty it."""
        path = folder / RECORD
        try:
            kept = parse_object(path.read_bytes()) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path} is no record of a conversion ({error}); remove {folder} to begin anew") from error
        if kept.get("request") == request:
            errors = {
                name: {kind: ConversionError(**values) for kind, values in by_kind.items()}
                for name, by_kind in kept["finished"].items()
            }
            return cls(folder, request, errors)
        if kept:
            log(f"{folder} is of another conversion or of a source that has changed since; beginning anew")
        for left in folder.iterdir():
            if left.name != LOCK:
                left.unlink()
        record = cls(folder, request, {})
        record._save()
        return record

    def __contains__(self, name: str) -> bool:
        return name in self._finished

    def finish(self, name: str, errors: Mapping[str, ConversionError] | None = None) -> None:
        """Note that what is called `name` is whole and on the disk."""
        self._finished[name] = dict(errors or {})
        self._save()

    def errors(self) -> dict[str, ConversionError]:
        """The errors of all that is finished, by kind."""
        total: dict[str, ConversionError] = {}
        for by_kind in self._finished.values():
            add_errors(total, by_kind)
        return total

    def require_space(self, needed_bytes: int) -> None:
        """Raise OSError if so much does not fit on the disk."""
        free_bytes = shutil.disk_usage(self.folder).free
        if needed_bytes > free_bytes:
            raise OSError(f"{needed_bytes / 1e9:.2f} GB are to be written and {free_bytes / 1e9:.2f} GB are free")

    def _save(self) -> None:
        finished = {
            name: {kind: asdict(error) for kind, error in by_kind.items()} for name, by_kind in self._finished.items()
        }
        replace_text(self.folder / RECORD, json.dumps({"request": self._request, "finished": finished}, indent=2))


@contextmanager
def recorded(source: Path, target: Path, request: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the record of a conversion, kept in a folder beside `target` that no other process may enter meanwhile.

    An error of the disk, and Ctrl-C, say what to do, and what is finished stays; a ValueError removes it.
    """
    folder = target.with_name(f".{target.name}.converting")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, "wait for it, or give another target"):
        record = Record.open(folder, {"source": str(source), "files": _fingerprint(source), **request})
        what_to_do = (
            f"{source} is untouched; the same command goes on from what is finished in {folder}, "
            "which you may remove instead"
        )
        try:
            yield record
        except OSError as error:
            raise OSError(f"{error}; {what_to_do}") from error
        except KeyboardInterrupt:
            log(f"interrupted; {what_to_do}")
            raise
        except ValueError:  # the source has to change first, so nothing of this is of use
            shutil.rmtree(folder)
            raise


def remove_record(folder: Path) -> None:
    """Remove what only an unfinished conversion needs."""
    for name in (RECORD, LOCK):
        (folder / name).unlink()


def require_new(source: Path, target: Path) -> None:
    """Raise ValueError for a target that is there already, or lies in the source."""
    if target.exists():
        raise ValueError(f"{target} exists; give another name, or remove it")
    if target.is_relative_to(source):
        raise ValueError(f"{target} lies in {source}, which is never written to; give a place elsewhere")


def _fingerprint(source: Path) -> list[list[Any]]:
    """Name, size and time of every file: a source that has changed is converted anew."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
