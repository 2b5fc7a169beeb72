"""Metering a run: what each stage has spent so far, kept in the run folder as `bill.json`.

A `Ledger` belongs to a run folder, a `Meter` to one attempt at one stage. Attempts add up: work that a kill threw away
was paid for, and stays on the bill. Knows neither prices nor what a stage does.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gorae.observe.bill import Bill, StageBill
from gorae.observe.prices import PriceTable
from gorae.observe.replace import replace_text

SAVE_SECONDS = 2.0  # between two saves of an open meter: the most that a kill can take off the bill


@dataclass(frozen=True)
class Spent:
    """What the attempts at one stage have taken together.

    usd: what others were paid for answers; unpriced_tokens: of answers whose price is not known, so neither is the sum.
    """

    flops: float = 0.0
    tokens: int = 0
    core_seconds: float = 0.0
    wall_seconds: float = 0.0
    attempts: int = 0
    usd: float = 0.0
    unpriced_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        mine, theirs = asdict(self), asdict(other)
        return Spent(**{name: mine[name] + theirs[name] for name in mine})


class Ledger:
    """The figures of every stage begun in a run folder, in the order in which they began.

    Raises ValueError if the folder holds a `bill.json` that is not ours.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / "bill.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._spent = _read(self.path)
        self._open: Meter | None = None

    def stage(self, name: str) -> "Meter":
        """Return the meter for one attempt at a stage: `with ledger.stage("pretrain") as meter: ...`."""
        return Meter(self, name)

    def spent(self, name: str) -> Spent:
        """What all attempts at stage `name` have taken, up to now."""
        if self._open is not None and self._open.stage == name:
            return self._open.spent
        return self._spent.get(name, Spent())

    def bill(self, prices: PriceTable) -> Bill:
        """Price what has been spent up to now; a stage still running is billed so far."""
        stages = [(name, self.spent(name)) for name in self._spent]
        return Bill(tuple(_price(name, spent, prices=prices) for name, spent in stages), prices)


class Meter:
    """One attempt at a stage, saved every few seconds and at the end, so that a kill loses only the last of it.

    Core seconds are the CPU time of this process, all its threads, and of the children it has waited for; what others
    have worked for it is added.
    """

    def __init__(self, ledger: Ledger, stage: str) -> None:
        self.stage = stage
        self._ledger = ledger
        self._flops, self._tokens, self._core_seconds_of_others = 0.0, 0, 0.0
        self._usd, self._unpriced_tokens = 0.0, 0
        self._lock = threading.Lock()
        self._finished = threading.Event()

    def add(self, *, flops: float = 0.0, tokens: int = 0, core_seconds: float = 0.0) -> None:
        """Count work done: operations, tokens, CPU time of processes that are no children. Callable from any thread."""
        with self._lock:
            self._flops += round(flops)  # whole numbers, whose sum is the same in any order
            self._tokens += tokens
            self._core_seconds_of_others += core_seconds

    def pay(self, tokens: int, usd: float | None) -> None:
        """Count tokens that others computed, and what they were paid; None where that is not known."""
        with self._lock:
            self._tokens += tokens
            self._usd += usd or 0.0
            self._unpriced_tokens += tokens if usd is None else 0

    @property
    def flops(self) -> float:
        """What this attempt alone has counted."""
        return self._flops

    @property
    def spent(self) -> Spent:
        """What this attempt and those before it have taken."""
        with self._lock:
            flops, tokens, core_seconds = self._flops, self._tokens, self._core_seconds_of_others
            paid = {"usd": self._usd, "unpriced_tokens": self._unpriced_tokens}
        core_seconds += _core_seconds() - self._core_seconds_before
        wall_seconds = time.monotonic() - self._started
        return self._before + Spent(flops, tokens, core_seconds, wall_seconds, attempts=1, **paid)

    def __enter__(self) -> Self:
        other = self._ledger._open
        assert other is None, f"stage {self.stage!r} entered inside {other.stage!r}: its time would be billed twice"
        self._before = self._ledger.spent(self.stage)
        self._started, self._core_seconds_before = time.monotonic(), _core_seconds()
        self._ledger._open = self
        self._save()
        self._saver = threading.Thread(target=self._save_now_and_then, name=f"meter {self.stage}", daemon=True)
        self._saver.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._saver.join()
        self._save()
        self._ledger._open = None

    def _save_now_and_then(self) -> None:
        while not self._finished.wait(SAVE_SECONDS):
            self._save()

    def _save(self) -> None:
        self._ledger._spent[self.stage] = self.spent
        figures = {name: asdict(spent) for name, spent in self._ledger._spent.items()}
        replace_text(self._ledger.path, json.dumps({"stages": figures}, indent=2) + "\n")


def _price(name: str, spent: Spent, *, prices: PriceTable) -> StageBill:
    core_hours = spent.core_seconds / 3600
    return StageBill(
        stage=name,
        flops=spent.flops,
        tokens=spent.tokens,
        core_hours=core_hours,
        wall_seconds=spent.wall_seconds,
        usd=None if spent.unpriced_tokens else core_hours * prices["vcpu"].usd_per_hour + spent.usd,
        attempts=spent.attempts,
    )


def _core_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _read(path: Path) -> dict[str, Spent]:
    if not path.exists():
        return {}
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {name: Spent(**figures) for name, figures in stages.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a ledger this version wrote ({error}); "
            "move it away to start a new bill, or use another run folder"
        ) from error
