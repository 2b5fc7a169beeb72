"""Seconds a step of GRPO takes with Gorae and with TRL, on one V3-shaped model in float32, Gorae's in exact mode.

    python benchmarks/rl.py --json rl.json

`transformers` makes the model, with random weights, and a Hugging Face folder of it is what both sides load. Each runs
in a process of its own, and they take turns. A turn is a whole step: replies of full length to groups of equal prompts
(`tokens` each, since neither side lets a reply end early), their rewards and advantages, forward and backward pass,
AdamW. So both sides read and write equally many tokens, which is checked. The parts are generation, scoring (rewards,
advantages, the batch) and training. A ratio above 1 means Gorae is faster; printed are the median and the quartiles of
the pairs. `--check` times nothing: both sides take one step on the same replies, and how far apart that leaves their
weights is told. TRL is what `pip install -e '.[benchmark]'` brings; `--alone` does without it.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from grpo_step import Work, words
from safetensors.torch import load_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from worker import Worker, spread

from gorae.text import Tokenizer

PARTS = ("generation", "scoring", "training")

_V3: dict[str, Any] = {
    "num_nextn_predict_layers": 0,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "max_position_embeddings": 4096,
    "routed_scaling_factor": 2.5,
}

# what transformers' DeepseekV3Config takes
SHAPES: dict[str, dict[str, Any]] = {
    # seconds, to see that everything runs
    "tiny": _V3
    | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
    },
    "small": _V3
    | {
        "vocab_size": 4096,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "moe_intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "q_lora_rank": 192,
        "kv_lora_rank": 128,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 32,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
    },
    "medium": _V3
    | {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "moe_intermediate_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "q_lora_rank": 256,
        "kv_lora_rank": 128,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
    },
}


def make_model(folder: Path, shape: str) -> None:
    """A folder with the model and a tokenizer that fills its vocabulary."""
    tokenizer = Tokenizer.train([" ".join(words())], vocab_size=SHAPES[shape]["vocab_size"])
    assert tokenizer.vocab_size == SHAPES[shape]["vocab_size"], "there are too few words"
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    torch.manual_seed(0)
    DeepseekV3ForCausalLM(DeepseekV3Config(**SHAPES[shape], **ends)).save_pretrained(folder)
    tokenizer.save(folder)


Turn = Mapping[str, float]


def seconds_of(turn: Turn) -> dict[str, float]:
    """The whole step and its parts."""
    return {"step": sum(turn[part] for part in PARTS)} | {part: turn[part] for part in PARTS}


def compare(pairs: Sequence[tuple[Turn, Turn]]) -> dict[str, dict[str, float]]:
    """Of the step and of each part: both medians in seconds, and how many times ours theirs takes."""
    told = {}
    for name in ("step", *PARTS):
        both = [(seconds_of(ours)[name], seconds_of(theirs)[name]) for ours, theirs in pairs]
        ratio, low, high = spread([theirs / ours for ours, theirs in both])
        ours, theirs = map(median, zip(*both, strict=True))
        told[name] = {"gorae": ours, "trl": theirs, "ratio": ratio, "low": low, "high": high}
    return told


def require_equal_work(ours: Turn, theirs: Turn) -> None:
    for name in ("prompt_tokens", "reply_tokens"):
        if ours[name] != theirs[name]:
            raise SystemExit(f"{name}: {ours[name]} of ours are not {theirs[name]} of TRL's; this is no comparison")


def check(ours: Worker, folder: Path, options: Mapping[str, Any]) -> float:
    """Let both sides take a step on the same replies; how far their weights end apart, in what the step moved them."""
    with tempfile.TemporaryDirectory() as place:
        replies, mine, other = (Path(place) / name for name in ("replies.json", "gorae", "trl"))
        replies.write_text(json.dumps(ours.ask("replies", number=0)), encoding="utf-8")
        ours.ask("turn", number=0)
        ours.ask("save", path=str(mine))
        with Worker("peer_trl.py", folder, replies=str(replies), **options) as theirs:
            theirs.ask("turn", number=0)
            theirs.ask("save", path=str(other))
        return apart(*(weights_in(path) for path in (folder, mine, other)))


def weights_in(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def apart(start: Mapping[str, Tensor], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """|ours - theirs| / |theirs - start|, of all weights together."""
    moved = sum((theirs[name].double() - start[name]).square().sum().item() for name in start)
    between = sum((ours[name].double() - theirs[name]).square().sum().item() for name in start)
    return (between / moved) ** 0.5


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="medium")
    parser.add_argument("--prompts", type=int, default=8, help="of a step (default: 8)")
    parser.add_argument("--samples", type=int, default=8, help="replies to a prompt (default: 8)")
    parser.add_argument("--tokens", type=int, default=128, help="of a reply (default: 128)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--alone", action="store_true", help="without TRL")
    parser.add_argument("--check", action="store_true", help="no times: both sides take a step on the same replies")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if not args.alone and find_spec("trl") is None:
        parser.error("TRL is not installed; pip install -e '.[benchmark]' brings it, and --alone does without it")
    work = Work(args.prompts, args.samples, args.tokens)
    told: dict[str, Any] = {"shape": args.shape, "threads": args.threads} | asdict(work)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_model(folder, args.shape)
        options = {"threads": args.threads, "work": asdict(work), "turns": args.pairs + 1}
        with Worker("peer_grpo.py", folder, **options) as ours:
            if args.check:
                told["apart"] = check(ours, folder, options)
                print(f"a step on the same replies leaves the weights {told['apart']:.1e} of it apart")
            elif args.alone:
                ours.ask("turn", number=0)  # caches are warm
                turns = [ours.ask("turn", number=number) for number in range(1, args.pairs + 1)]
                told["gorae"] = print_alone(turns)
            else:
                with Worker("peer_trl.py", folder, **options) as theirs:
                    told["parts"] = beside(ours, theirs, args.pairs)
    if args.json:
        args.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def print_alone(turns: Sequence[Turn]) -> dict[str, float]:
    medians = {name: median(seconds_of(turn)[name] for turn in turns) for name in ("step", *PARTS)}
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items()))
    return medians


def beside(ours: Worker, theirs: Worker, num_pairs: int) -> dict[str, dict[str, float]]:
    pairs = []
    for number in range(num_pairs + 1):  # the first one warms up
        pairs.append((ours.ask("turn", number=number), theirs.ask("turn", number=number)))
        require_equal_work(*pairs[-1])
        steps = [seconds_of(turn) for turn in pairs[-1]]
        print(
            f"pair {number}: " + "  ".join(f"{steps[0][name]:.2f} {steps[1][name]:.2f}" for name in steps[0]),
            flush=True,
        )
    told = compare(pairs[1:])
    print(f"{'seconds':<12} {'gorae':>8} {'trl':>8}  ratio  quartiles")
    for name, one in told.items():
        seconds = f"{one['gorae']:>8.2f} {one['trl']:>8.2f}"
        print(f"{name:<12} {seconds} {one['ratio']:>6.2f}x {one['low']:.2f}-{one['high']:.2f}")
    return told


if __name__ == "__main__":
    main()
