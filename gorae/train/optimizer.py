"""Muon in float32 for the matrices inside the blocks, AdamW for everything else (arXiv 2502.16982).

All state is in plain tensors, listed by parameter name, so that a checkpoint resumes to the same bits.

A parameter in bfloat16 is the rounded half of a float32 number, whose other half is state: an update far smaller than
bfloat16 shows is not lost, with nothing drawn at random. Moments are in float32 whatever a parameter is in.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
UPDATE_RMS = 0.2  # Muon's update is scaled to the size an AdamW update typically has


@dataclass(frozen=True)
class OptimizerSettings:
    """Peak rates and constants; `matrix_lr` None gives the matrices to AdamW too."""

    lr: float = 4e-3
    matrix_lr: float | None = 1e-2
    momentum: float = 0.95
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must be two numbers from 0 to below 1, as in 0.9,0.95")


class HybridOptimizer:
    """Steps every parameter in place by its gradient; `scale` of `step` is the schedule's share of the peak rate."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], settings: OptimizerSettings) -> None:
        self.settings = settings
        self.parameters = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        if not self.parameters:
            raise ValueError(
                "there is no parameter to train: a network whose weights stay as stored does not learn; load it with "
                "weights='float32' or 'bfloat16'"
            )
        self.matrices: dict[torch.Size, list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            if settings.matrix_lr is not None and is_matrix(name, parameter):
                self.matrices[parameter.shape[-2:]].append(name)
        muon_names = {name for names in self.matrices.values() for name in names}
        wide = {name: torch.zeros_like(held, dtype=torch.float32) for name, held in self.parameters.items()}
        self.state = {f"momentum/{name}": wide[name] for name in sorted(muon_names)}
        self.adam_names = [name for name in self.parameters if name not in muon_names]
        for name in self.adam_names:
            self.state[f"first/{name}"] = wide[name]
            self.state[f"second/{name}"] = torch.zeros_like(wide[name])
        for name, held in self.parameters.items():
            if held.dtype == torch.bfloat16:
                self.state[f"remainder/{name}"] = torch.zeros_like(held, dtype=torch.int16)
        self.num_steps = 0

    @torch.no_grad()
    def step(self, scale: float) -> float:
        """Clip, update, clear the gradients; returns the gradients' norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        self.num_steps += 1
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for shape, names in self.matrices.items():
            self.step_muon(shape, {name: gradients[name] for name in names if name in gradients}, scale)
        self.step_adam({name: gradients[name] for name in self.adam_names if name in gradients}, scale)
        for parameter in self.parameters.values():
            parameter.grad = None
        return norm.item()

    def step_muon(self, shape: torch.Size, gradients: dict[str, Tensor], scale: float) -> None:
        """All matrices of one shape, experts included, are orthogonalised together."""
        settings, updates = self.settings, []
        for name, gradient in gradients.items():
            momentum = self.state[f"momentum/{name}"].mul_(settings.momentum).add_(gradient)
            updates.append((gradient + settings.momentum * momentum).reshape(-1, *shape))
        if not updates:
            return
        directions = orthogonalize(torch.cat(updates)).split([update.shape[0] for update in updates])
        lr = (settings.matrix_lr or 0.0) * scale
        for name, direction in zip(gradients, directions, strict=True):
            with self.in_float32(name) as parameter:
                parameter.mul_(1 - lr * settings.weight_decay)
                parameter.add_(direction.view_as(parameter), alpha=-lr * UPDATE_RMS * max(shape) ** 0.5)

    def step_adam(self, gradients: dict[str, Tensor], scale: float) -> None:
        lr = self.settings.lr * scale
        first_beta, second_beta = self.settings.betas
        first_bias, second_bias = 1 - first_beta**self.num_steps, 1 - second_beta**self.num_steps
        for name, gradient in gradients.items():
            gradient = gradient.float()
            first = self.state[f"first/{name}"].lerp_(gradient, 1 - first_beta)
            second = self.state[f"second/{name}"].mul_(second_beta)
            second.addcmul_(gradient, gradient, value=1 - second_beta)
            denominator = (second / second_bias).sqrt_().add_(1e-8)
            with self.in_float32(name) as parameter:
                parameter.mul_(1 - lr * self.settings.weight_decay)
                parameter.addcdiv_(first, denominator, value=-lr / first_bias)

    @contextmanager
    def in_float32(self, name: str) -> Iterator[Tensor]:
        """A parameter to be changed in place, with the half of it that bfloat16 leaves out."""
        parameter, remainder = self.parameters[name], self.state.get(f"remainder/{name}")
        if remainder is None:
            yield parameter
            return
        wide = joined(parameter, remainder)
        yield wide
        for held, half in zip((parameter, remainder), halves(wide), strict=True):
            held.copy_(half)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.state, "num_steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if set(state) != {*self.state, "num_steps"}:
            odd = sorted(set(state) ^ {*self.state, "num_steps"})[0]
            raise ValueError(f"the saved optimizer state does not fit this network: {odd} is on one side only")
        self.num_steps = int(state["num_steps"])
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


def joined(upper: Tensor, lower: Tensor) -> Tensor:
    """The float32 numbers of which `upper` is the rounding to bfloat16, and `lower` what that left out, int16."""
    return (upper.view(torch.int16).int() << 16).add_(lower).view(torch.float32)


def halves(wide: Tensor) -> tuple[Tensor, Tensor]:
    """What `joined` joins; rounded to the nearest, of two as near to the larger, so that 16 bits hold the rest."""
    bits = wide.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a matrix, or a stack of experts' matrices, that is neither embedding, head nor router."""
    return parameter.ndim > 1 and not name.endswith(("embedding_WD", "head_WD", "router_ED"))


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearly orthogonal matrices [M, I, O] in the direction of the given ones, by Newton-Schulz in float32."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
