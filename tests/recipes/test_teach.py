"""The stages in which a teacher judges tokens: what they learn, what they count, and that a kill changes nothing."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch

from gorae.checkpoint import load, save_model
from gorae.config import forward_flops, training_flops
from gorae.engine import Output
from gorae.model import Network
from gorae.observe import Ledger, read_metrics
from gorae.posttrain import Example, OnPolicySettings, World, on_policy_batch
from gorae.recipes import TuneSettings, distil_from_logits, distil_on_policy, teach
from gorae.recipes.batches import Questions
from gorae.tasks import Answer
from gorae.text import TOOL_TOKENS, V3, Message, Tokenizer, Tool
from gorae.train import AdapterSettings, OptimizerSettings, Schedule

FAST = OptimizerSettings(lr=1e-2, matrix_lr=None)


@pytest.fixture
def start(tmp_path, network, tokenizer) -> Path:
    save_model(tmp_path / "start", network, tokenizer=tokenizer)
    return tmp_path / "start"


@pytest.fixture
def teacher(tmp_path, network, tokenizer) -> Path:
    wide = replace(network.config, model_dim=56, init_std=0.2)
    save_model(tmp_path / "teacher", Network(wide, seed=5), tokenizer=tokenizer)
    return tmp_path / "teacher"


@pytest.fixture
def examples(tokenizer) -> list[Example]:
    prompts = [tokenizer.encode_chat([Message("user", f"계수기 {number}")]) for number in range(10, 50)]
    return [Example(ids, [100 + (place * 5 + n) % 90 for n in range(3)]) for place, ids in enumerate(prompts)]


def ask(batch: int) -> Questions:
    def reward(groups: list[list[Output]], first: int) -> list[list[float]]:
        return [[float(output.token_ids[0] % 2) for output in group] for group in groups]

    return Questions([[Message("user", f"계수기 {batch} {number}")] for number in range(9)], reward)


@pytest.fixture
def from_logits(start, teacher, examples):
    def work(folder: Path, **changes) -> Path:
        wanted = TuneSettings(steps=8, batch_size=8, optimizer=FAST, save_every=3)
        (folder / "distill").mkdir(parents=True, exist_ok=True)
        with Ledger(folder / "bill").stage("distill") as meter:
            given = {"teacher": teacher, "start": start, "examples": examples, "wanted": wanted, "seed": 0} | changes
            distil_from_logits(folder / "distill", meter, **given)
        return folder / "distill"

    return work


@pytest.fixture
def on_policy(start, teacher):
    def work(folder: Path, changes: dict | None = None, **more) -> Path:
        plain = {"steps": 8, "num_prompts": 8, "max_tokens": 5, "optimizer": FAST, "save_every": 3}
        wanted = OnPolicySettings(**plain | (changes or {}))
        (folder / "distill").mkdir(parents=True, exist_ok=True)
        with Ledger(folder / "bill").stage("distill") as meter:
            given = {"teacher": teacher, "start": start, "ask": ask, "wanted": wanted, "seed": 0} | more
            distil_on_policy(folder / "distill", meter, **given)
        return folder / "distill"

    return work


def everything(folder: Path) -> list[object]:
    """Weights by hash, metrics by value, without the clock."""
    model = hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()
    return [model, *(line | {"tokens_per_second": 0.0} for line in read_metrics(folder / "metrics.jsonl"))]


def test_a_student_comes_nearer_to_its_teacher_by_its_logits(from_logits, tmp_path):
    lines = read_metrics(from_logits(tmp_path / "run") / "metrics.jsonl")
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_a_student_comes_nearer_to_its_teacher_on_replies_of_its_own(on_policy, tmp_path):
    lines = read_metrics(on_policy(tmp_path / "run") / "metrics.jsonl")
    assert lines[-1]["teacher_kl"] < 0.9 * lines[0]["teacher_kl"]
    assert 0 < lines[0]["reward"] < 1


@pytest.mark.parametrize("estimator", ["full", "sampled"])
def test_every_update_is_exactly_on_policy(on_policy, tmp_path, estimator):
    lines = read_metrics(on_policy(tmp_path / "run", {"estimator": estimator}) / "metrics.jsonl")
    assert [line["mismatch_kl"] for line in lines] == [0.0] * 8


def test_the_teachers_passes_are_on_the_bill(from_logits, on_policy, tmp_path, network, examples, monkeypatch):
    config, wide = replace(network.config, num_mtp_modules=0), replace(network.config, model_dim=56)
    head, length = 2 * wide.vocab_size * wide.model_dim, len(examples[0].prompt_ids) + 3
    first, second = read_metrics(from_logits(tmp_path / "logits", schedule=Schedule(2)) / "metrics.jsonl")
    step = head * 8 * 3 + training_flops(config, 8 * length, context=length / 2)
    read = forward_flops(wide, 40 * length, context=length / 2) - head * 40 * length
    assert first["flops"] == pytest.approx(read + step, abs=9)  # whole numbers are counted, a few times
    assert second["flops"] == pytest.approx(read + 2 * step, abs=9)
    monkeypatch.setattr(teach, "reading_flops", lambda *_: 1e15)
    assert read_metrics(on_policy(tmp_path / "policy", {"steps": 1}) / "metrics.jsonl")[-1]["flops"] > 1e15


@pytest.mark.parametrize("kind", ["from_logits", "on_policy"])
def test_learning_ends_when_teacher_and_student_have_taken_the_compute(kind, request, tmp_path):
    work = request.getfixturevalue(kind)
    whole = [line["flops"] for line in read_metrics(work(tmp_path / "whole") / "metrics.jsonl")]
    short = [line["flops"] for line in read_metrics(work(tmp_path / "short", max_flops=whole[3]) / "metrics.jsonl")]
    assert short == whole[:4]


@pytest.mark.parametrize("kind", ["from_logits", "on_policy"])
def test_a_stage_killed_at_any_point_ends_with_the_bits_of_one_that_was_not(kind, request, tmp_path, monkeypatch):
    work = request.getfixturevalue(kind)
    monkeypatch.setattr("gorae.posttrain.taught.BLOCK", 10)
    whole = everything(work(tmp_path / "whole"))
    killed = {"from_logits": "read_block", "on_policy": "on_policy_batch"}[kind]
    make = getattr(teach, killed)
    for kill_at in (1, 2) if kind == "from_logits" else (1, 4, 7):
        made = []

        def deadly(*words, made=made, kill_at=kill_at, **named):
            made.append(words)
            if len(made) == kill_at + 1:
                raise KeyboardInterrupt
            return make(*words, **named)

        monkeypatch.setattr(teach, killed, deadly)
        with pytest.raises(KeyboardInterrupt):
            work(tmp_path / f"killed-{kill_at}")
        monkeypatch.setattr(teach, killed, make)
        assert everything(work(tmp_path / f"killed-{kill_at}")) == whole, kill_at


def test_a_teacher_with_other_tokens_is_refused_before_anything_is_read(on_policy, from_logits, tmp_path, network):
    other = Tokenizer.train(["whales and sharks sing"] * 9, vocab_size=280)
    save_model(tmp_path / "other", network, tokenizer=other)
    for work in (on_policy, from_logits):
        with pytest.raises(ValueError, match=r"token 263 is '.*' to the teacher and '.*' to the student"):
            work(tmp_path / "run", teacher=tmp_path / "other")


def test_a_teacher_whose_head_lacks_a_row_of_the_students_is_refused(on_policy, tmp_path, network, tokenizer):
    narrow, wide = (replace(network.config, vocab_size=size) for size in (300, 310))
    save_model(tmp_path / "narrow", Network(narrow), tokenizer=tokenizer)
    save_model(tmp_path / "wide", Network(wide), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"the teacher's head has 300 rows and the student's 310, so .* from traces"):
        on_policy(tmp_path / "run", teacher=tmp_path / "narrow", start=tmp_path / "wide")
    on_policy(tmp_path / "other", {"steps": 1}, teacher=tmp_path / "wide", start=tmp_path / "narrow")


def test_a_task_with_tools_is_played_by_the_student_and_learnt_from_exactly(tmp_path, network, monkeypatch):
    library = Tokenizer.train(["look look 3 5 answer"] * 9, vocab_size=280)._library
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    tokenizer = Tokenizer(library, chat_format=V3)
    for name, seed in (("student", 0), ("teacher", 5)):
        one = Network(replace(network.config, vocab_size=tokenizer.vocab_size), seed=seed)
        save_model(tmp_path / name, one, tokenizer=tokenizer)
    tools, asked, batches = [Tool("look", "Look.", {"type": "object", "properties": {}})], [], []

    def act(turns_of):
        asked.append(list(turns_of))
        return [Answer(["it is dark"]) for _ in turns_of]

    def noted(rollouts, *words, **named):
        batches.append(rollouts)
        return on_policy_batch(rollouts, *words, **named)

    loaded = teach.load_chat_model  # a folder keeps a template, not the format that stands in for one
    monkeypatch.setattr(teach, "load_chat_model", lambda *w, **n: replace(loaded(*w, **n), tokenizer=tokenizer))
    monkeypatch.setattr(teach, "on_policy_batch", noted)
    wanted = OnPolicySettings(steps=2, num_prompts=3, max_tokens=5, optimizer=FAST)
    (tmp_path / "distill").mkdir()
    with Ledger(tmp_path / "bill").stage("distill") as meter:
        given = {"teacher": tmp_path / "teacher", "start": tmp_path / "student", "wanted": wanted, "seed": 0}
        worldly = lambda batch: ask(batch)._replace(world=World(tools, act))  # noqa: E731
        distil_on_policy(tmp_path / "distill", meter, ask=worldly, prefix_cache=True, **given)
    begun = [Message("user", "계수기 0 0it is dark")]
    assert asked
    assert batches[0][0].prompt_ids == tokenizer.encode_chat(begun, tools=tools)
    assert [line["mismatch_kl"] for line in read_metrics(tmp_path / "distill/metrics.jsonl")] == [0, 0]


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=2), AdapterSettings(experts=0.5)])
def test_additions_and_chosen_experts_learn_in_place_of_the_weights(on_policy, from_logits, tmp_path, network, adapter):
    wanted = TuneSettings(steps=2, batch_size=4, optimizer=FAST, adapter=adapter)
    folders = [from_logits(tmp_path / "a", wanted=wanted), on_policy(tmp_path / "b", {"steps": 2, "adapter": adapter})]
    for folder in folders:
        learnt = load(folder / "model", weights="float32").network
        assert torch.equal(learnt.embedding_WD, network.embedding_WD)
        assert not torch.equal(learnt.blocks[1].feed_forward.gate_EFD, network.blocks[1].feed_forward.gate_EFD)
