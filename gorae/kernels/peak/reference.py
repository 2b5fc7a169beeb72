"""Where nothing is compiled, PyTorch's product of square matrices, the fastest multiply-adds it has."""

import torch

_SIZE = 512


def multiply_add_reference() -> float:
    square = torch.ones(_SIZE, _SIZE)
    _ = square @ square
    return 2.0 * _SIZE**3
