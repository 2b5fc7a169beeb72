"""Who samples a batch: one engine here and now, or a fleet of them in processes of their own, on Ray.

Nouns: a worker, an engine with its own copy of the model; a version, the weights that work has to be done with. Workers
take work piece by piece as they become free. A reply follows from weights, prompt and seed alone: it is the same,
whoever samples it, and again after a worker died of it.
"""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, groupby, pairwise
from logging import WARNING
from queue import SimpleQueue
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save

from gorae.checkpoint import quantise_again
from gorae.engine import Engine, Output, SamplingParams, ServableModel
from gorae.model import Network
from gorae.observe import Meter, log
from gorae.posttrain.ahead import finished
from gorae.posttrain.sampler import Sampler
from gorae.text import Tokenizer

MOST_DEATHS = 3  # of workers at one piece of work, before it is held to be the work's fault
LEAST_STORE_BYTES = 128 << 20

Result = TypeVar("Result")


class Tally:
    """Counts what engines compute, until that is taken."""

    def __init__(self) -> None:
        self.flops, self.tokens = 0.0, 0

    def add(self, *, flops: float, tokens: int) -> None:
        self.flops += round(flops)  # as a Meter does
        self.tokens += tokens

    def take(self) -> tuple[float, int]:
        taken = self.flops, self.tokens
        self.flops, self.tokens = 0.0, 0
        return taken


class Here:
    """One engine, over the network that learns: work is done when it has been begun."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, work: Callable[[Sampler], Result], *, version: int) -> Future[Result]:  # noqa: ARG002
        """`work(sampler)`, which has the weights of now."""
        return finished(work(self.engine))


class HereQuantised(Here):
    """One engine over a copy of the network that learns, at 8 or 4 bits, which is made again before work is done."""

    def __init__(self, engine: Engine, copy: Network, network: Network, to: str) -> None:
        super().__init__(engine)
        self.follow = partial(quantise_again, copy, network, to)

    def begin(self, work: Callable[[Sampler], Result], *, version: int) -> Future[Result]:
        self.follow()
        self.engine.weights_changed()
        return super().begin(work, version=version)


class Sampled(NamedTuple):
    """What a worker gives back, and what it took since it gave back the last; its beginning counts too."""

    outputs: list[Output]
    flops: float
    tokens: int
    core_seconds: float


class Worker:
    """One of a fleet, in a process of its own. Knows nothing of Ray."""

    def __init__(self, make_engine: Callable[..., Engine], num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.tally = Tally()
        self.engine = make_engine(count=self.tally.add)
        self.version: int | None = None
        self.core_seconds = 0.0  # that have been given back

    def sample(
        self, version: int, weights: np.ndarray, prompts: Sequence[list[int]], params: Sequence[SamplingParams]
    ) -> Sampled:
        """Continue prompts with `version`, whose weights are these bytes; a worker that has it does not read them."""
        if version != self.version:
            self.engine.update_weights(load(weights.tobytes()))
            self.engine.weights_version = self.version = version
        outputs = self.engine.generate(prompts, params)
        before, self.core_seconds = self.core_seconds, time.process_time()
        return Sampled(outputs, *self.tally.take(), self.core_seconds - before)


class Fleet:
    """Workers that sample with the weights `model` had when work was begun; a context.

    make_engine: makes a worker's engine, which counts with `count`.
    num_versions: so many versions of the weights may be in use at once.
    tally, meter: are told what workers computed, and the seconds that took them.

    They run on this machine, or on the cluster that RAY_ADDRESS names. Raises ValueError where Ray is not installed.
    """

    def __init__(
        self,
        make_engine: Callable[..., Engine],
        model: ServableModel,
        *,
        num_workers: int,
        num_versions: int,
        tally: Tally,
        meter: Meter,
    ) -> None:
        self.model, self.num_workers, self.tally, self.meter = model, num_workers, tally, meter
        num_threads = max(1, torch.get_num_threads() // num_workers)
        weight_bytes = sum(tensor.nbytes for tensor in model.network.state_dict().values())
        self.ray, self.has_started_ray = start_ray(
            num_cpus=num_workers * num_threads,
            object_store_memory=max(LEAST_STORE_BYTES, 2 * num_versions * weight_bytes),
        )
        actor = self.ray.remote(num_cpus=num_threads, scheduling_strategy="SPREAD")(Worker)
        self.hire = partial(actor.remote, make_engine, num_threads)
        self.workers = [self.hire() for _ in range(num_workers)]
        self.idle: SimpleQueue[int] = SimpleQueue()
        for number in range(num_workers):
            self.idle.put(number)
        self.hands = ThreadPoolExecutor(num_workers)  # each has one worker at work
        self.batches = ThreadPoolExecutor(1)  # one after another, so that rewards are asked for in order
        self.is_open = True
        self.published: tuple[int, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        for worker in self.workers:
            self.ray.kill(worker)
        self.batches.shutdown(cancel_futures=True)
        self.hands.shutdown(cancel_futures=True)
        if self.has_started_ray:
            self.ray.shutdown()

    def begin(self, work: Callable[[Sampler], Result], *, version: int) -> Future[Result]:
        """`work(sampler)` in a thread, whose weights are those of now, called `version`."""
        if self.published is None or self.published[0] != version:
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.model.network.state_dict().items()}
            self.published = version, self.ray.put(np.frombuffer(save(weights), np.uint8))
        return self.batches.submit(work, FleetSampler(self, *self.published))

    def work(self, *piece: Any) -> Sampled:
        """Have an idle worker do a piece of work, and its successor where it dies."""
        deadly = (self.ray.exceptions.RayActorError, self.ray.exceptions.OutOfMemoryError)
        number, num_deaths = self.idle.get(), 0
        try:
            while True:
                try:
                    return self.ray.get(self.workers[number].sample.remote(*piece))
                except deadly as error:
                    num_deaths += 1
                    if not self.is_open or num_deaths == MOST_DEATHS:
                        raise
                    log(f"worker {number} died, another takes its place and its work: {error}")
                    self.workers[number] = self.hire()
        finally:
            self.idle.put(number)


class FleetSampler:
    """Continues prompts by all workers of a fleet, with weights that it has published."""

    def __init__(self, fleet: Fleet, version: int, weights: Any) -> None:
        self.fleet, self.version, self.weights = fleet, version, weights
        self.tokenizer: Tokenizer | None = fleet.model.tokenizer
        self.max_positions = fleet.model.config.max_positions

    def generate(self, prompts: Sequence[list[int]], params: Sequence[SamplingParams], /) -> list[Output]:
        """As an engine does. Equal prompts that follow each other stay together, since an engine reads them once."""
        ends = [0, *accumulate(len(list(equal)) for _, equal in groupby(prompts))]
        chosen = accumulate(shares(len(ends) - 1, self.fleet.num_workers), initial=0)
        pieces = [
            self.fleet.hands.submit(
                self.fleet.work, self.version, self.weights, prompts[start:end], list(params[start:end])
            )
            for start, end in pairwise(ends[place] for place in chosen)
        ]
        outputs: list[Output] = []
        for piece in pieces:
            sampled = piece.result()
            self.fleet.tally.add(flops=sampled.flops, tokens=sampled.tokens)
            self.fleet.meter.add(core_seconds=sampled.core_seconds)
            outputs += sampled.outputs
        return outputs


def shares(num_groups: int, num_workers: int) -> Iterator[int]:
    """In what pieces to hand out groups: half of what is left, by the number of workers, so that the last are small."""
    while num_groups:
        yield (share := math.ceil(num_groups / (2 * num_workers)))
        num_groups -= share


def start_ray(**local: Any) -> tuple[Any, bool]:
    """Ray, and whether it was started here: as this process has it, as RAY_ADDRESS says, or on this machine alone."""
    if find_spec("ray") is None:
        raise ValueError(
            "rl.workers need Ray, which is not installed: pip install 'gorae[ray]', or set rl.workers to 0"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    ray: Any = import_module("ray")
    if ray.is_initialized():
        return ray, False
    gc.collect()  # a process that still holds the caches of engines it is done with may be too large to be forked
    address = os.environ.get("RAY_ADDRESS", "local")
    options = {"include_dashboard": False, **local} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, logging_level=WARNING, **options)
    return ray, True
