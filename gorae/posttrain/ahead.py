"""Batches sampled ahead of the one that is learnt from, and kept as bytes, so that a kill takes none of them.

Batch n is sampled by the policy that has learnt from max(0, n - staleness) batches: a fixed lag, so that what is
learnt depends neither on time nor on who samples. Knows no engine: it is handed a function that begins a batch.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import torch
from msgspec import msgpack
from safetensors.torch import load, save
from torch import Tensor

from gorae.posttrain.rollout import Rollout

Value = TypeVar("Value")


class SampledBatch(NamedTuple):
    """The rollouts of a batch, and what sampling them took."""

    rollouts: list[Rollout]
    flops: float
    tokens: int


class BatchesAhead:
    """`begin(n)` begins to sample batch n with the present policy, of the `num_batches` there are."""

    def __init__(self, begin: Callable[[int], Future[SampledBatch]], *, staleness: int, num_batches: int) -> None:
        self.begin, self.staleness, self.num_batches = begin, staleness, num_batches
        self.batches: dict[int, Future[SampledBatch]] = {}

    def take(self, number: int) -> SampledBatch:
        """Batch `number`, to learn from now; before, begin those that are the present policy's to sample.

        Raises ValueError where a run that goes on has not kept the batch.
        """
        newest = number + self.staleness
        for new in range(newest if number else 0, min(newest + 1, self.num_batches)):
            self.batches[new] = self.begin(new)
        if number not in self.batches:
            raise ValueError(
                f"batch {number} was not kept, as the run was begun with less than staleness={self.staleness}; go on "
                "with that, or begin anew"
            )
        return self.batches.pop(number).result()

    def state_dict(self) -> dict[str, Tensor]:
        """All batches ahead as bytes by their number; waits for those that are being sampled."""
        packed = {number: msgpack.encode(batch.result(), enc_hook=bytes_of) for number, batch in self.batches.items()}
        return {str(number): torch.frombuffer(bytearray(one), dtype=torch.uint8) for number, one in packed.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.batches = {
            int(number): finished(msgpack.decode(one.numpy().tobytes(), type=SampledBatch, dec_hook=tensor_of))
            for number, one in state.items()
        }


def finished(value: Value) -> Future[Value]:
    """A future whose value is there."""
    future: Future[Value] = Future()
    future.set_result(value)
    return future


def bytes_of(value: Any) -> bytes:
    """What msgpack has no form for: tensors, those of routings."""
    return save({"": value})


def tensor_of(_: type, value: bytes) -> Tensor:
    return load(value)[""]
