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
def test_products_of_bytes_are_counted_where_the_set_has_instructions_for_them(kernels, monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", kernels)
    monkeypatch.setattr(peak.cpu, "ROUNDS", 100)
    assert (multiply_add_bytes() > 0) == (kernels in ("avx2", "avx512"))
