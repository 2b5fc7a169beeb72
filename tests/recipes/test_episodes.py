"""A task with an environment from end to end: a model that calls a tool is measured, learns, is measured again."""

from dataclasses import replace

import pytest
import tokenizers

from gorae.checkpoint import load_tokenizer, save_model
from gorae.config import override
from gorae.model import Network
from gorae.observe import read_metrics
from gorae.posttrain import training_row
from gorae.recipes import TaskSettings, task, tune_on_task
from gorae.text import ASSISTANT, BOS, END_THINK, EOS, TOOL_TOKENS, USER, Message, Tokenizer, Tool
from gorae.train import HybridOptimizer, OptimizerSettings, pad_batch, supervised_loss, update

SOURCE = """
rows = [{"prompt": "whale " + "abcdefghij"[number], "secret": number} for number in range(10)]

class environment_factory:
    def reset(self, secret):
        self.secret, self.looks = secret, 0

    def look(self) -> str:
        "Look."
        self.looks += 1
        return f"sea {self.secret}"

def reward(completions, environments):
    said = [turns[-1]["content"] for turns in completions]
    return [environment.looks + len(set(text)) / 9 for environment, text in zip(environments, said)]
"""
CALL = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
TEMPLATE = (  # DeepSeek-V3.1's, for a first prompt; <｜tool▁sep｜> tells how calls are read
    BOS + "{% for m in messages %}{{ m.content if m.role == 'system' else '' }}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}" + USER + "{{ m.content }}{% endif %}{% endfor %}"
    "{% if false %}<｜tool▁sep｜>{% endif %}" + ASSISTANT + END_THINK
)  # fmt: skip
SHORT = {
    "rl.steps": "2",
    "rl.num_prompts": "3",
    "rl.num_samples": "4",
    "rl.max_tokens": "30",
    "rl.max_turns": "3",
    "evaluate.items": "2",
    "evaluate.samples": "3",
    "evaluate.max_tokens": "30",
    "evaluate.max_turns": "3",
}


@pytest.fixture
def wanted(tmp_path, settings) -> TaskSettings:
    """Settings of a short run, from a model that has learnt by heart to look, and then to say something."""
    tool = Tool("look", "Look.", {"type": "object", "properties": {}, "required": []})
    library = Tokenizer.train(["whale sea sea look " + "".join(map(str, range(10)))] * 9, vocab_size=300)._library
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(library.to_str()), chat_template=TEMPLATE)
    prompt = tokenizer.encode_chat([Message("user", "whale a")], tools=[tool])
    called, said = (tokenizer.encode(text + EOS, parse_special=True) for text in (CALL, "sea"))
    results = tokenizer.encode_results(["sea 3"])
    is_learnt = [True] * len(called) + [False] * len(results) + [True] * len(said)
    batch = pad_batch([training_row(prompt, called + results + said, is_learnt=is_learnt)], tokenizer.pad_id)
    config = replace(settings.student, vocab_size=tokenizer.vocab_size, num_mtp_modules=0)
    network = Network(config, seed=0)
    optimizer = HybridOptimizer(network.named_parameters(), OptimizerSettings(lr=1e-2, matrix_lr=None))
    for _ in range(25):
        update(network, optimizer, batch, supervised_loss, 1.0)
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    return override(TaskSettings(str(tmp_path / "mine.py"), tmp_path / "model"), SHORT)


def test_a_model_learns_in_episodes_and_every_step_is_on_policy(wanted, tmp_path):
    told = tune_on_task(tmp_path / "run", wanted)
    before = told["measured"]["before"]
    assert max(max(rewards) for rewards in before["rewards"]) > 1, "it has looked"
    assert before["grader_errors"] == 0
    assert 0 < before["mean_length"] <= 30
    metrics = read_metrics(tmp_path / "run/rl/metrics.jsonl")
    assert len(metrics) == 2
    for step in metrics:
        assert (step["mismatch_kl"], step["routing_flips"], step["completions/ungraded_ratio"]) == (0.0, 0.0, 0.0)
        assert step["completions/mean_length"] <= 30
    assert load_tokenizer(tmp_path / "run/rl/model") is not None
    assert task.evaluate_on_task(wanted.model, wanted.task, wanted.evaluate)["rewards"] == before["rewards"]


def test_an_environment_that_fails_is_no_reward_of_0(wanted, tmp_path):
    ends = "if self.secret % 2: raise SystemExit\n        self.looks"
    (tmp_path / "mine.py").write_text(SOURCE.replace("self.looks += 1", f"{ends} += 1"), encoding="utf-8")
    found = task.evaluate_on_task(wanted.model, wanted.task, wanted.evaluate, every_row=True)
    assert 0 < found["grader_errors"] <= 0.5
    assert "SystemExit" in found["first_error"]
    assert sum(map(len, found["rewards"])) == round((1 - found["grader_errors"]) * 30)
