"""The experts that prompt and reply went to are those of the trainer's forward pass, however they were read."""

from dataclasses import replace

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import ModelConfig
from gorae.model import Network

ASKED = SamplingParams(max_tokens=9, seed=1, ignore_eos=True, routings=True)


@torch.no_grad()
def check(model, output) -> None:
    ids = output.prompt_token_ids + output.token_ids
    trained = model.network(torch.tensor([ids[:-1]])).routings
    assert output.routings.experts_LTA.tolist() == [routing.experts_NA.tolist() for routing in trained]
    assert torch.equal(output.routings.weights_LTA, torch.stack([routing.weights_NA for routing in trained]))


@pytest.mark.parametrize("options", [{}, {"prefill_tokens": 32}, {"cache_tokens": 192}, {"prefix_cache": False}])
def test_every_token_but_the_last_has_the_trainers_experts_and_weights(model, prompts, options):
    prompts = [*prompts[:14], prompts[11], prompts[11] * 2]
    params = [replace(ASKED, seed=number, max_tokens=1 + 4 * number) for number in range(len(prompts))]
    engine = Engine(model, **options)
    for output in engine.generate(prompts, params):
        check(model, output)
    assert "cache_tokens" not in options or engine.stats.preemptions > 0


def test_known_beginnings_are_read_again_for_who_asks_and_only_then(model, prompts):
    engine, prompt = Engine(model), prompts[11] * 2
    plain = replace(ASKED, routings=False)
    first, asking, again = (engine.generate([prompt], one)[0] for one in (plain, ASKED, plain))
    assert [one.num_cached for one in (first, asking, again)] == [0, 0, 96]
    assert first == asking == again
    check(model, asking)
    assert first.routings is None


@pytest.mark.parametrize("num_steps", [1, 2, 3, 6, 9])
def test_after_a_preemption_they_are_noted_anew_and_once(model, prompts, num_steps):
    engine = Engine(model, prefill_tokens=32)
    engine.add(prompts[11] * 2, ASKED)
    (request,) = engine.waiting
    for _ in range(num_steps):
        engine.step()
    engine.preempt()
    while engine.has_work:
        engine.step()
    check(model, request.output(None))


def test_a_model_without_experts_has_none_to_tell_of():
    config = ModelConfig.dense(vocab_size=50, model_dim=8, num_layers=1, num_heads=1, head_dim=4, dense_dim=8)
    with pytest.raises(ValueError, match="routings=True asks for experts and this model has none; leave it out"):
        Engine(Model(Network(config), config, None)).add([5], ASKED)
