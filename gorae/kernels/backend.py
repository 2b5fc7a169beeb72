"""Which code runs an operation: on the CPU the kernels compiled for this processor, or else the reference.

Nouns: `native` is the compiled module's part for one instruction set. The environment variable GORAE_KERNELS, read once
when this room is entered, forces one: `reference`, `cpu` (compiled, the best there is), or an instruction set's name.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch  # before the compiled module, which shares its OpenMP threads
from torch import Tensor

REFERENCE = "reference"
WEIGHT_TYPES = (torch.float32, torch.bfloat16)


def compiled() -> dict[str, Any]:
    """The compiled kernels by instruction set, best first; none where the extension was not built."""
    if find_spec("gorae.kernels.native") is None:
        return {}
    module = import_module("gorae.kernels.native")
    return {name: getattr(module, name) for name in module.instruction_sets}


def choose(wanted: str) -> str:
    """The instruction set to use, or `reference`; `wanted` is the value of GORAE_KERNELS, or empty."""
    best_first = [*COMPILED, REFERENCE]
    if wanted == "" or (wanted == "cpu" and COMPILED):
        return best_first[0]
    if wanted not in best_first:
        choices = ", ".join(best_first)
        raise ValueError(f"GORAE_KERNELS={wanted} is not here; choose one of {choices}, or unset it")
    return wanted


class Listening(threading.local):
    """Who is to make this thread's calls of compiled kernels: hear(kernel, *its arguments)."""

    hear: Callable[..., None] | None = None


class Heard:
    """The compiled kernels, as they are called through whoever listens."""

    def __init__(self, native: Any, hear: Callable[..., None]) -> None:
        self.native, self.hear = native, hear

    def __getattr__(self, name: str) -> Callable[..., None]:
        return partial(self.hear, getattr(self.native, name))


LISTENING = Listening()
COMPILED = compiled()
CHOSEN = choose(os.environ.get("GORAE_KERNELS", ""))


def kernels_in_use() -> str:
    """`reference`, or the instruction set the compiled kernels use here."""
    return CHOSEN


def native_for(*tensors: Tensor, weights: tuple[Tensor | None, ...] = ()) -> Any | None:
    """The compiled kernels, where they are in use and can take all of these in this machine's memory.

    Tensors must be float32; `weights` must be of one type, float32 or bfloat16. None stands for what is neither.
    """
    native = COMPILED.get(CHOSEN)
    if native is not None:
        for tensor in tensors:
            if tensor.dtype != torch.float32 or not tensor.is_cpu:
                return None
        for weight in weights:
            if weight is None or weight.dtype not in WEIGHT_TYPES or not weight.is_cpu:
                return None
            if weights[0] is None or weight.dtype != weights[0].dtype:
                return None
        if LISTENING.hear is not None:
            return Heard(native, LISTENING.hear)
    return native


def in_rows(x: Tensor) -> Tensor:
    """`x`, or a copy of it, whose rows (dimension -1) are contiguous and evenly spaced: `row_stride` apart."""
    if x.is_contiguous() or (x.stride(-1) == 1 and is_even(x)):
        return x
    return x.contiguous()


def is_even(x: Tensor) -> bool:
    """Whether all rows of a matrix, or of a batch of matrices, are equally far apart."""
    return x.ndim == 2 or (x.ndim == 3 and x.stride(0) == x.stride(1) * x.shape[1])


def row_stride(x: Tensor) -> int:
    """Numbers from one row to the next, of a tensor that `in_rows` gave."""
    return x.shape[-1] if x.is_contiguous() else x.stride(-2)


def as_matrix(x: Tensor) -> Tensor:
    """`x` as [rows, width]."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd has to know of an operation on `tensors`."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return False
