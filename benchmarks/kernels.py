"""Time the compiled kernels beside PyTorch's own, operation by operation, in one run.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py --only linear

Ours and theirs take turns, at least seven times; a ratio above 1 means ours is faster. Printed are the median ratio and
its range, and what ours reaches in GFLOP/s and in GB/s of operands, each read or written once. PyTorch's own forms are
not exact: they are what one would use otherwise.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.kernels import (
    BLOCK,
    BlockScaled,
    attention,
    expert_mlp,
    kernels_in_use,
    linear,
    log_softmax,
    pack,
    rms_norm,
    rotary_angles,
    rotate,
    route,
    swiglu,
)
from gorae.kernels.rotary.reference import rotate_reference
from gorae.kernels.routing.reference import route_reference

LEAST_SECONDS = 0.02  # of one turn
NARROW_BYTES = 330_000_000  # of weights that take turns: more than any cache holds


@dataclass(frozen=True)
class Case:
    """Two functions that compute the same, and what that takes."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    flops: float
    num_bytes: float


@dataclass(frozen=True)
class Result:
    """Ratios are PyTorch's time over ours, of each pair of turns."""

    name: str
    ratio: float
    lowest: float
    highest: float
    gigaflops_per_second: float
    gigabytes_per_second: float


def products() -> Iterator[Case]:
    for inputs, outputs in ((64, 64), (256, 256), (1024, 1024), (2048, 1408), (4096, 4096)):
        weight = torch.randn(outputs, inputs)
        for rows in (1, 4, 8, 64, 512, 4096) if inputs * outputs <= 1 << 20 else (1, 4, 8, 64, 512):
            x = torch.randn(rows, inputs)
            flops, moved = 2.0 * rows * inputs * outputs, 4.0 * rows * (inputs + outputs)
            for held in (weight, weight.bfloat16()):
                name = f"linear {rows} rows {inputs} to {outputs}, {str(held.dtype).removeprefix('torch.')} weight"
                yield Case(
                    name,
                    lambda x=x, held=held: linear(x, held),
                    lambda x=x, weight=weight: F.linear(x, weight),
                    flops,
                    moved + held.numel() * held.element_size(),
                )


def products_with_gradients() -> Iterator[Case]:
    for rows, inputs, outputs in ((256, 256, 256), (2048, 256, 768), (2048, 1024, 1024)):
        x, weight = torch.randn(rows, inputs, requires_grad=True), torch.randn(outputs, inputs, requires_grad=True)
        grad = torch.randn(rows, outputs)

        def both(product: Callable[..., Tensor], x=x, weight=weight, grad=grad) -> tuple[Tensor, ...]:
            return torch.autograd.grad(product(x, weight), (x, weight), grad)

        moved = 4.0 * (3 * rows * (inputs + outputs) + 3 * inputs * outputs)
        name = f"linear and its gradients, {rows} rows {inputs} to {outputs}"
        yield Case(
            name, lambda both=both: both(linear), lambda both=both: both(F.linear), 6.0 * rows * inputs * outputs, moved
        )


def experts() -> Iterator[Case]:
    sizes = ((8, 2, 256, 128, 1), (8, 2, 256, 128, 16), (64, 6, 256, 128, 512), (16, 2, 1024, 512, 8))
    for num_experts, active, width, inner, tokens in (*sizes, (16, 2, 1024, 512, 512)):
        x, weights = torch.randn(tokens, width), torch.rand(tokens, active)
        chosen = torch.rand(tokens, num_experts).argsort(dim=-1)[:, :active]
        held = [torch.randn(num_experts, *shape) / width**0.5 for shape in ((inner, width), (inner, width))]
        held.append(torch.randn(num_experts, width, inner) / inner**0.5)
        num_used = len(chosen.unique())
        yield Case(
            f"experts {tokens} tokens, {active} of {num_experts}, {width} to {inner}",
            lambda x=x, chosen=chosen, weights=weights, held=held: expert_mlp(x, chosen, weights, *held),
            lambda x=x, chosen=chosen, weights=weights, held=held: expert_loop(x, chosen, weights, *held),
            6.0 * tokens * active * width * inner,
            4.0 * (2 * tokens * width + 3 * num_used * width * inner),
        )


def expert_loop(x: Tensor, chosen: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """As one writes it in PyTorch."""
    y = torch.zeros_like(x)
    for expert in range(len(gate)):
        tokens, slots = (chosen == expert).nonzero(as_tuple=True)
        if len(tokens):
            rows = x[tokens]
            hidden = F.silu(rows @ gate[expert].T) * (rows @ up[expert].T)
            y.index_add_(0, tokens, hidden @ down[expert].T * weights[tokens, slots, None])
    return y


def attentions() -> Iterator[Case]:
    heads = 8
    for key, value in ((48, 32), (128, 128), (192, 128)):
        for queries, keys in ((1, 512), (1, 2048), (64, 64), (512, 512), (2048, 2048)):
            query, keys_held = torch.randn(1, heads, queries, key), torch.randn(1, heads, keys, key)
            values = torch.randn(1, heads, keys, value)
            mask = torch.full((1, 1, queries, keys), float("-inf")).triu(keys - queries + 1)
            seen = queries * (2 * keys - queries + 1) / 2
            yield Case(
                f"attention {queries} queries {keys} keys, {key} and {value} wide",
                lambda held=(query, keys_held, values, mask), scale=key**-0.5: attention(*held, scale),
                lambda held=(query, keys_held, values), causal=queries > 1: F.scaled_dot_product_attention(
                    *held, is_causal=causal
                ),
                2.0 * heads * seen * (key + value),
                4.0 * heads * (queries + keys) * (key + value),
            )


def elementwise() -> Iterator[Case]:
    for rows, width in ((1, 1024), (64, 1024), (2048, 1024)):
        x, up, weight = torch.randn(rows, width), torch.randn(rows, width), torch.randn(width)
        yield Case(
            f"rms_norm {rows} rows of {width}",
            lambda x=x, weight=weight: rms_norm(x, weight, 1e-6),
            lambda x=x, weight=weight: F.rms_norm(x, (x.shape[-1],), weight, 1e-6),
            4.0 * x.numel(),
            8.0 * x.numel(),
        )
        yield Case(
            f"swiglu {rows} rows of {width}",
            lambda x=x, up=up: swiglu(x, up),
            lambda x=x, up=up: F.silu(x) * up,
            5.0 * x.numel(),
            12.0 * x.numel(),
        )


def narrow_products() -> Iterator[Case]:
    """Weights of more bytes than caches hold, each in turn; beside PyTorch's product with the same numbers."""
    outputs, inputs = 1408, 2048
    scales = torch.rand(outputs // BLOCK, inputs // BLOCK)
    kinds = {
        "bfloat16 by rows": (2, lambda weight: weight.bfloat16()),
        "bfloat16 in panels": (2, lambda weight: pack(weight, 16)),
        "FP8": (1, lambda weight: BlockScaled(weight.to(torch.float8_e4m3fn), scales)),
    }
    wide = [torch.randn(outputs, inputs).bfloat16().float() for _ in range(NARROW_BYTES // (4 * outputs * inputs) + 1)]
    for name, (bytes_a_number, hold) in kinds.items():
        held = [hold(weight) for weight in wide]
        while len(held) * bytes_a_number * outputs * inputs < NARROW_BYTES:
            held += [hold(wide[len(held) % len(wide)]) for _ in range(8)]
        for rows in (1, 2, 4, 8, 64, 512):
            x, ours, theirs = torch.randn(rows, inputs), cycle(held), cycle(wide)
            yield Case(
                f"{rows} rows {inputs} to {outputs}, {name}, from memory",
                lambda x=x, ours=ours: linear(x, next(ours)),
                lambda x=x, theirs=theirs: F.linear(x, next(theirs)),
                2.0 * rows * inputs * outputs,
                bytes_a_number * inputs * outputs + 4.0 * rows * (inputs + outputs),
            )


def between() -> Iterator[Case]:
    """What stands between the products."""
    for rows in (1, 64, 2048):
        logits = 4 * torch.randn(rows, 1024)
        yield Case(
            f"log_softmax {rows} rows of 1024",
            lambda logits=logits: log_softmax(logits),
            lambda logits=logits: logits.log_softmax(-1),
            25.0 * logits.numel(),
            8.0 * logits.numel(),
        )
    for tokens, heads in ((1, 16), (512, 16)):
        x = torch.randn(1, heads, tokens, 192)[..., 128:]
        angles = rotary_angles(torch.arange(tokens), torch.rand(32))[:, None, None]
        for interleaved in (True, False):
            yield Case(
                f"rotate {tokens} tokens, {heads} heads of 64, {'adjacent pairs' if interleaved else 'halves'}",
                lambda x=x, angles=angles, interleaved=interleaved: rotate(x, angles, interleaved=interleaved),
                lambda x=x, angles=angles, interleaved=interleaved: rotate_reference(x, angles, interleaved),
                3.0 * x.numel(),
                8.0 * x.numel(),
            )
    for tokens in (1, 64, 2048):
        logits, bias = torch.randn(tokens, 64), torch.randn(64)
        for rule in (
            {"num_active": 6, "num_groups": 1, "num_active_groups": 1, "scores": "softmax"},
            {"num_active": 8, "num_groups": 8, "num_active_groups": 4, "scores": "sigmoid"},
        ):
            own_bias = bias if rule["scores"] == "sigmoid" else None
            yield Case(
                f"route {tokens} tokens to {rule['num_active']} of 64, {rule['scores']}",
                lambda logits=logits, own_bias=own_bias, rule=rule: route(logits, own_bias, **rule),
                lambda logits=logits, own_bias=own_bias, rule=rule: route_reference(
                    logits, own_bias, normalize=True, scale=1.0, **rule
                ),
                30.0 * logits.numel(),
                4.0 * logits.numel() + 12.0 * tokens * rule["num_active"],
            )


def gradients() -> Iterator[Case]:
    """Forward and backward of what is not a product with one weight, at sizes of training."""

    def case(name: str, ours: Callable, theirs: Callable, operands: tuple[Tensor, ...], flops: float) -> Case:
        operands = tuple(operand.requires_grad_() for operand in operands)
        with torch.no_grad():
            grad = torch.randn_like(ours(*operands))

        def both(function: Callable) -> tuple[Tensor, ...]:
            return torch.autograd.grad(function(*operands), operands, grad)

        moved = 4.0 * (2 * sum(operand.numel() for operand in operands) + 2 * grad.numel())
        return Case(f"{name}, and gradients", lambda: both(ours), lambda: both(theirs), flops, moved)

    x, up, weight = torch.randn(2048, 256), torch.randn(2048, 256), torch.randn(256)
    yield case(
        "rms_norm 2048 rows of 256",
        lambda x, weight: rms_norm(x, weight, 1e-6),
        lambda x, weight: F.rms_norm(x, (256,), weight, 1e-6),
        (x, weight),
        12.0 * x.numel(),
    )
    yield case("swiglu 2048 rows of 256", swiglu, lambda x, up: F.silu(x) * up, (x.clone(), up), 15.0 * x.numel())
    yield case(
        "log_softmax 2048 rows of 1024",
        log_softmax,
        lambda x: x.log_softmax(-1),
        (torch.randn(2048, 1024),),
        40.0 * 2048 * 1024,
    )
    heads, tokens, key, value = 8, 256, 48, 32
    mask = torch.full((1, 1, tokens, tokens), float("-inf")).triu(1)
    seen = tokens * (tokens + 1) / 2
    yield case(
        f"attention 8 sequences of {tokens}, {heads} heads, {key} and {value} wide",
        lambda *held: attention(*held, mask, key**-0.5),
        lambda *held: F.scaled_dot_product_attention(*held, is_causal=True),
        tuple(torch.randn(8, heads, tokens, width) for width in (key, key, value)),
        8 * 7.0 * heads * seen * (key + value),
    )
    width, inner, num_experts, active = 256, 128, 8, 2
    chosen = torch.rand(2048, num_experts).argsort(dim=-1)[:, :active]
    matrices = tuple(
        torch.randn(num_experts, *shape) / 16 for shape in ((inner, width), (inner, width), (width, inner))
    )
    yield case(
        f"experts 2048 tokens, {active} of {num_experts}, {width} to {inner}",
        lambda x, weights, *held: expert_mlp(x, chosen, weights, *held),
        lambda x, weights, *held: expert_loop(x, chosen, weights, *held),
        (torch.randn(2048, width), torch.rand(2048, active), *matrices),
        18.0 * 2048 * active * width * inner,
    )


OPERATIONS = {
    "linear": products,
    "gradients": products_with_gradients,
    "experts": experts,
    "attention": attentions,
    "elementwise": elementwise,
    "narrow": narrow_products,
    "between": between,
    "more gradients": gradients,
}


def measure(case: Case, num_pairs: int) -> Result:
    times = [(seconds_of(case.ours), seconds_of(case.theirs)) for _ in range(num_pairs)]
    ratios = sorted(theirs / ours for ours, theirs in times)
    seconds = median(ours for ours, _ in times)
    rates = (case.flops / seconds / 1e9, case.num_bytes / seconds / 1e9)
    return Result(case.name, median(ratios), ratios[0], ratios[-1], *rates)


def seconds_of(function: Callable[[], object]) -> float:
    """One call's time, from as many as fill a turn; the first warms up and does not count."""
    function()
    calls, start = 0, perf_counter()
    while (spent := perf_counter() - start) < LEAST_SECONDS or not calls:
        function()
        calls += 1
    return spent / calls


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=OPERATIONS, help="one operation")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each side")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    print(f"kernels: {kernels_in_use()}, threads: {torch.get_num_threads()}, torch {torch.__version__}")
    print(f"{'ratio':>6} {'range':>12} {'GFLOP/s':>8} {'GB/s':>6}")
    results = []
    for name in [options.only] if options.only else OPERATIONS:
        for case in OPERATIONS[name]():
            with torch.inference_mode("gradients" not in name):
                result = measure(case, options.pairs)
            results.append(result)
            spread = f"{result.lowest:.2f}-{result.highest:.2f}"
            rates = f"{result.gigaflops_per_second:8.1f} {result.gigabytes_per_second:6.1f}"
            print(f"{result.ratio:6.2f} {spread:>12} {rates}  {result.name}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
