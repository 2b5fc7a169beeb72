"""What the learning stages count for the bill, what they reward, and what they leave alone."""

import pytest
import torch

from gorae.config import forward_flops, training_flops
from gorae.engine import Output
from gorae.recipes import compute, learn
from gorae.tasks import Problem
from gorae.train import Batch

PROBLEM = Problem("en", (("+", 6),), "1 plus 6?")


def output(text: str, *, reason: str = "stop", logprobs=(-1.0,)) -> Output:
    return Output([5], text, list(logprobs), reason, [3])


def test_the_reward_is_the_exact_answer_and_format_of_a_reply_that_ended_by_itself():
    assert learn.reward_by_grade(PROBLEM, output("</think>7")) == 1.0
    assert 0 < learn.reward_by_grade(PROBLEM, output("</think>8")) < 0.2
    assert learn.reward_by_grade(PROBLEM, output("7")) == 0
    assert learn.reward_by_grade(PROBLEM, output("</think>7", reason="length")) == 0


def test_the_controls_reward_is_a_fair_coin_that_does_not_know_the_answer():
    def thrown(text: str, number: int) -> float:
        return learn.reward_at_random(PROBLEM, output(text, logprobs=(-number / 7,)))

    right, wrong = ([thrown(text, number) for number in range(1000)] for text in ("</think>7", "nothing"))
    assert right == wrong
    assert set(right) == {0.0, 1.0}
    assert sum(right) / 1000 == pytest.approx(0.5, abs=0.065)  # four deviations


def test_training_is_billed_for_every_token_computed_padding_too(settings, meter):
    batch = Batch(torch.zeros(3, 40, dtype=torch.long), torch.zeros(3, 40))
    compute.count_training(meter, settings.student, batch)
    assert meter.spent.tokens == 120
    assert meter.spent.flops == pytest.approx(training_flops(settings.student, 120, context=20))


def test_learning_from_rollouts_is_billed_for_every_token_once(settings, meter):
    """A prompt of 8 tokens, two replies of 3, whose last tokens are read by none; a reference reads one row."""
    ids_BT = torch.tensor([[*range(8), 20, 21, 22], [*range(8), 30, 31, 32]])
    weights_BT = torch.tensor([[0.0] * 8 + [1.0] * 3] * 2)
    compute.count_policy(meter, settings.student, Batch(ids_BT, weights_BT), read_rows=1)
    assert meter.spent.tokens == 12 + 10
    flops = training_flops(settings.student, 12, context=(55 + 9 + 10) / 12)
    assert meter.spent.flops == pytest.approx(flops + forward_flops(settings.student, 10, context=5.5))


def test_reading_is_billed_as_a_forward_pass(settings, meter):
    compute.count_reading(meter, settings.student, torch.zeros(3, 40))
    assert meter.spent.tokens == 120
    assert meter.spent.flops == pytest.approx(forward_flops(settings.student, 120, context=20))


def test_tuning_takes_every_parameter_but_the_prediction_modules(network):
    names = {name for name, _ in compute.sampling_parameters(network)}
    assert names < {name for name, _ in network.named_parameters()}
    assert {name.partition(".")[0] for name, _ in network.named_parameters()} - {
        n.partition(".")[0] for n in names
    } == {"mtp"}


def test_a_teacher_without_a_correct_answer_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "traces-000000.jsonl").write_text("")
    with pytest.raises(
        ValueError, match=r"the teacher gave no correct answer .*; train it longer, or sample more prompts"
    ):
        learn.read_traces(tmp_path)


def test_traces_are_read_in_the_order_of_their_prompts(tmp_path):
    for number, token in ((2, 8), (0, 7), (10, 9)):
        line = f'{{"prompt_ids": [3], "reply_ids": [{token}]}}\n'
        (tmp_path / f"traces-{number:06}.jsonl").write_text(line)
    assert [one.reply_ids for one in learn.read_traces(tmp_path)] == [[7], [8], [9]]
