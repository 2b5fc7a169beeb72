"""`gorae tune` on a task, from a model of R1-Distill-Qwen-1.5B's kind: small here, and at its own shape on a GPU.

Weights are random. What is looked at is that engine and trainer agree to the bit, and what a step takes, which is
printed: `python -m pytest tests/journey/test_one_gpu.py -s`.
"""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import random_checkpoint
import torch
from shapes import SHAPES

import gorae as library
from gorae.observe import read_metrics
from gorae.posttrain import measure_parity
from gorae.text import Tokenizer

PUBLISHED = SHAPES["r1-distill-qwen-1.5b"]
SMALL = PUBLISHED | {
    "vocab_size": 384,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
TASK = """
from random import Random

def rows(seed):
    random = Random(seed)
    while True:
        yield {"prompt": f"{random.randrange(99)} + {random.randrange(99)} = ?"}

def reward(completions):
    return [len(set(text)) % 7 for text in completions]
"""
SHORT = {
    "seed": 1,
    "rl.steps": 2,
    "rl.num_prompts": 2,
    "rl.num_samples": 4,
    "rl.max_tokens": 8,
    "rl.optimizer.lr": 1e-4,
    "evaluate.items": 3,
    "evaluate.samples": 2,
    "evaluate.max_tokens": 8,
}


def folder_of(folder: Path, published: dict[str, Any]) -> Path:
    """A checkpoint of the shape in bfloat16, with a tokenizer that has R1's turns, and a word for every id left."""
    tokenizer = Tokenizer.train(["What is 1 + 2? 고래 鲸鱼"] * 3, vocab_size=300)
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    random_checkpoint.write_random(folder, published | ends, fp8=False)
    tokenizer.save(folder)
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    further = range(tokenizer.vocab_size, published["vocab_size"])
    told["model"]["vocab"] |= {f"w{token_id}": token_id for token_id in further}
    (folder / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def tuned(gorae, folder: Path, model: Path, device: str, settings: dict[str, object]) -> str:
    """Tune, hold engine and trainer together before and after, and say what it took."""
    (folder / "my_task.py").write_text(TASK, encoding="utf-8")
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    called = gorae(
        "tune", "--task", folder / "my_task.py", "--model", model, "--out", folder / "run", "--device", device, *flags
    )
    assert called.status == 0, called.err
    made = folder / "run/rl/model"
    metrics = read_metrics(folder / "run/rl/metrics.jsonl")
    assert [one["ratio_max"] for one in metrics] == [0.0] * len(metrics)
    assert all(one["grad_norm"] > 0 for one in metrics)
    assert weights_of(made) != weights_of(model)
    prompts = [list(range(10, 10 + length)) for length in (5, 17)]
    held = (model, "stored"), (made, "stored"), (made, "float32")
    found = [
        measure_parity(library.load(one, weights=weights, device=device), prompts, num_tokens=8)
        for one, weights in held
    ]
    stages = json.loads((folder / "run/report.json").read_text(encoding="utf-8"))["bill"]["stages"]
    seconds = next(one["wall_seconds"] for one in stages if one["stage"] == "rl") / len(metrics)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()
    said = (
        f"{device}: at most {peak / 1e9:.2f} GB, {seconds:.2f} seconds a step, ratio of engine to trainer 1 within "
        f"{max(one.max_difference for one in found):.3g} nats, {sum(one.routing_disagreements for one in found)} flips"
    )
    print(said)
    assert all(one.is_exact for one in found), said
    return called.out + called.err


def weights_of(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("recompute_blocks", ["false", "true"])
@pytest.mark.parametrize("bfloat16", ["false", "true"])
def test_a_model_of_the_distilled_kind_learns_on_the_cpu_with_a_ratio_of_exactly_1(
    gorae, tmp_path, bfloat16, recompute_blocks
):
    model = folder_of(tmp_path / "model", SMALL)
    options = {"rl.bfloat16": bfloat16, "rl.recompute_blocks": recompute_blocks, "threads": 1}
    assert "tune: on cpu" in tuned(gorae, tmp_path, model, "cpu", SHORT | options)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU, which the model at its own shape takes")
@pytest.mark.parametrize("bfloat16", ["false", "true"])
def test_the_model_at_its_own_shape_learns_on_a_gpu_with_a_ratio_of_exactly_1(gorae, tmp_path, bfloat16):
    torch.cuda.reset_peak_memory_stats()
    model = folder_of(tmp_path / "model", PUBLISHED)
    larger = {"rl.num_prompts": 4, "rl.num_samples": 8, "rl.max_tokens": 64, "rl.optimizer.lr": 1e-6}
    options = {"rl.bfloat16": bfloat16, "rl.recompute_blocks": "true"}
    tuned(gorae, tmp_path, model, "cuda", SHORT | larger | options)
