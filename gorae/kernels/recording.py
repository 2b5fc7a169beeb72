"""A computation that comes again with other numbers in the same memory: noted once, then repeated call by call.

What CUDA graphs are to a GPU. For one token of a small model the interpreter takes longer than the kernels; repeated,
none of the model's Python runs. Nouns: a call is a compiled kernel's or PyTorch's, with all its arguments; an arena is
the memory for what is computed, which recordings share, as one repeats at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gorae.kernels.backend import COMPILED, LISTENING, REFERENCE, kernels_in_use

Call = Callable[[], Any]

moves: Any = next(iter(COMPILED.values()), None)  # moves.h, the same for all instruction sets
aten = torch.ops.aten
LINE = 64  # bytes of a cache line


class Arena:
    """Up to `most_bytes`, touched as they are used: taken piece by piece, and all given back at once."""

    def __init__(self, most_bytes: int) -> None:
        self.memory = torch.empty(most_bytes, dtype=torch.uint8)
        self.num_taken = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """A contiguous tensor; None where too little memory is left."""
        begin = -(-self.num_taken // LINE) * LINE
        end = begin + torch.Size(shape).numel() * dtype.itemsize
        if end > len(self.memory):
            return None
        self.num_taken = end
        return self.memory[begin:end].view(dtype).view(torch.Size(shape))


class Recording(TorchDispatchMode):
    """A context around what is to be noted; `is_whole` tells whether it can be repeated. Either way it was computed.

    Who repeats it sees to it that all memory is still there that was read and not made in between, and that PyTorch
    works with as many threads as before. Only what the compiled kernels do can be repeated.
    """

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self.arena, self.is_whole = arena, kernels_in_use() != REFERENCE
        self.calls: list[Call] = []
        self.constants: dict[int, Tensor] = {}  # made of no tensor, or of such alone; by the place of their memory

    def __enter__(self):
        self.arena.num_taken = 0
        LISTENING.hear = self.hear
        return super().__enter__()

    def __exit__(self, *exception):
        LISTENING.hear = None
        return super().__exit__(*exception)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's question, whose answer yes imports a compiler for two seconds."""
        return False

    def repeat(self) -> None:
        """Do it again, with what is now in the memory that it reads."""
        for call in self.calls:
            call()

    def hear(self, kernel: Callable[..., None], *args: Any) -> None:
        self.calls.append(partial(kernel, *args))
        kernel(*args)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None) -> Any:
        result = op(*args, **(kwargs or {}))
        if not self.is_whole:
            return result
        given, made = list(tensors_of(args)), list(tensors_of((result,)))
        if op is aten.empty.memory_format:
            return self.held(result)
        if op is aten.index_put_.default:
            self.calls += put(*args)
        elif op._schema.is_mutable or not made:
            self.is_whole = False
        elif all(place_of(one) in self.constants for one in given):
            self.constants |= {place_of(one): one for one in made}
        elif any(place_of(one) != place_of(given[0]) for one in made):
            self.is_whole = op in COPYING or (op in FILLING and not kwargs)
            if self.is_whole:
                held = self.held(result).copy_(result)
                self.calls += (
                    moved(args[0], held.view(args[0].shape)) if op in COPYING else FILLING[op](*args, held=held)
                )
                return held
        return result

    def held(self, like: Tensor) -> Tensor:
        """Memory for a result, in the arena if there is any left."""
        held = self.arena.take(like.shape, like.dtype)
        self.is_whole &= held is not None
        return like if held is None else held


def moved(source: Tensor, target: Tensor) -> list[Call]:
    types = source.dtype, target.dtype
    if source.ndim > 4 or types not in MOVED_TYPES:
        return [partial(target.copy_, source)]
    missing = 4 - source.ndim
    steps, target_steps = ((0,) * missing + one.stride() for one in (source, target))
    narrow, to_narrow = (one == torch.bfloat16 for one in types)
    sizes = (1,) * missing + tuple(source.shape)
    return [partial(moves.move, source.data_ptr(), steps, narrow, target.data_ptr(), target_steps, to_narrow, sizes)]


def added(left: Tensor, right: Any, *, held: Tensor) -> list[Call]:
    """Two that are alike, or rows and one that is added to each."""
    is_alike = isinstance(right, Tensor) and right.shape == held.shape
    is_row = isinstance(right, Tensor) and right.shape == held.shape[-1:]
    is_plain = left.shape == held.shape and all(map(is_plain_rows, tensors_of((left, right))))
    if not is_plain or not (is_alike or is_row):
        return [partial(torch.add, left, right, out=held)]
    width = held.shape[-1]
    places = left.data_ptr(), right.data_ptr(), held.data_ptr()
    return [partial(moves.add, *places, held.numel() // max(1, width), width, width if is_alike else 0)]


def is_plain_rows(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.dtype == torch.float32


def joined(parts: Sequence[Tensor], dim: int = 0, *, held: Tensor) -> list[Call]:
    places = held.split([part.shape[dim] for part in parts], dim)
    return [call for part, place in zip(parts, places, strict=True) for call in moved(part, place)]


def put(held: Tensor, indices: Sequence[Tensor | None], values: Tensor) -> list[Call]:
    """held[indices] = values; pages [N, J, P, K] at pages and places [B, T] are written without PyTorch."""
    match indices:
        case [Tensor() as pages, None, Tensor() as places] if held.ndim == 4:
            values = values.expand(*pages.shape, *held.shape[1::2])
            is_plain = held.dtype in (torch.float32, torch.bfloat16) and held.stride(-1) == values.stride(-1) == 1
            if is_plain and pages.is_contiguous() and places.is_contiguous():
                source = values.data_ptr(), held.dtype == torch.bfloat16, tuple(values.shape), values.stride()[:3]
                steps = held.stride(0), held.stride(2), held.stride(1)
                target = pages.data_ptr(), places.data_ptr(), held.data_ptr(), steps
                return [partial(moves.write_pages, *source, *target)]
    return [partial(held.__setitem__, tuple(slice(None) if one is None else one for one in indices), values)]


def looked_up(table: Tensor, indices: Tensor, *_: Any, held: Tensor) -> list[Call]:
    return [partial(torch.index_select, table, 0, indices.flatten(), out=held.flatten(0, -2))]


def by_torch(function: Callable[..., Tensor]) -> Callable[..., list[Call]]:
    return lambda *args, held: [partial(function, *args, out=held)]


MOVED_TYPES = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)}

# What PyTorch is asked for between kernels: what copies, and the calls that give the result of others once more.
COPYING = {aten.clone.default, aten.contiguous.default, aten.flatten.using_ints, aten.reshape.default, aten.to.dtype}
FILLING: dict[Any, Callable[..., list[Call]]] = {
    aten.add.Tensor: added,
    aten.cat.default: joined,
    aten.cos.default: by_torch(torch.cos),
    aten.embedding.default: looked_up,
    aten.mul.Tensor: by_torch(torch.mul),
    aten.sin.default: by_torch(torch.sin),
    aten.stack.default: by_torch(torch.stack),
}


def tensors_of(held: Sequence[Any]) -> Iterator[Tensor]:
    for one in held:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from tensors_of(one)


def place_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
