"""Say what the difference of two ways of running a model would do to reinforcement learning, and where it comes from.

SAMPLER replies and TRAINER scores the same tokens. Each is a folder, an id or a .gguf file, with :exact or :fast behind
it to say the mode; transformers:PATH, with :bfloat16 or :float16 for other than float32; or the address of an API, to
which the environment variable GORAE_API_KEY is sent as its key, if it is set.
The exit status is 1 if the mismatch is larger than --max-kl.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gorae.posttrain import QUANTILES
from gorae.recipes import ParityReport, run_parity, set_up_process

EXAMPLE = "gorae parity models/mine-int4 models/mine --json parity.json"
SHOWN = 8  # parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sampler", help="what replies: PATH, PATH:fast, transformers:PATH, http://HOST:PORT/v1")
    parser.add_argument("trainer", help="what scores the replies, likewise")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="one a line (default: eight of the recipe's)")
    parser.add_argument("--tokens", type=int, default=64, help="that a reply has at most (default: 64)")
    parser.add_argument(
        "--max-kl", type=float, default=1e-3, help="of sampler from trainer, nats a token (default: 0.001)"
    )
    parser.add_argument("--model", metavar="NAME", help="the model's name at an address (default: the first there)")
    parser.add_argument("--threads", type=int, help="of the processor (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as well")


def run(args: argparse.Namespace) -> int:
    if args.tokens < 1 or not args.max_kl >= 0:
        raise ValueError(f"--tokens {args.tokens} must be at least 1 and --max-kl {args.max_kl} at least 0")
    set_up_process(args.threads)
    report = run_parity(
        args.sampler, args.trainer, prompts=args.prompts, num_tokens=args.tokens, served_model=args.model
    )
    for line in (*figures(report), *verdict(report), *places(report)):
        print(line)
    is_within = report.mismatch.kl <= args.max_kl
    print(f"mismatch {report.mismatch.kl:.3g} is {'within' if is_within else 'larger than'} --max-kl {args.max_kl:g}")
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(report) | words_of(report), indent=2) + "\n", encoding="utf-8")
    return 0 if is_within else 1


def figures(report: ParityReport) -> list[str]:
    """How far apart the two are."""
    found = report.mismatch
    at = ", ".join(f"{quantile:.0%}" for quantile in QUANTILES)
    lines = [
        f"{report.sampler} replies, {report.trainer} scores: {found.num_sequences} replies to {report.num_prompts} "
        f"prompts, {found.num_tokens:,} tokens",
        told("log-probability", f"{found.mean_difference:.3g} apart on average, {found.max_difference:.3g} at most"),
        told("mismatch KL", f"{found.kl:.3g} nats a token"),
        told("ratio", f"{' '.join(f'{ratio:.4g}' for ratio in found.ratio_quantiles)} at {at} of the tokens"),
        told("effective sample", f"{found.token_share:.1%} of the tokens, {found.sequence_share:.1%} of the replies"),
        told("clipped", f"{found.clipped_share:.2%} of the tokens lie outside the interval of a step of GRPO"),
    ]
    if report.layers is not None and report.layers.decided:
        flipped, decided = report.layers.flipped, report.layers.decided
        lines.append(told("routing", f"{flipped:,} of {decided:,} decisions take other experts"))
    return lines


def verdict(report: ParityReport) -> list[str]:
    """What a step would have of it, and what helps."""
    found = report.mismatch
    if found.is_exact:
        return [told("correction", "none is needed: the ratio is exactly 1 everywhere")]
    rows = [
        f"{name:<17} {one.bias:>8.4f} {one.noise:>8.4f} {one.error:>8.4f}" for name, one in found.corrections.items()
    ]
    helps = f"{found.best} helps most" if found.best != "none" else "none is worth it: noise is larger than the bias"
    return [
        f"{'weights':<17} {'bias':>8} {'noise':>8} {'error':>8}   at most, of the gradient of {report.replies_a_step} "
        "replies; the largest there can be is 1",
        *rows,
        told("correction", helps),
    ]


def places(report: ParityReport) -> list[str]:
    """Which parts differ by themselves, the first one first."""
    if report.layers is None:
        return [told("where", f"not known: {report.obstacle}")]
    outstanding = report.layers.outstanding
    if not outstanding:
        largest = max(report.layers.parts, key=lambda one: one.size)
        if largest.size == 0:
            alike = "nowhere in the layers, which agree to the bit"
            return [told("where", alike if report.mismatch.is_exact else f"{alike}: it is how the replies were made")]
        return [told("where", f"no part stands out; {largest.part} differs most, by {largest.size:.2g} of its size")]
    described = [
        f"{one.part}, by {one.size:.2g} of its size"
        + (f", {one.flipped:.1%} of tokens elsewhere" if one.flipped else "")
        for one in outstanding
    ]
    left = len(described) - SHOWN
    lines = [told("where", f"first in {described[0]}"), *(told("", f"and in {one}") for one in described[1:SHOWN])]
    return lines + ([told("", f"and in {left} parts more")] if left > 0 else [])


def words_of(report: ParityReport) -> dict[str, object]:
    """What follows from the figures, for the file."""
    outstanding = report.layers.outstanding if report.layers else []
    return {"best": report.mismatch.best, "outstanding": [one.part for one in outstanding]}


def told(name: str, text: str) -> str:
    return f"{name:<17} {text}"
