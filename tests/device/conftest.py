"""A second device for a machine without one: tensors that say they lie elsewhere, and can only be used together.

A tensor `Elsewhere` has its numbers on the CPU, so what is computed with it can be looked at, and says that its device
is "meta", for which PyTorch needs no driver. It has no address, so no compiled kernel can take it. An operation of
tensors from here and there is an error, as it is on a GPU, or stricter: only a copy may take both.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gorae.recipes import reinforce, task

HERE, THERE = torch.device("cpu"), torch.device("meta")


class Elsewhere(torch.Tensor):
    @staticmethod
    def __new__(cls, numbers: torch.Tensor):
        places = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, **places, dtype=numbers.dtype, device=THERE)

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None) -> Any:
        return dispatched(op, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's question, whose answer yes imports a compiler for two seconds."""
        return False

    def __torch_dispatch__(self, op, types, args=(), kwargs=None) -> Any:
        return dispatched(op, args, kwargs or {})


def dispatched(op, args, kwargs) -> Any:
    given = list(leaves((args, *kwargs.values())))
    asked = [one for one in given if isinstance(one, torch.device)]
    tensors = [one for one in given if isinstance(one, torch.Tensor)]
    are_there = [isinstance(one, Elsewhere) for one in tensors]
    if any(are_there) and not all(are_there) and op is not torch.ops.aten.copy_.default:
        odd = [list(one.shape) for one in tensors if not isinstance(one, Elsewhere) and one.ndim]
        assert not odd, f"{op} is given tensors from elsewhere and such of shape {odd[0]} from here"
    with torch.inference_mode(False), torch.no_grad():  # a tensor of inference can not be wrapped
        result = op(*numbers_of(args), **{name: numbers_of(one) for name, one in kwargs.items()})
        if op is torch.ops.aten._local_scalar_dense.default or result is None:
            return result
        if op._schema.is_mutable:
            return kwargs.get("out", args[0])
        return wrapped(result) if (asked[0] == THERE if asked else any(are_there)) else result


def leaves(held: Any) -> Iterator[Any]:
    for one in held:
        if isinstance(one, list | tuple):
            yield from leaves(one)
        else:
            yield one


def numbers_of(one: Any) -> Any:
    if isinstance(one, list | tuple):
        return type(one)(map(numbers_of, one))
    if isinstance(one, torch.device):
        return HERE
    return one.numbers if isinstance(one, Elsewhere) else one


def wrapped(result: Any) -> Any:
    if isinstance(result, list | tuple):
        return type(result)(map(wrapped, result))
    return Elsewhere(result) if isinstance(result, torch.Tensor) else result


@pytest.fixture
def elsewhere(monkeypatch) -> Iterator[torch.device]:
    """The other device, which a run takes as its GPU."""
    for module in (reinforce, task):
        monkeypatch.setattr(module, "choose_device", lambda wanted: THERE)
    made = torch.tensor  # which fills a tensor before anyone hears of it

    def made_there(numbers: Any, *, device: torch.device = HERE, **options: Any) -> torch.Tensor:
        return made(numbers, **options).to(device)

    monkeypatch.setattr(torch, "tensor", made_there)
    with Dispatch():
        yield THERE
