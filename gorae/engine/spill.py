"""Pages of prefixes in a folder, where they outlive the process: a file a page, checksummed, under a bound of bytes.

Nouns: the key of a page is a hash of the weights and of all tokens up to its end, so another model, or another text,
never finds it. A file appears whole or not at all under its name; one that is damaged all the same is left out with a
message. Knows no tensor's shape: a page is bytes.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gorae.config import CacheType, cache_type_of
from gorae.kernels import TILE_KEYS, kernels_in_use, name_of
from gorae.model import Network
from gorae.observe import log, processor_name

MAGIC = b"gorae page 1\n"
SUFFIX = ".page"
DIGEST_BYTES = 32
ABANDONED_SECONDS = 60.0  # after which nobody goes on writing a file


class PageFolder:
    """What a folder holds, the least recently used first; several engines may share it, each within its own bound."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        require_writable(folder)
        self.folder, self.max_bytes = folder, max_bytes
        self.is_closed = False  # to new pages, since one could not be written
        for unfinished in folder.glob("*.writing"):
            if time.time() - unfinished.stat().st_mtime > ABANDONED_SECONDS:
                unfinished.unlink(missing_ok=True)
        found = [(path.stat(), path.name.removesuffix(SUFFIX)) for path in folder.glob(f"*{SUFFIX}")]
        self.sizes = {key: stat.st_size for stat, key in sorted(found, key=lambda one: one[0].st_mtime_ns)}
        self.num_bytes = sum(self.sizes.values())
        self.make_room(0)

    def __contains__(self, key: str) -> bool:
        return key in self.sizes

    def read(self, key: str) -> bytes | None:
        """A page, or None if its file has gone or does not hold what was written."""
        path = self.path_of(key)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            self.forget(key)
            return None
        page, digest = stored[len(MAGIC) : -DIGEST_BYTES], stored[-DIGEST_BYTES:]
        if not stored.startswith(MAGIC) or hashlib.sha256(page).digest() != digest:
            log(f"{path} is cut short or damaged: it is left out, and what it held is read again")
            path.unlink(missing_ok=True)
            self.forget(key)
            return None
        self.use(key)
        return page

    def write(self, key: str, page: bytes) -> None:
        """Add a page; those least recently used go where that takes their room.

        Where it can not be written, as on a full disk, that is said once, and no further page is.
        """
        num_bytes = len(MAGIC) + len(page) + DIGEST_BYTES
        if key in self.sizes or num_bytes > self.max_bytes or self.is_closed:
            return
        self.make_room(num_bytes)
        unfinished = self.folder / f"{key}.{os.getpid()}.writing"
        try:
            unfinished.write_bytes(MAGIC + page + hashlib.sha256(page).digest())
            unfinished.replace(self.path_of(key))
        except OSError as error:
            log(f"{self.folder} takes no page ({error}): what is read from now on is kept in memory alone")
            self.is_closed = True
            unfinished.unlink(missing_ok=True)
            return
        self.sizes[key] = num_bytes
        self.num_bytes += num_bytes

    def use(self, key: str) -> None:
        """Count a page as the one used last, in a later process too."""
        if key in self.sizes:
            self.sizes[key] = self.sizes.pop(key)
            try:
                os.utime(self.path_of(key))
            except FileNotFoundError:
                self.forget(key)

    def make_room(self, num_bytes: int) -> None:
        while self.sizes and self.num_bytes + num_bytes > self.max_bytes:
            oldest = next(iter(self.sizes))
            self.path_of(oldest).unlink(missing_ok=True)
            self.forget(oldest)

    def forget(self, key: str) -> None:
        self.num_bytes -= self.sizes.pop(key, 0)

    def path_of(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"


def require_writable(folder: Path) -> None:
    """Make sure that there is such a folder and that files can be made in it; raises ValueError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f"{os.getpid()}.writing"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ValueError(
            f"prefixes can not be kept in {folder} ({error.strerror}); give a prefix folder that can be written"
        ) from error


def page_keys(fingerprint: str, sequence: Sequence[int]) -> Iterator[str]:
    """The key of every whole page of a sequence, in order; each hashes the one before and the page's tokens."""
    key = fingerprint
    for first in range(0, len(sequence) - TILE_KEYS + 1, TILE_KEYS):
        tokens = ",".join(map(str, sequence[first : first + TILE_KEYS]))
        key = hashlib.sha256(f"{key}:{tokens}".encode()).hexdigest()
        yield key


def fingerprint_of(network: Network, cache_type: CacheType | None = None) -> str:
    """What the bits of a page depend on but its tokens: the config, every byte of the weights, kernels, type."""
    modes = network.is_fast, cache_type_of(cache_type, is_fast=network.is_fast)
    machine = (kernels_in_use(), torch.__version__, processor_name(), name_of(network.device))
    others = (network.config, *modes, TILE_KEYS, *machine)
    digest = hashlib.sha256(repr(others).encode())
    for name, tensor in sorted(held_tensors(network), key=lambda one: one[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def held_tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a module holds, in whatever it is wrapped."""
    for name, module in network.named_modules():
        for attribute, held in (vars(module) | module._parameters | module._buffers).items():
            yield from tensors_in(f"{name}.{attribute}", held)


def tensors_in(name: str, held: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(held, Tensor):
        yield name, held
    elif isinstance(held, list | tuple):
        for number, part in enumerate(held):
            yield from tensors_in(f"{name}[{number}]", part)
