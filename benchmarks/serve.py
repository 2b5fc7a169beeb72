"""Gorae's engine beside llama.cpp on the same random weights: prefill, decoding, requests at once, memory, load.

    python benchmarks/serve.py --shape v2-small --folder models/bench --json serve.json

Both run as processes of their own and take turns, so that what the machine does otherwise falls on both. Weights are
drawn once: Gorae reads them in bfloat16, in exact mode, llama.cpp as GGUF in float16. Prompts are random tokens,
distinct in every turn, and no cache of prefixes is in use. Gorae samples its continuation at temperature 1, which is
part of its time; llama.cpp is given random tokens. llama.cpp runs at the best of flash attention on and off and three
micro-batch sizes, tried beforehand line by line. A ratio above 1 means Gorae is faster; printed are the median and the
quartiles.

Needs llama.cpp, which `make test-slow` compiles.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

HEAVY_TAILS = 5  # degrees of freedom of the t distribution that published weights resemble more than a normal one
DECODED = 24  # tokens timed after the first

SHAPES: dict[str, dict[str, Any]] = {
    # 1.5B parameters, 0.4B active: small enough for everyone, shaped as DeepSeek-V2-Lite
    "v2-small": {
        "model_type": "deepseek_v2",
        "vocab_size": 32_000,
        "hidden_size": 1024,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "intermediate_size": 2816,
        "moe_intermediate_size": 512,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.02,
    },
    "r1-distill-qwen-1.5b": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
        "bos_token_id": 151_646,
        "eos_token_id": 151_643,
        "initializer_range": 0.02,
    },
}


@dataclass(frozen=True)
class Line:
    """What is timed: `requests` prompts of `depth` tokens, then either reading them or the tokens that follow."""

    name: str
    depth: int
    requests: int = 1
    is_prefill: bool = False


LINES = {
    line.name: line
    for line in (
        Line("prefill 512", 512, is_prefill=True),
        Line("decode", 8),
        Line("decode at 2048", 2048),
        Line("8 at once", 64, requests=8),
    )
}


class Peer(Protocol):
    """An engine under test: returns the tokens a second of one turn."""

    def turn(self, line: Line, prompts: list[list[int]], **tuning: Any) -> float: ...


class GoraePeer:
    def __init__(self, path: str, threads: int) -> None:
        import torch

        from gorae import Engine, SamplingParams, load

        torch.set_num_threads(threads)
        self.engine = Engine(load(path), prefix_cache=False, prefill_tokens=4096)
        self.params = SamplingParams(max_tokens=DECODED + 1, ignore_eos=True, seed=0)

    def turn(self, line: Line, prompts: list[list[int]], **_: Any) -> float:
        for prompt in prompts:
            self.engine.add(prompt, self.params)
        began = time.perf_counter()
        self.engine.step()
        if line.is_prefill:
            seconds = time.perf_counter() - began
            self.engine.clear()
            return sum(map(len, prompts)) / seconds
        began = time.perf_counter()
        for _ in range(DECODED):
            self.engine.step()
        return len(prompts) * DECODED / (time.perf_counter() - began)


class LlamaPeer:
    """llama.cpp by its C interface: batches of tokens in, logits of the last of each sequence out."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.lib, self.threads = llama_cpp, threads
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        self.batch = llama_cpp.llama_batch_init(4096, 0, 1)

    def turn(self, line: Line, prompts: list[list[int]], *, flash: bool = True, micro_batch: int = 512) -> float:
        lib = self.lib
        wanted = lib.llama_context_default_params()
        wanted.n_ctx = (line.depth + DECODED + 40) * len(prompts)
        wanted.n_batch, wanted.n_ubatch, wanted.n_seq_max = 4096, micro_batch, len(prompts)
        wanted.n_threads = wanted.n_threads_batch = self.threads
        wanted.flash_attn_type = 1 if flash else 0
        context = lib.llama_init_from_model(self.model, wanted)
        assert context, f"llama.cpp makes no context for {line.name}"
        try:
            self.decode(context, [[(token, place) for place, token in enumerate(prompts[0][:2])]])  # warm up
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            began = time.perf_counter()
            self.decode(context, [[(token, place) for place, token in enumerate(prompt)] for prompt in prompts])
            if line.is_prefill:
                return sum(map(len, prompts)) / (time.perf_counter() - began)
            began = time.perf_counter()
            for step in range(DECODED):
                self.decode(context, [[(prompt[step % len(prompt)], len(prompt) + step)] for prompt in prompts])
            return len(prompts) * DECODED / (time.perf_counter() - began)
        finally:
            lib.llama_free(context)

    def decode(self, context: Any, sequences: list[list[tuple[int, int]]]) -> None:
        batch, count = self.batch, 0
        for number, tokens in enumerate(sequences):
            for token, place in tokens:
                batch.token[count], batch.pos[count] = token, place
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, number
                batch.logits[count] = (token, place) == tokens[-1]
                count += 1
        batch.n_tokens = count
        assert self.lib.llama_decode(context, batch) == 0, "llama.cpp failed to decode"
        self.lib.llama_get_logits(context)  # waits for the computation


PEERS = {"gorae": GoraePeer, "llama": LlamaPeer}


def work(kind: str, path: str, threads: int) -> None:
    """A process of its own: turns asked for on the standard input, one line of JSON each, answered in figures."""
    began = time.perf_counter()
    peer = PEERS[kind](path, threads)
    print(json.dumps(time.perf_counter() - began), flush=True)
    for asked in map(json.loads, sys.stdin):
        print(json.dumps(peer.turn(LINES[asked["line"]], asked["prompts"], **asked["tuning"])), flush=True)


class Worker:
    """A peer in a process of its own."""

    def __init__(self, kind: str, path: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--work", kind, str(path), "--threads", str(threads)]
        quiet = subprocess.DEVNULL if kind == "llama" else None
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True)
        self.load_seconds = self._answer()
        self.process.send_signal(signal.SIGSTOP)  # its threads spin; who waits for its turn must not

    def turn(self, line: Line, prompts: list[list[int]], **tuning: Any) -> float:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        print(
            json.dumps({"line": line.name, "prompts": prompts, "tuning": tuning}), file=self.process.stdin, flush=True
        )
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def memory(self) -> int:
        """Bytes: its own pages, and its share of those it has in common with others."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="utf-8")
        return next(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a process ended early, with status {self.process.wait()}")
        return json.loads(answer)


@dataclass(frozen=True)
class Result:
    """One line of the table: tokens a second in the median, and the ratio of each pair of turns."""

    line: str
    gorae: float
    llama: float
    ratio: float
    low: float
    high: float
    tuning: dict[str, Any]


def compare(ours: Worker, theirs: Worker, line: Line, *, pairs: int, vocab_size: int) -> Result:
    drawn = random_prompts(line, vocab_size)
    tunings = [{"flash": flash, "micro_batch": size} for flash, size in product((False, True), (128, 512, 2048))]
    best = max(tunings, key=lambda tuning: theirs.turn(line, next(drawn), **tuning))
    ours.turn(line, next(drawn))  # pages are read, caches are warm
    turns = [(ours.turn(line, prompts), theirs.turn(line, prompts, **best)) for prompts, _ in zip(drawn, range(pairs))]  # noqa: B905
    ratios = sorted(mine / other for mine, other in turns)
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    ours_median, theirs_median = (median(side) for side in zip(*turns, strict=True))
    return Result(line.name, ours_median, theirs_median, median(ratios), low, high, best)


def random_prompts(line: Line, vocab_size: int) -> Iterator[list[list[int]]]:
    """Distinct ones, the same in every run."""
    draw = random.Random(line.name)
    while True:
        yield [[draw.randrange(vocab_size) for _ in range(line.depth)] for _ in range(line.requests)]


def prepare(folder: Path, shape: str) -> tuple[Path, Path]:
    """The checkpoint in bfloat16 and the GGUF file in float16, written once."""
    from random_checkpoint import write_random

    from gorae.checkpoint import convert_to_gguf

    checkpoint, file = folder / shape, folder / f"{shape}.gguf"
    if not checkpoint.is_dir():
        write_random(checkpoint, SHAPES[shape], fp8=False, degrees_of_freedom=HEAVY_TAILS)
    if not file.is_file():
        convert_to_gguf(checkpoint, file, "f16")
    return checkpoint, file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="v2-small")
    parser.add_argument("--folder", type=Path, default=Path("models/bench"), help="where weights are kept (6 GB)")
    parser.add_argument("--only", choices=LINES, action="append", help="one line of the table; may be given again")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2, metavar=("PEER", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work, args.threads)
        return
    ours, theirs = (
        Worker(kind, path, args.threads) for kind, path in zip(PEERS, prepare(args.folder, args.shape), strict=True)
    )
    results = []
    print(f"{'':<16} {'gorae':>9} {'llama.cpp':>9} {'ratio':>7}   quartiles    tokens/s; llama.cpp at its best of")
    for name in args.only or LINES:
        result = compare(ours, theirs, LINES[name], pairs=args.pairs, vocab_size=SHAPES[args.shape]["vocab_size"])
        results.append(result)
        told = f"{result.ratio:>6.2f}x   {result.low:.2f}-{result.high:.2f}"
        print(f"{name:<16} {result.gorae:>9.1f} {result.llama:>9.1f} {told}    {result.tuning}", flush=True)
    memory, load = [[worker.memory() for worker in (ours, theirs)], [ours.load_seconds, theirs.load_seconds]]
    print(f"memory           {memory[0] / 1e9:>6.2f} GB {memory[1] / 1e9:>6.2f} GB {memory[0] / memory[1]:>6.2f}x")
    print(f"load             {load[0]:>7.2f} s {load[1]:>7.2f} s")
    if args.json:
        told = {"shape": args.shape, "threads": args.threads, "lines": [asdict(one) for one in results]}
        args.json.write_text(json.dumps(told | {"memory_bytes": memory, "load_seconds": load}, indent=2) + "\n")
    for worker in (ours, theirs):
        worker.close()


if __name__ == "__main__":
    main()
