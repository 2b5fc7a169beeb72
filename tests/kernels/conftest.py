from collections.abc import Callable, Iterator
from inspect import isfunction
from types import SimpleNamespace

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor

from gorae import kernels
from gorae.kernels import backend

COMPILED = list(backend.COMPILED)  # empty without the extension


@pytest.fixture(scope="module", params=[backend.REFERENCE, *COMPILED])
def doors(request) -> Iterator[SimpleNamespace]:
    """The doors of `gorae.kernels`, each checking the shapes it promises on every call, with every kernel there is."""
    found = {name: getattr(kernels, name) for name in kernels.__all__}
    checked = jaxtyped(typechecker=beartype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CHOSEN", request.param)
        yield SimpleNamespace(**{name: checked(door) for name, door in found.items() if isfunction(door)})


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Draw unit normals of a shape, the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture
def agree(normal: Callable[..., Tensor]) -> Callable[..., None]:
    """Compare a float32 function and its gradients with a plain one in float64, on the same tensors."""

    def check(door: Callable[..., Tensor], plain: Callable[..., Tensor], *tensors: Tensor) -> None:
        ours = [tensor.detach().requires_grad_() for tensor in tensors]
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
        y, expected = door(*ours), plain(*exact)
        grad = normal(*y.shape)
        y.backward(grad)
        expected.backward(grad.double())
        for mine, right in zip((y, *(x.grad for x in ours)), (expected, *(x.grad for x in exact)), strict=True):
            # float32 sums of some hundred products of unit normals: rounding stays below 1e-5 of the largest
            scale = max(1.0, right.abs().max().item() if right.numel() else 0.0)
            torch.testing.assert_close(mine.double(), right, rtol=0, atol=1e-5 * scale)

    return check


@pytest.fixture
def at_threads() -> Iterator[Callable[[int, Callable[[], Tensor]], Tensor]]:
    """Compute something with a number of threads."""
    before = torch.get_num_threads()

    def run(num_threads: int, compute: Callable[[], Tensor]) -> Tensor:
        torch.set_num_threads(num_threads)
        return compute()

    yield run
    torch.set_num_threads(before)
