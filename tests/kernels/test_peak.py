import pytest

from gorae.kernels import backend, multiply_add, multiply_add_bytes, peak


@pytest.mark.parametrize("kernels", [backend.REFERENCE, *backend.COMPILED])
def test_the_multiply_adds_are_done_and_counted(kernels, monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", kernels)
    monkeypatch.setattr(peak.cpu, "ROUNDS", 100)
    before = multiply_add()
    monkeypatch.setattr(peak.cpu, "ROUNDS", 300)
    assert multiply_add() == (before if kernels == backend.REFERENCE else 3 * before) > 0


@pytest.mark.parametrize("kernels", [backend.REFERENCE, *backend.COMPILED])
def test_the_multiply_adds_of_bytes_are_done_and_counted(kernels, monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", kernels)
    monkeypatch.setattr(peak.cpu, "BYTE_ROUNDS", 100)
    before = multiply_add_bytes()
    monkeypatch.setattr(peak.cpu, "BYTE_ROUNDS", 300)
    assert multiply_add_bytes() == (before if kernels == backend.REFERENCE else 3 * before) > 0
