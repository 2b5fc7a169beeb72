"""The measurement: sealed items, fixed draws, and a bill."""

import json
from dataclasses import replace

import pytest

from gorae.checkpoint import save_model
from gorae.config import forward_flops
from gorae.engine import Engine
from gorae.recipes import evaluate_folder
from gorae.recipes import measure as room
from gorae.recipes.corpus import sealed_items
from gorae.recipes.measure import Completion, evaluate_model, measure, sample_completions
from gorae.recipes.run import ChatModel
from gorae.text import R1, Message, Tokenizer


@pytest.fixture
def model(network, tokenizer) -> ChatModel:
    return ChatModel(network.eval(), network.config, tokenizer)


@pytest.fixture
def oracle(monkeypatch):
    """Replaces sampling: every item is answered rightly by the first of three samples and out of format by the last."""

    def complete(model, meter, prompts, samples, *, mode, wanted):
        answers = {problem.prompt: problem.answer for problem in sealed_items(oracle_settings.prepare).problems}
        opening = {"free": "</think>", "think": "because\n</think>\n\n", "direct": ""}[mode]
        wrong = {prompt: str((int(answer) + 1) % 10) for prompt, answer in answers.items()}
        return [
            [Completion(opening + answers[p], 4), Completion(opening + wrong[p], 5), Completion("", 6)] for p in prompts
        ]

    oracle_settings = None

    def use(settings):
        nonlocal oracle_settings
        oracle_settings = settings
        monkeypatch.setattr(room, "sample_completions", complete)

    return use


@pytest.mark.parametrize("mode", ["free", "think", "direct"])
def test_the_first_sealed_items_are_asked_and_graded_in_the_mode_they_were_asked_in(
    settings, model, meter, oracle, mode
):
    oracle(settings)
    summary = evaluate_model(model, meter, settings=settings, mode=mode)
    assert summary["pass_at_1"] == pytest.approx(1 / 3)
    assert summary["majority_at_3"] == 1.0  # of two answers the first seen wins
    assert summary["mean_length"] == 5
    assert summary["items"] == 4
    assert {language: one["items"] for language, one in summary["by_language"].items()} == {"ko": 2, "zh": 1, "en": 1}


def test_a_model_of_another_format_is_graded_in_it_and_in_the_mode_its_prompt_leads_to(
    settings, model, meter, tokenizer, monkeypatch
):
    model = replace(model, tokenizer=Tokenizer(tokenizer._library, chat_format=R1))
    answers = {problem.prompt: problem.answer for problem in sealed_items(settings.prepare).problems}

    def complete(model, meter, prompts, samples, *, mode, wanted):
        return [[Completion(f"because\n</think>\n\n{answers[prompt]}", 4)] * samples for prompt in prompts]

    monkeypatch.setattr(room, "sample_completions", complete)
    summary = evaluate_model(model, meter, settings=settings, mode="free")  # R1's prompt opens the thinking
    assert (summary["pass_at_1"], summary["majority_at_3"]) == (1.0, 1.0)


def test_sampling_follows_from_the_weights_alone_and_is_billed(settings, model, meter):
    wanted = replace(settings.evaluate, max_tokens=8)
    prompts = [problem.prompt for problem in sealed_items(settings.prepare).problems[:2]]
    first = sample_completions(model, meter, prompts, 3, mode="think", wanted=wanted)
    spent = meter.spent
    again = sample_completions(model, meter, prompts, 3, mode="think", wanted=wanted)
    assert first == again
    assert [len(group) for group in first] == [3, 3]
    chats = [model.tokenizer.encode_chat([Message("user", prompt)], mode="think") for prompt in prompts]
    # Prompts are read together, as long as the longest; of a reply, all but the last token is read.
    longest = max(map(len, chats))
    contexts = [
        len(chat) + place
        for chat, group in zip(chats, first, strict=True)
        for one in group
        for place in range(1, one.num_tokens)
    ]
    assert spent.tokens == 2 * longest + len(contexts)
    read = forward_flops(model.config, 2 * longest, context=longest / 2)
    assert spent.flops == pytest.approx(read + sum(forward_flops(model.config, 1, context=one) for one in contexts))


def test_samples_are_drawn_at_temperature_1_and_top_p_1_each_from_its_own_seed(settings, model, meter, monkeypatch):
    seen = []
    generate = Engine.generate
    monkeypatch.setattr(Engine, "generate", lambda self, p, params: (seen.extend(params), generate(self, p, params))[1])
    sample_completions(model, meter, ["a", "b"], 3, mode="free", wanted=settings.evaluate)
    assert {(one.temperature, one.top_p, one.max_tokens) for one in seen} == {(1.0, 1.0, 6)}
    assert [one.seed for one in seen] == list(range(6))


def test_a_reply_cut_off_gives_no_answer_and_its_length_counts(settings, model, meter, monkeypatch):
    class Cut(Engine):
        def generate(self, prompts, params=None):
            outputs = super().generate(prompts, params)
            return [replace(one, text="</think>7", finish_reason="length") for one in outputs]

    monkeypatch.setattr(room, "Engine", Cut)
    ((completion,),) = sample_completions(model, meter, ["a"], 1, mode="free", wanted=settings.evaluate)
    assert completion.text == ""
    assert completion.num_tokens > 0


def test_models_measured_before_a_kill_are_not_measured_again(settings, model, meter, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(room, "load_chat_model", lambda path: model)
    monkeypatch.setattr(
        room, "evaluate_model", lambda m, meter, *, settings, mode: asked.append(mode) or {"pass_at_1": 0.5}
    )
    (tmp_path / "base.json").write_text('{"pass_at_1": 0.25}')
    models = {name: (tmp_path / "model", mode) for name, mode in (("base", "free"), ("base_think", "think"))}
    measure(tmp_path, meter, models=models, settings=settings)
    assert asked == ["think"]
    assert json.loads((tmp_path / "base.json").read_text()) == {"pass_at_1": 0.25}
    assert json.loads((tmp_path / "base_think.json").read_text()) == {"pass_at_1": 0.5}


def test_any_folder_can_be_measured_and_gives_what_a_run_would(settings, model, meter, tmp_path):
    save_model(tmp_path / "model", model.network, tokenizer=model.tokenizer)
    measured = evaluate_folder(tmp_path / "model", settings, mode="direct")
    assert measured == evaluate_model(model, meter, settings=settings, mode="direct")
