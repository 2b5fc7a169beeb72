"""Where two networks part: each part of one is given what the other's was given, and what they make of it is compared.

A mistake in one part changes all that follow; so here nothing follows from it. Nouns: a Body, a network as a row of
parts, whoever wrote it; a Reading, what the parts were given and made; a Difference, of one part.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean, median_low
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gorae.model import MixtureOfExperts, Network, Replay

OUTSTANDING = 10  # times the difference of the part in the middle
ROUNDING = 1e-5  # a relative difference that other orders of summation explain
FEW = 0.02  # of the tokens: rounding tips the choice of so many experts


class Body(Protocol):
    """Layers of an attention and a feed-forward, modules that take and give features first."""

    first: nn.Module  # layer, which is given the embedding
    layers: Sequence[tuple[nn.Module, nn.Module]]

    def features(self, token_ids_BT: Tensor) -> Tensor: ...

    def logits(self, hidden_BTD: Tensor) -> Tensor: ...

    def route(self, feed_forward: nn.Module, x_ND: Tensor) -> Replay | None:
        """The ways of tokens; None in a layer without experts."""
        ...

    def mix(self, feed_forward: nn.Module, x_BTD: Tensor, ways: Replay) -> Tensor:
        """What the layer's experts make of tokens on given ways."""
        ...


class GoraeBody(Body):
    def __init__(self, network: Network) -> None:
        self.network = network
        self.first = network.blocks[0]
        self.layers = [
            (block.get_submodule("attention"), block.get_submodule("feed_forward")) for block in network.blocks
        ]

    def features(self, token_ids_BT: Tensor) -> Tensor:
        return self.network(token_ids_BT).hidden_BTD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.network.logits(hidden_BTD)

    def route(self, feed_forward: nn.Module, x_ND: Tensor) -> Replay | None:
        if not isinstance(feed_forward, MixtureOfExperts):
            return None
        routing = feed_forward.route(x_ND)
        return Replay(routing.experts_NA, routing.weights_NA)

    def mix(self, feed_forward: nn.Module, x_BTD: Tensor, ways: Replay) -> Tensor:
        return feed_forward.forward(x_BTD, Replay(ways.experts_NA, ways.weights_NA.float()))[0]


@dataclass
class Reading:
    """What parts made of the tokens, by name in the order of computation, and the ways by the name of the router."""

    made: dict[str, Tensor] = field(default_factory=dict)
    ways: dict[str, Replay] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """size: of what a part makes of the same input, relative to what it makes; a router's, where both agree on experts.

    flipped: of a router, the share of tokens that it sends to other experts.
    """

    part: str
    size: float
    flipped: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """All parts in the order of computation; of all routers' decisions those that differ where each reads by itself."""

    parts: list[Difference]
    flipped: int
    decided: int

    @property
    def outstanding(self) -> list[Difference]:
        """Parts far beyond the others; where most are equal to the bit, all others."""
        usual = median_low([one.size for one in self.parts])
        most, few = (max(ROUNDING, OUTSTANDING * usual), FEW) if usual else (0.0, 0.0)
        return [one for one in self.parts if one.size > most or one.flipped > few]


@torch.no_grad()
def compare_layers(a: Body, b: Body, rows: Sequence[list[int]]) -> Comparison:
    """Every part of `b` beside that of `a`, over these tokens. Raises ValueError for bodies of other shapes."""
    squares: dict[str, list[float]] = {}
    flips: dict[str, list[bool]] = {}
    flipped = decided = 0
    for row in rows:
        ids = torch.tensor([row])
        wanted, own = read(a, ids), read(b, ids)
        require_alike(wanted, own)
        found = read(b, ids, follow=wanted)
        for part, made in wanted.made.items():
            other = found.made[part]
            if part in wanted.ways:
                is_same_N, made, other = same_ways(wanted.ways[part], found.ways[part])
                flips.setdefault(part, []).extend((~is_same_N).tolist())
                is_same_N, _, _ = same_ways(wanted.ways[part], own.ways[part])
                flipped, decided = flipped + int((~is_same_N).sum()), decided + len(is_same_N)
            off, size = (x.square().sum().item() for x in (other.double() - made.double(), made.double()))
            sums = squares.setdefault(part, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + off, sums[1] + size
    parts = [
        Difference(part, (off / (size or 1.0)) ** 0.5, mean([float(one) for one in flips.get(part, [False])]))
        for part, (off, size) in squares.items()
    ]
    return Comparison(parts, flipped, decided)


def require_alike(a: Reading, b: Reading) -> None:
    """Raise ValueError unless both have the same parts, of the same widths."""
    shapes = [{part: list(made.shape) for part, made in one.made.items()} for one in (a, b)]
    if shapes[0] != shapes[1]:
        part = next(one for one in [*shapes[0], *shapes[1]] if shapes[0].get(one) != shapes[1].get(one))
        has = ["nothing" if one.get(part) is None else f"{one[part]} numbers" for one in shapes]
        raise ValueError(f"{part} makes {has[0]} in one and {has[1]} in the other, so they are two models")


def read(body: Body, token_ids_BT: Tensor, *, follow: Reading | None = None) -> Reading:
    """Read tokens; every part is given what the one in `follow` was, whatever the parts before have made of it."""
    found = Reading()
    with ExitStack() as hooks:
        hooks.enter_context(noting_input(body.first, "embedding", found, follow))
        for layer, (attention, feed_forward) in enumerate(body.layers):
            name = f"layer {layer} "
            hooks.enter_context(noting_input(attention, name + "attention norm", found, follow))
            hooks.enter_context(noting_output(body, attention, name + "attention", found, follow))
            hooks.enter_context(noting_input(feed_forward, name + "feed-forward norm", found, follow))
            hooks.enter_context(noting_output(body, feed_forward, name + "feed-forward", found, follow))
        hidden_BTD = found.made["final norm"] = body.features(token_ids_BT)
    found.made["head"] = body.logits(follow.made["final norm"].to(hidden_BTD.dtype) if follow else hidden_BTD)
    return found


@contextmanager
def noting_input(module: nn.Module, part: str, found: Reading, follow: Reading | None) -> Iterator[None]:
    """Note what a module is given while the block runs, and give it what is in `follow` instead."""

    def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = None if args else next(iter(named))
        given = found.made[part] = args[0] if name is None else named[name]
        given = follow.made[part].to(given.dtype) if follow else given
        return ((given, *args[1:]), named) if name is None else (args, named | {name: given})

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def noting_output(body: Body, module: nn.Module, part: str, found: Reading, follow: Reading | None) -> Iterator[None]:
    """Note what a module makes while the block runs, and pass on what is in `follow`; of experts the ways first."""

    def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        made = output[0] if isinstance(output, tuple) else output
        name = part
        if part.endswith("feed-forward") and (ways := body.route(module, args[0].flatten(0, 1))) is not None:
            router, name = (part.replace("feed-forward", kind) for kind in ("router", "experts"))
            found.ways[router] = ways
            found.made[router] = ways.weights_NA
            if follow:
                made = body.mix(module, args[0], follow.ways[router])
        found.made[name] = made
        passed = follow.made[name].to(made.dtype) if follow else made
        return (passed, *output[1:]) if isinstance(output, tuple) else passed

    handle = module.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def same_ways(a: Replay, b: Replay) -> tuple[Tensor, Tensor, Tensor]:
    """At which tokens both take the same experts, in whatever order, and both weights there, by the expert's number."""
    (experts_a, order_a), (experts_b, order_b) = a.experts_NA.sort(-1), b.experts_NA.sort(-1)
    is_same_N = (experts_a == experts_b).all(-1)
    weights_a, weights_b = a.weights_NA.gather(-1, order_a), b.weights_NA.gather(-1, order_b)
    return is_same_N, weights_a[is_same_N], weights_b[is_same_N]
