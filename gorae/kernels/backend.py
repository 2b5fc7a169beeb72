"""Which code runs an operation on the CPU: the kernels compiled for this processor, or the reference.

Nouns: `native` is the compiled module's part for one instruction set. The environment variable GORAE_KERNELS, read once
when this room is entered, forces one: `reference`, `cpu` (compiled, the best there is), or an instruction set's name.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch  # before the compiled module, which shares its OpenMP threads
from torch import Tensor

REFERENCE = "reference"


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


COMPILED = compiled()
CHOSEN = choose(os.environ.get("GORAE_KERNELS", ""))


def kernels_in_use() -> str:
    """`reference`, or the instruction set the compiled kernels use here."""
    return CHOSEN


def native_for(*tensors: Tensor) -> Any | None:
    """The compiled kernels, where they are in use and all tensors are float32 in this machine's memory."""
    native = COMPILED.get(CHOSEN)
    if native is None or not all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in tensors):
        return None
    return native


def in_rows(x: Tensor) -> Tensor:
    """`x` as a matrix [rows, width] whose rows are contiguous, copied only if it must be."""
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd has to know of an operation on `tensors`."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
