"""Who samples a batch: one engine here and now, or a fleet of them in processes of their own, on Ray.

Nouns: a worker, an engine with its own copy of the model; a version, the weights that work has to be done with. Workers
take work piece by piece as they become free. A group follows from weights, prompt and seed alone: it is the same,
whoever samples it, and again after a worker died of it.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from logging import WARNING
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save

from gorae.engine import Engine, Output, SamplingParams
from gorae.model import Network
from gorae.observe import Meter, log
from gorae.posttrain.ahead import finished
from gorae.posttrain.rollout import sample_groups

MOST_DEATHS = 3  # of workers at one piece of work, before it is held to be the work's fault
LEAST_STORE_BYTES = 128 << 20

Groups = list[list[Output]]
Result = TypeVar("Result")


class SampleGroups(Protocol):
    """`sample_groups`, whose engine and weights have been chosen."""

    def __call__(
        self, prompts: Sequence[list[int]], *, num_samples: int, params: SamplingParams, seed: int, first: int = 0
    ) -> Groups: ...


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

    def begin(self, work: Callable[[SampleGroups], Result], *, version: int) -> Future[Result]:  # noqa: ARG002
        """`work(sample)`, where `sample` is `sample_groups` with the weights of now."""
        return finished(work(partial(sample_groups, self.engine)))


class Sampled(NamedTuple):
    """What a worker gives back, and what it took since it gave back the last; its beginning counts too."""

    groups: Groups
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

    def sample(self, version: int, weights: np.ndarray, prompts: Sequence[list[int]], **named: Any) -> Sampled:
        """`sample_groups` with `version`, whose weights are these bytes; a worker that has it does not read them."""
        if version != self.version:
            self.engine.update_weights(load(weights.tobytes()))
            self.engine.weights_version = self.version = version
        groups = sample_groups(self.engine, prompts, **named)
        before, self.core_seconds = self.core_seconds, time.process_time()
        return Sampled(groups, *self.tally.take(), self.core_seconds - before)


class Fleet:
    """Workers that sample with the weights `network` had when a batch was begun; a context.

    make_engine: makes a worker's engine, which counts with `count`.
    num_versions: so many versions of the weights may be in use at once.
    tally, meter: are told what workers computed, and the seconds that took them.

    They run on this machine, or on the cluster that RAY_ADDRESS names. Raises ValueError where Ray is not installed.
    """

    def __init__(
        self,
        make_engine: Callable[..., Engine],
        network: Network,
        *,
        num_workers: int,
        num_versions: int,
        tally: Tally,
        meter: Meter,
    ) -> None:
        self.network, self.num_workers, self.tally, self.meter = network, num_workers, tally, meter
        num_threads = max(1, torch.get_num_threads() // num_workers)
        weight_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
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

    def begin(self, work: Callable[[SampleGroups], Result], *, version: int) -> Future[Result]:
        """`work(sample)` in a thread, where `sample` is `sample_groups` with the weights of now, called `version`."""
        if self.published is None or self.published[0] != version:
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
            self.published = version, self.ray.put(np.frombuffer(save(weights), np.uint8))
        return self.batches.submit(work, partial(self.sample_groups, *self.published))

    def sample_groups(
        self, version: int, weights: Any, prompts: Sequence[list[int]], *, first: int = 0, **named: Any
    ) -> Groups:
        """As the function of that name, by all workers, with weights that were published."""
        ends = accumulate(shares(len(prompts), self.num_workers), initial=0)
        pieces = [
            self.hands.submit(self.work, version, weights, prompts[start:end], first=first + start, **named)
            for start, end in pairwise(ends)
        ]
        groups: Groups = []
        for piece in pieces:
            sampled = piece.result()
            self.tally.add(flops=sampled.flops, tokens=sampled.tokens)
            self.meter.add(core_seconds=sampled.core_seconds)
            groups += sampled.groups
        return groups

    def work(self, *piece: Any, **named: Any) -> Sampled:
        """Have an idle worker do a piece of work, and its successor where it dies."""
        deadly = (self.ray.exceptions.RayActorError, self.ray.exceptions.OutOfMemoryError)
        number, num_deaths = self.idle.get(), 0
        try:
            while True:
                try:
                    return self.ray.get(self.workers[number].sample.remote(*piece, **named))
                except deadly as error:
                    num_deaths += 1
                    if not self.is_open or num_deaths == MOST_DEATHS:
                        raise
                    log(f"worker {number} died, another takes its place and its work: {error}")
                    self.workers[number] = self.hire()
        finally:
            self.idle.put(number)


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
    address = os.environ.get("RAY_ADDRESS", "local")
    options = {"include_dashboard": False, **local} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, logging_level=WARNING, **options)
    return ray, True
