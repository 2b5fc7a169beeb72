"""The one training loop: stages differ in batch and loss, not in loop.

Everything random in a step follows from the step's number, so weights, optimizer and step number are the whole state.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from gorae.checkpoint import load_state, save_state
from gorae.model import Network
from gorae.observe import Meter, MetricsWriter, Watch, log, progress
from gorae.train.adapter import Adapter
from gorae.train.batch import Batch
from gorae.train.loss import Loss
from gorae.train.optimizer import HybridOptimizer
from gorae.train.schedule import Schedule
from gorae.train.step import move_router_biases, update

STATE_FILE = "state.safetensors"
SHOWN = (
    *("loss", "val_bpb", "max_vio", "reward", "rewards/accuracies", "completions/mean_length"),
    *("ratio_max", "routing_flips", "tokens_per_second"),
)


class Stateful(Protocol):
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor], /) -> object: ...


@dataclass
class Trainer:
    """Trains `network` in `folder`, where state and metrics are kept; running again goes on from the last save.

    Routers' biases move by `router_bias_rate`, after every step or, if it is more than 1, `router_bias_every` so many.
    With an `adapter` the optimizer steps its parameters, and the state is what it has beside the weights begun with.
    `ahead` is what has been made for batches to come; it is saved with the rest. `flops` are those of the steps taken;
    the meter's are more if a kill threw some away.
    """

    title: str
    network: Network
    optimizer: HybridOptimizer
    schedule: Schedule
    folder: Path
    save_every: int = 20
    router_bias_rate: float = 0.0
    router_bias_every: int = 1
    adapter: Adapter | None = None
    flops: float = 0.0
    ahead: Stateful | None = None

    def run(
        self,
        make_batch: Callable[[int], Batch],
        loss: Callable[[Network, Batch], Loss],
        *,
        meter: Meter,
        count: Callable[[Batch], None],
        describe: Callable[[int], dict[str, float]] | None = None,
        max_flops: float = math.inf,
    ) -> None:
        """Update once for every step still to do: `make_batch(step)`, then `loss(network, batch)`.

        `count` puts a batch trained on down on `meter`; making and describing it may add to that. `describe` adds
        figures to a step's metrics, where every step has its loss, its gradient norm, the tokens trained on a second
        and the FLOPs so far. Alarms are logged. Ends early when those FLOPs reach `max_flops`.
        """
        first, watch = self.resume(), Watch()
        with (
            MetricsWriter(self.folder, name="metrics", resume_step=first) as metrics,
            progress(self.title, self.schedule.num_steps, done=first) as bar,
        ):
            for step in range(first, self.schedule.num_steps):
                if self.flops >= max_flops:
                    break
                began, counted = time.monotonic(), meter.flops
                batch = make_batch(step)
                result = update(self.network, self.optimizer, batch, loss, self.schedule.share(step))
                if self.adapter:
                    self.adapter.write()
                if self.router_bias_rate and (step + 1) % self.router_bias_every == 0:
                    move_router_biases(self.network, result, self.router_bias_rate)
                count(batch)
                seconds = time.monotonic() - began
                figures = {**result.figures, "tokens_per_second": batch.num_tokens / seconds}
                figures |= describe(step) if describe else {}
                self.flops += meter.flops - counted
                metrics.write(step, **figures, flops=self.flops)
                for alarm in watch.see(step, figures):
                    log(f"{self.title}, step {step}: {alarm.figure} {figures[alarm.figure]:.4g}: {alarm.told}")
                bar.advance(1, **{name: figures[name] for name in SHOWN if name in figures})
                is_last = step + 1 == self.schedule.num_steps or self.flops >= max_flops
                if is_last or (step + 1) % self.save_every == 0:
                    self.save(step + 1)

    def resume(self) -> int:
        """Take up the last save, if there is one; returns the step to go on with."""
        path = self.folder / STATE_FILE
        if not path.exists():
            return 0
        tensors, values = load_state(path)
        for name, part in self.parts.items():
            part.load_state_dict(_part(tensors, f"{name}/"))
        self.flops = float(values["flops"])
        return int(values["step"])

    def save(self, step: int) -> None:
        state = {f"{name}/{key}": one for name, part in self.parts.items() for key, one in part.state_dict().items()}
        save_state(self.folder / STATE_FILE, state, {"step": step, "flops": self.flops})

    @property
    def parts(self) -> dict[str, Stateful]:
        """What is saved, by name."""
        parts = {"network": self.adapter or self.network, "optimizer": self.optimizer, "ahead": self.ahead}
        return {name: part for name, part in parts.items() if part is not None}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
