"""A run folder: its settings, its bill, and stages that are each done once however often the run is killed.

A stage is a folder with a file `done`. Knows nothing of what a stage does.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from gorae.checkpoint import Held, load, locked
from gorae.config import ModelConfig, listing, read, save
from gorae.model import Network
from gorae.observe import Ledger, Meter, log, replace_text
from gorae.recipes.machine import current_commit, describe_machine
from gorae.text import Tokenizer
from gorae.train import keep_freed_memory

BEGUN = "begun.json"  # where and from which commit the run was begun
FREE = (
    "serve.",
    "teach.api.",
    "rl.workers =",
)  # where something is done, which changes nothing that was made


class RunSettings(Protocol):
    """A dataclass of settings that says how many threads."""

    @property
    def threads(self) -> int | None: ...


SettingsT = TypeVar("SettingsT", bound=RunSettings)


@dataclass(frozen=True)
class Run(Generic[SettingsT]):
    """An open run folder. `stage` runs what is not done yet; `folder / name` holds what stage `name` made."""

    folder: Path
    settings: SettingsT
    ledger: Ledger

    @staticmethod
    def open(folder: Path, settings: SettingsT) -> "Run[SettingsT]":
        """Open a new or an unfinished run; it keeps the settings, machine and commit it was begun with.

        Raises ValueError if a stage was done with other settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        set_up_process(settings.threads)
        saved = folder / "settings.json"
        if any(folder.glob("*/done")):
            require_same(read(type(settings), saved), settings, folder)
        else:
            save(settings, saved)
            begun = {"machine": describe_machine(), "commit": current_commit()}
            replace_text(folder / BEGUN, json.dumps(begun, indent=2) + "\n")
        return Run(folder, settings, Ledger(folder))

    def stage(self, name: str, work: Callable[[Path, Meter], None]) -> Path:
        """Do a stage unless it is done; `work(folder, meter)` may find there what a killed attempt left.

        Raises ValueError if another process is at work in this run folder.
        """
        folder = self.folder / name
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            with (
                locked(self.folder / "lock", "wait for it to end, or give another --out"),
                self.ledger.stage(name) as meter,
            ):
                work(folder, meter)
            (folder / "done").touch()
            log(f"{name}: done, in {folder}")
        return folder


def set_up_process(threads: int | None) -> None:
    """Use `threads` threads (None: leave their number alone) and memory as training needs it, in all of the process."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class ChatModel:
    """A loaded model that has a tokenizer, as every model of a run does."""

    network: Network
    config: ModelConfig
    tokenizer: Tokenizer


def load_chat_model(
    path: Path, *, trainable: bool = False, narrow: bool = False, device: torch.device | str = "cpu"
) -> ChatModel:
    """Load what `load` takes, as it is stored or to learn: in float32, or with `narrow` matrices in bfloat16.

    Raises ValueError if it has no tokenizer, since nothing could be asked of it.
    """
    learning: Held = "bfloat16" if narrow else "float32"
    model = load(path, weights=learning if trainable else "stored", device=device)
    if model.tokenizer is None:
        raise ValueError(
            f"{path} has no tokenizer, and a chat needs one; give a folder with tokenizer.json or a .gguf file with one"
        )
    return ChatModel(model.network, model.config, model.tokenizer)


def require_same(begun: RunSettings, asked: RunSettings, folder: Path) -> None:
    """What a stage made is only used under the settings it was made with, but for those that are `FREE` to change."""
    pairs = zip(listing(begun), listing(asked), strict=True)
    changed = next(((old, new) for old, new in pairs if old != new and not old.startswith(FREE)), None)
    if changed:
        raise ValueError(
            f"{folder} was begun with {changed[0]}, and now {changed[1]} is asked for; "
            f"give another --out, or the settings it was begun with, or remove {folder} to begin anew"
        )
