"""Time the compiled kernels beside PyTorch's own, operation by operation, in one run.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py --only linear

Ours and theirs take turns, at least seven times; a ratio above 1 means ours is faster. Printed are the median ratio and
its range, and what ours reaches in GFLOP/s and in GB/s of operands, each read or written once. PyTorch's own forms are
not exact: they are what one would use otherwise; beside panels stand the same numbers in float32.

The share is that of what the machine was seen to reach at the start of the run: of its multiply-adds, of float32 or of
bytes, or, for weights that lie in no cache, of reading memory, whichever is more.
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
    TILE_KEYS,
    BlockScaled,
    HeldExperts,
    Panels,
    attention,
    byte_rows,
    expert_mlp,
    head_linear,
    kernels_in_use,
    linear,
    log_softmax,
    multiply_add,
    multiply_add_bytes,
    pack,
    paged_attention,
    panel_bytes,
    rms_norm,
    rotary_angles,
    rotate,
    route,
    row_bytes,
    swiglu,
    unpack,
)
from gorae.kernels.experts.reference import expert_mlp_reference
from gorae.kernels.linear.quantised import rounded
from gorae.kernels.rotary.reference import rotate_reference
from gorae.kernels.routing.reference import route_reference

LEAST_SECONDS = 0.02  # of one turn
COLD_BYTES = 400_000_000  # of weights that take turns, so that none is in a cache when its turn comes


@dataclass(frozen=True)
class Case:
    """Two functions that compute the same, and what that takes."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    flops: float
    num_bytes: float
    in_bytes: bool = False  # whether integers of 8 bits are multiplied
    is_cold: bool = False  # whether the operands come from memory


@dataclass(frozen=True)
class Result:
    """Ratios are PyTorch's time over ours, of each pair of turns."""

    name: str
    ratio: float
    lowest: float
    highest: float
    gigaflops_per_second: float
    gigabytes_per_second: float
    share: float  # of the machine's peak


@dataclass(frozen=True)
class Peaks:
    """The most this machine was seen to do in a second with nothing else to do."""

    flops: float
    byte_operations: float
    read_bytes: float

    def share(self, case: Case, seconds: float) -> float:
        """Of what bounds the case."""
        computed = case.flops / seconds / (self.byte_operations if case.in_bytes else self.flops)
        return max(computed, case.num_bytes / seconds / self.read_bytes) if case.is_cold else computed


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


def panel_products() -> Iterator[Case]:
    yield panel_product(pack(torch.randn(64, 64), 4), 4)
    for bits in (4, 8):
        weight = random_panels(2816, 2048, bits)
        for rows in (16, 64, 512):
            yield panel_product(weight, rows)
    for bits in (4, 8):
        turns = cold_panels(2816, 2048, bits)
        wide = [unpack(one) for one in turns[: -(-COLD_BYTES // (2816 * 2048 * 4))]]
        for rows in (1, 2, 4, 8):
            yield cold_product(turns, wide, rows)


def panel_product(weight: Panels, rows: int) -> Case:
    (outputs, inputs), x, wide = weight.shape, torch.randn(rows, weight.shape[1]), unpack(weight)
    seen = rounded(x)  # as the kernel sees it
    return Case(
        f"panels {rows} rows {inputs} to {outputs}, {weight.bits} bits",
        lambda: linear(x, weight),
        lambda: F.linear(seen, wide),
        2.0 * rows * inputs * outputs,
        weight.packed.nbytes + 4.0 * rows * (inputs + outputs),
        in_bytes=True,
    )


def cold_product(turns: list[Panels], wide: list[Tensor], rows: int) -> Case:
    """A call takes all the weights in turn; theirs, larger ones, are repeated to as many."""
    (outputs, inputs), x = turns[0].shape, torch.randn(rows, turns[0].shape[1])
    return Case(
        f"panels {rows} rows {inputs} to {outputs}, {turns[0].bits} bits, {len(turns)} weights from memory",
        lambda: [linear(x, weight) for weight in turns],
        lambda: [F.linear(x, wide[i % len(wide)]) for i in range(len(turns))],
        2.0 * rows * inputs * outputs * len(turns),
        sum(weight.packed.nbytes + 4.0 * rows * (inputs + outputs) for weight in turns),
        in_bytes=True,
        is_cold=True,
    )


def random_panels(outputs: int, inputs: int, bits: int) -> Panels:
    """Random numbers in panels; packing that many would take longer than multiplying with them."""
    packed = torch.randint(256, (outputs // 16, panel_bytes(inputs, bits)), dtype=torch.uint8)
    block = 64 + 128 * bits
    packed.unflatten(1, (-1, block))[..., :64] = torch.full((32,), 0.01).half().view(torch.uint8)
    return Panels(packed, bits, torch.Size((outputs, inputs)))


def cold_panels(outputs: int, inputs: int, bits: int) -> list[Panels]:
    num_bytes = outputs // 16 * panel_bytes(inputs, bits)
    return [random_panels(outputs, inputs, bits) for _ in range(-(-COLD_BYTES // num_bytes))]


def panel_heads() -> Iterator[Case]:
    for heads, inputs, outputs in ((2, 32, 16), (16, 128, 512), (16, 512, 128)):
        weight = random_panels(heads * outputs, inputs, 8)
        wide = unpack(weight).unflatten(0, (heads, -1))
        for rows in (1, 64):
            x = torch.randn(rows, heads, inputs)
            seen = rounded(x)
            yield Case(
                f"panels {rows} rows of {heads} heads {inputs} to {outputs}, 8 bits",
                lambda x=x, weight=weight: head_linear(x, weight),
                lambda seen=seen, wide=wide: torch.einsum("nhi,hoi->nho", seen, wide),
                2.0 * rows * heads * inputs * outputs,
                weight.packed.nbytes + 4.0 * rows * heads * (inputs + outputs),
                in_bytes=True,
            )


def panel_experts() -> Iterator[Case]:
    """Beside ours product by product; the sizes are DeepSeek-V2-Lite's."""
    yield fused_experts(3, 64, 32, 4, 2, 4)
    for bits in (4, 8):
        for tokens in (1, 8, 64, 512):
            yield fused_experts(tokens, 2048, 1408, 64, 6, bits)


def fused_experts(tokens: int, width: int, inner: int, num_experts: int, active: int, bits: int) -> Case:
    """A call takes several batches of few tokens, which choose other experts, so that these come from memory."""
    shapes = ((inner, width), (inner, width), (width, inner))
    held = [HeldExperts(random_panels(*shape, bits) for _ in range(num_experts)) for shape in shapes]
    xs = torch.randn(8 if tokens < 64 else 1, tokens, width)
    chosen = torch.rand(len(xs), tokens, num_experts).argsort(dim=-1)[..., :active].contiguous()
    shares = torch.rand(tokens, active)
    num_used = sum(len(one.unique()) for one in chosen)
    return Case(
        f"panels {tokens} tokens, {active} of {num_experts} experts, {width} to {inner}, {bits} bits",
        lambda: [expert_mlp(x, one, shares, *held) for x, one in zip(xs, chosen, strict=True)],
        lambda: [expert_mlp_reference(x, one, shares, *held) for x, one in zip(xs, chosen, strict=True)],
        6.0 * len(xs) * tokens * active * width * inner,
        float(num_used * sum(experts[0].packed.nbytes for experts in held)),
        in_bytes=True,
        is_cold=True,
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


def paged_attentions() -> Iterator[Case]:
    """Latents of 512 + 64 numbers in bfloat16, and grouped heads; PyTorch's gets float32, and keys for every head."""
    for heads, key_heads, key, value in ((16, 1, 576, 512), (8, 1, 576, 512), (12, 2, 128, 128)):
        for queries, keys in ((1, 2048), (1, 8192), (512, 512)):
            num_pages = keys // TILE_KEYS
            pages = torch.randn(num_pages, key_heads, TILE_KEYS, key).bfloat16()
            values = pages[..., :value] if key_heads == 1 else torch.randn_like(pages)
            query, table = torch.randn(1, queries, heads, key), torch.arange(num_pages)[None]
            whole = [
                held.transpose(0, 1).flatten(1, 2).float().repeat_interleave(heads // key_heads, dim=0)[None]
                for held in (pages, values)
            ]
            held = (query, pages, values, table, torch.tensor([keys - queries]))
            query_BHTK = query.transpose(1, 2)
            seen = queries * (2 * keys - queries + 1) / 2
            read = key if key_heads == 1 else key + value
            yield Case(
                f"{heads} heads, {key_heads} of keys, {queries} queries {keys} keys, {key} and {value} wide",
                lambda held=held, scale=key**-0.5: paged_attention(*held, scale),
                lambda query=query_BHTK, whole=whole, causal=queries > 1: F.scaled_dot_product_attention(
                    query, *whole, is_causal=causal
                ).transpose(1, 2),
                2.0 * heads * seen * (key + value),
                4.0 * heads * queries * (key + value) + 2.0 * keys * key_heads * read,
            )
    for queries, keys in ((1, 2048), (1, 8192), (512, 512)):
        yield bytes_beside_bfloat16(queries, keys)


def bytes_beside_bfloat16(queries: int, keys: int) -> Case:
    """Sixteen heads over latents of 512 + 64 numbers in int8, and beside them our own over bfloat16."""
    heads, key, value = 16, 576, 512
    num_pages = keys // TILE_KEYS
    pages = torch.randn(num_pages, 1, TILE_KEYS, key)
    narrow, half = byte_rows(pages), pages.bfloat16()
    query, table = torch.randn(1, queries, heads, key), torch.arange(num_pages)[None]
    starts, scale = torch.tensor([keys - queries]), key**-0.5
    seen = queries * (2 * keys - queries + 1) / 2
    return Case(
        f"{heads} heads, 1 of keys in int8, {queries} queries {keys} keys, {key} and {value} wide",
        lambda: paged_attention(query, narrow, narrow[..., : row_bytes(value)], table, starts, scale),
        lambda: paged_attention(query, half, half[..., :value], table, starts, scale),
        2.0 * heads * seen * (key + value),
        4.0 * heads * queries * (key + value) + keys * row_bytes(key),
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
    wide = [torch.randn(outputs, inputs).bfloat16().float() for _ in range(COLD_BYTES // (4 * outputs * inputs) + 1)]
    for name, (bytes_a_number, hold) in kinds.items():
        held = [hold(weight) for weight in wide]
        while len(held) * bytes_a_number * outputs * inputs < COLD_BYTES:
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
    "panels": panel_products,
    "heads": panel_heads,
    "panel-experts": panel_experts,
    "gradients": products_with_gradients,
    "experts": experts,
    "attention": attentions,
    "paged_attention": paged_attentions,
    "elementwise": elementwise,
    "narrow": narrow_products,
    "between": between,
    "more gradients": gradients,
}


def measure_peaks() -> Peaks:
    numbers = torch.ones(COLD_BYTES // 4)

    def read() -> float:
        numbers.sum()
        return numbers.nbytes

    return Peaks(best_rate(multiply_add), best_rate(multiply_add_bytes), best_rate(read))


def best_rate(work: Callable[[], float]) -> float:
    """The most that `work` does a second, of twelve calls; it returns how much it has done."""
    best = 0.0
    for _ in range(12):
        start = perf_counter()
        done = work()
        best = max(best, done / (perf_counter() - start))
    return best


def measure(case: Case, num_pairs: int, peaks: Peaks) -> Result:
    times = [(seconds_of(case.ours), seconds_of(case.theirs)) for _ in range(num_pairs)]
    ratios = sorted(theirs / ours for ours, theirs in times)
    seconds = median(ours for ours, _ in times)
    rates = (case.flops / seconds / 1e9, case.num_bytes / seconds / 1e9)
    return Result(case.name, median(ratios), ratios[0], ratios[-1], *rates, peaks.share(case, seconds))


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
    peaks = measure_peaks()
    print(
        f"at most {peaks.flops / 1e9:.0f} GFLOP/s, {peaks.byte_operations / 1e9:.0f} GOP/s of bytes, "
        f"{peaks.read_bytes / 1e9:.1f} GB/s read"
    )
    print(f"{'ratio':>6} {'range':>12} {'GFLOP/s':>8} {'GB/s':>6} {'share':>6}")
    results = []
    for name in [options.only] if options.only else OPERATIONS:
        for case in OPERATIONS[name]():
            with torch.inference_mode("gradients" not in name):
                result = measure(case, options.pairs, peaks)
            results.append(result)
            spread = f"{result.lowest:.2f}-{result.highest:.2f}"
            rates = f"{result.gigaflops_per_second:8.1f} {result.gigabytes_per_second:6.1f} {result.share:6.0%}"
            print(f"{result.ratio:6.2f} {spread:>12} {rates}  {result.name}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
