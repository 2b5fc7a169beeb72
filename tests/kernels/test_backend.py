import subprocess
import sys

import pytest
import torch

from gorae.kernels import backend


@pytest.fixture
def with_two_sets(monkeypatch):
    monkeypatch.setattr(backend, "COMPILED", {"fast": object(), "slow": object()})


@pytest.mark.parametrize(
    ("wanted", "chosen"), [("", "fast"), ("cpu", "fast"), ("slow", "slow"), ("reference", "reference")]
)
def test_the_best_compiled_kernels_are_used_unless_others_are_named(with_two_sets, wanted, chosen):
    assert backend.choose(wanted) == chosen


def test_without_the_extension_the_reference_is_used(monkeypatch):
    monkeypatch.setattr(backend, "COMPILED", {})
    assert backend.choose("") == "reference"
    with pytest.raises(ValueError, match="GORAE_KERNELS=cpu is not here; choose one of reference,"):
        backend.choose("cpu")


def test_the_environment_names_the_kernels_of_a_new_process(monkeypatch):
    monkeypatch.setenv("GORAE_KERNELS", "reference")
    program = "from gorae.kernels import kernels_in_use; print(kernels_in_use())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "reference\n"


@pytest.mark.skipif(not backend.COMPILED, reason="the extension is not built")
def test_only_float32_in_memory_goes_to_the_compiled_kernels(monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", next(iter(backend.COMPILED)))
    assert backend.native_for(torch.zeros(2)) is not None
    assert backend.native_for(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) is None
    assert backend.native_for(torch.zeros(2, device="meta")) is None
