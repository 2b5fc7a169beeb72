import pytest

from gorae.kernels import backend, multiply_add, peak


@pytest.mark.parametrize("kernels", [backend.REFERENCE, *backend.COMPILED])
def test_the_multiply_adds_are_done_and_counted(kernels, monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", kernels)
    monkeypatch.setattr(peak.cpu, "ROUNDS", 100)
    before = multiply_add()
    monkeypatch.setattr(peak.cpu, "ROUNDS", 300)
    assert multiply_add() == (before if kernels == backend.REFERENCE else 3 * before) > 0
