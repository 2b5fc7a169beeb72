"""The device a run computes on: the one that is asked for, else the GPU where PyTorch sees one, else the CPU.

The compiled kernels work in the CPU's memory alone; elsewhere the reference runs, in plain torch.
"""

import re

import torch


def choose_device(wanted: str | None = None) -> torch.device:
    """`wanted` is "cpu", "cuda" or "cuda:1". Raises ValueError for another one, or one that is not here."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise ValueError(f"device={wanted} is not known; use cpu, cuda, or cuda:1 for the second GPU, or leave it out")
    if wanted == "cpu":
        return torch.device("cpu")
    number = int(wanted.partition(":")[2] or 0)
    if number >= count:
        raise ValueError(f"device={wanted} is not here: torch {torch.__version__} sees {count} GPUs; use cpu")
    return torch.device("cuda", number)


def name_of(device: torch.device) -> str:
    """What the device calls itself; nothing for the CPU, whose name is `processor_name`'s."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
