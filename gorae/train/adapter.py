"""Learning by fewer numbers than a network has: additions of low rank to its matrices (LoRA), or some experts (ESFT).

The network always holds the very weights it computes with; an addition is put into them after every step. So the engine
samples with what the trainer differentiates, as ever, and whoever saves the network saves an ordinary model. Only
gradients, optimizer and saved state are of the fewer numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gorae.model import MixtureOfExperts, Network
from gorae.train.optimizer import is_matrix

SCORES = ("gate", "token")
STACKS = ("gate_EFD", "up_EFD", "down_EDF")


@dataclass(frozen=True)
class AdapterSettings:
    """What learns in place of the weights: by default they do themselves.

    rank: of an addition to every matrix of the blocks but the routers' (LoRA, arXiv 2106.09685); 0 for none.
    alpha: an addition is multiplied by alpha / rank.
    experts: share of a task that the experts to train have together, in every layer (ESFT, arXiv 2407.01906); nothing
    else learns. 0 for none; the paper took 0.1 to 0.2.
    score: an expert's share is that of the routers' weights ("gate") or that of their choices ("token").
    """

    rank: int = 0
    alpha: float = 32.0
    experts: float = 0.0
    score: str = "gate"

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(f"rank={self.rank} must not be negative, and alpha={self.alpha} must be positive")
        if not 0 <= self.experts <= 1:
            raise ValueError(f"experts={self.experts} is a share and must lie between 0 and 1")
        if self.rank and self.experts:
            raise ValueError(
                f"rank={self.rank} learns additions, experts={self.experts} experts themselves; set one of them to 0"
            )
        if self.score not in SCORES:
            raise ValueError(f"score={self.score!r} must be one of {', '.join(SCORES)}")


class Adapter:
    """Numbers that learn in place of a network's weights, by name; its other weights stay as they are."""

    def __init__(self, network: Network) -> None:
        self.network = network.requires_grad_(False)
        self.parameters: dict[str, Tensor] = {}

    def write(self) -> None:
        """Make the network's weights what the parameters say, which an optimizer has changed."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """What a run has to keep beside the weights it began with; routers' biases may have been moved by rule."""
        learnt = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return learnt | dict(self.network.named_buffers())

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        held = self.state_dict()
        if odd := sorted(set(state) ^ set(held)):
            raise ValueError(f"the saved state does not fit what is to learn here: {odd[0]} is on one side only")
        for name, tensor in held.items():
            tensor.copy_(state[name])
        self.write()


class LowRankAdapter(Adapter):
    """Every matrix of the blocks is W + alpha / rank · B A, rounded to its type (arXiv 2106.09685, section 4.1).

    B [O, rank] begins at zero and A [rank, I] at random, both float32; each expert of a stack has its own. W is kept
    as it was, so that rounding does not add up: in bfloat16 where that holds it exactly.
    """

    def __init__(self, network: Network, *, rank: int, alpha: float = 32.0, seed: int = 0) -> None:
        super().__init__(network)
        self.scale = alpha / rank
        self.bases: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in matrices_of_blocks(network):
            *stack, num_outputs, num_inputs = weight.shape
            bound = num_inputs**-0.5
            a = torch.empty(*stack, rank, num_inputs).uniform_(-bound, bound, generator=generator)
            b = torch.zeros(*stack, num_outputs, rank)
            self.parameters |= {
                f"{name}.{letter}": matrix.to(weight.device).requires_grad_() for letter, matrix in (("A", a), ("B", b))
            }
            self.bases[name] = kept(weight)
            weight.requires_grad_(True).register_post_accumulate_grad_hook(partial(self.take_gradient, name))

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.parameters[f"{name}.A"], self.parameters[f"{name}.B"]

    @torch.no_grad()
    def take_gradient(self, name: str, weight: Tensor) -> None:
        """Turn the gradient of a whole weight into those of its two factors, and let go of it."""
        assert weight.grad is not None, "this is called when there is one"
        (a, b), whole = self.pair(name), weight.grad.float()
        add_gradient(a, self.scale * (b.mT @ whole))
        add_gradient(b, self.scale * (whole @ a.mT))
        weight.grad = None

    @torch.no_grad()
    def write(self) -> None:
        for name, base in self.bases.items():
            stacks = self.network.get_parameter(name), base, *self.pair(name)
            for weight_OI, base_OI, a, b in zip(*map(one_by_one, stacks), strict=True):
                weight_OI.copy_(torch.addmm(base_OI.float(), b, a, alpha=self.scale))


class ExpertAdapter(Adapter):
    """Of each layer with experts those of its list learn, and nothing else does (arXiv 2407.01906, section 3.2).

    The parameters are the experts' own matrices, in the network's memory.
    """

    def __init__(self, network: Network, chosen: Sequence[Sequence[int]]) -> None:
        super().__init__(network)
        for (place, layer), experts in zip(layers_with_experts(network), chosen, strict=True):
            for stack in STACKS if experts else ():
                weight = layer.get_parameter(stack)
                own = {expert: weight.detach()[expert].requires_grad_() for expert in experts}
                self.parameters |= {f"{place}.{stack}.{expert}": matrix for expert, matrix in own.items()}
                weight.requires_grad_(True).register_post_accumulate_grad_hook(partial(take_experts, own))

    def write(self) -> None:
        """Nothing to do: what the optimizer changes is the network's own."""


@torch.no_grad()
def take_experts(own: Mapping[int, Tensor], weight: Tensor) -> None:
    """Keep of a stack's gradient what is of these experts."""
    assert weight.grad is not None, "this is called when there is one"
    for expert, matrix in own.items():
        add_gradient(matrix, weight.grad[expert].clone())
    weight.grad = None


def matrices_of_blocks(network: Network) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every matrix, or stack of experts' matrices, that is neither embedding, head, router nor of an MTP module."""
    for name, parameter in network.named_parameters():
        if not name.startswith("mtp.") and is_matrix(name, parameter):
            yield name, parameter


def layers_with_experts(network: Network) -> Iterator[tuple[str, MixtureOfExperts]]:
    """Those of the blocks, the first one first, with their names; MTP modules have more."""
    for name, module in network.blocks.named_modules(prefix="blocks"):
        if isinstance(module, MixtureOfExperts):
            yield name, module


def kept(weight: Tensor) -> Tensor:
    """A copy, in bfloat16 where no bit is lost by that, as with most published weights."""
    narrow = weight.detach().to(torch.bfloat16, copy=True)
    return narrow if torch.equal(narrow.to(weight.dtype), weight) else weight.detach().clone()


def one_by_one(stack: Tensor) -> Tensor:
    """A matrix, or each of a stack: a product of all at once would take their memory again."""
    return stack.view(-1, *stack.shape[-2:])


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
