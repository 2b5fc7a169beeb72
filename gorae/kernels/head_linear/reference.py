"""The definition of `head_linear`: a product a head.

It goes through the door of the product, so that it has the bits of the compiled products beside them.
"""

import torch
from torch import Tensor

from gorae.kernels.linear import linear
from gorae.kernels.linear.quantised import rounded
from gorae.kernels.panels import PANEL, Panels
from gorae.kernels.weights import Weight, whole


def head_linear_reference(x: Tensor, weight: Weight) -> Tensor:
    num_heads = x.shape[-2]
    matrices = in_heads(weight, num_heads)
    if isinstance(weight, Panels) and weight.bits < 16 and not isinstance(matrices[0], Panels):
        x = rounded(x.detach())
    return torch.stack([linear(x[..., head, :], matrix) for head, matrix in enumerate(matrices)], dim=-2)


def in_heads(weight: Weight, num_heads: int) -> list[Weight]:
    """A matrix [O, I] a head: a part of the panels where whole panels make one, or else of the rows in a float type."""
    num_rows, num_inputs = weight.shape
    assert num_rows % num_heads == 0, f"{num_rows} rows make no matrix for each of {num_heads} heads"
    width = num_rows // num_heads
    if isinstance(weight, Panels) and width % PANEL == 0:
        shape = torch.Size((width, num_inputs))
        return [Panels(part, weight.bits, shape) for part in weight.packed.split(width // PANEL)]
    rows = weight if isinstance(weight, Tensor) else whole(weight)
    return list(rows.split(width))
