import pytest
import torch

from gorae.kernels import choose_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_gpu_is_taken_where_there_is_one_unless_another_device_is_asked_for(two_gpus):
    assert choose_device() == torch.device("cuda", 0)
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="sees 0 GPUs; use cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("wanted", ["gpu", "mps", "cuda:", "cuda:one", "cuda:-1", "cpu:0", ""])
def test_a_device_that_is_not_known_is_told_so(two_gpus, wanted):
    with pytest.raises(ValueError, match="use cpu"):
        choose_device(wanted)


def test_a_gpu_that_is_not_here_is_told_so(two_gpus):
    with pytest.raises(ValueError, match=r"cuda:2 is not here: torch .* sees 2 GPUs"):
        choose_device("cuda:2")
