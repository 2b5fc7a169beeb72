"""A reply under a constraint has its form, whatever the model would rather say; nothing else about it changes."""

import json
import re
from dataclasses import replace

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.engine import Constraint, ConstraintError
from gorae.engine.constrain import Grammars
from gorae.model import Network

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["고래", "鲸"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
ONE_LINE = {"x-guidance": {"whitespace_flexible": False}}  # a random model writes white space for ever
PROMPTS = [[5, 6, 7], [9, 4], [40, 41, 42, 43], [8] * 40]


def params(constraint: Constraint, **others) -> SamplingParams:
    return SamplingParams(max_tokens=120, constraint=constraint, **others)


def person(mode="direct") -> Constraint:
    return Constraint.json(PERSON | ONE_LINE, mode=mode)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_fits_its_schema_to_the_last_byte(model, temperature):
    outputs = Engine(model).generate(
        PROMPTS, [params(person(), temperature=temperature, seed=seed) for seed in range(4)]
    )
    for output in outputs:
        found = json.loads(output.text)
        assert output.finish_reason == "stop"
        assert list(found) == ["name", "age", "kind"]
        assert 0 <= found["age"] <= 150
        assert found["kind"] in ("고래", "鲸")
        assert len(found["name"]) <= 6
        assert output.token_ids[-1] == model.config.eos_id


def test_a_regular_expression_and_a_grammar_hold_too(model):
    constraints = [
        Constraint("regex", r"[0-9]{3}-[가-힣]{2}"),
        Constraint("lark", 'start: ("yes" | "no") " " /[0-9]+/ "!"'),
    ]
    outputs = Engine(model).generate(PROMPTS[:2], [params(one, seed=3) for one in constraints])
    assert re.fullmatch(r"[0-9]{3}-[가-힣]{2}", outputs[0].text)
    assert re.fullmatch(r"(yes|no) [0-9]+!", outputs[1].text)


def test_without_a_schema_any_object_will_do(model):
    output = Engine(model).generate(PROMPTS[:1], params(Constraint.json(), seed=2))[0]
    assert output.text.lstrip().startswith("{")
    assert output.finish_reason == "length" or isinstance(json.loads(output.text), dict)


def test_log_probs_stay_those_of_the_model(model, rescore):
    output = Engine(model).generate(PROMPTS[:1], params(person(), seed=1, logprobs=3))[0]
    assert torch.equal(torch.tensor(output.logprobs), rescore(output))
    pairs = zip(output.top_logprobs, output.token_ids, strict=True)
    assert any(token not in table for table, token in pairs), "the model would have said something else"


@pytest.mark.parametrize("others", [{}, {"presence_penalty": 1.0, "top_k": 3}, {"logit_bias": {8: 100.0}}])
def test_penalties_bias_and_cuts_choose_among_what_is_allowed(model, others):
    for output in Engine(model).generate(PROMPTS, params(person(), seed=1, **others)):
        assert list(json.loads(output.text)) == ["name", "age", "kind"]


def test_neighbours_without_a_constraint_are_left_alone(model, prompts):
    plain = [SamplingParams(max_tokens=30, seed=seed, ignore_eos=True) for seed in range(3)]
    alone = Engine(model).generate(prompts[3:6], plain)
    held = params(person(), seed=1)
    among = Engine(model).generate([*prompts[3:6], PROMPTS[0]], [*plain, held])
    assert among[:3] == alone
    assert among[3] == Engine(model).generate(PROMPTS[:1], held)[0]


@pytest.mark.parametrize("options", [{"speculation": "ngram"}, {"speculation": "mtp"}, {"speculation": "auto"}])
def test_with_speculation_and_preemption_the_same_bits(tokenizer, model, options):
    config = replace(model.config, num_mtp_modules=1)
    drafting = Model(Network(config, seed=1).eval(), config, tokenizer)
    bias = {8: 6.0, tokenizer.end_think_id: -100.0}  # thinking that says one thing over and over
    asked = [
        SamplingParams(max_tokens=80, constraint=person(mode), seed=seed, logit_bias=bias)
        for seed, mode in enumerate(("think", "think", "direct", "free"))
    ]
    prompts = [[5, 6, 7 + number] for number in range(4)]
    expected = Engine(drafting).generate(prompts, asked)
    engine = Engine(drafting, cache_tokens=128, **options)
    assert engine.generate(prompts, asked) == expected
    assert engine.stats.preemptions > 0
    assert options["speculation"] == "auto" or engine.stats.accepted > 0


def test_guesses_that_the_grammar_forbids_are_not_tried(model):
    repeating = PROMPTS[0] * 8  # what follows in the prompt is no JSON
    engine = Engine(model, speculation="ngram")
    engine.generate([repeating], params(Constraint("regex", "[0-9]{12}"), seed=1))
    guide = engine.guide(Constraint("regex", "[0-9]{12}"))
    digit, letter = model.tokenizer.encode("1")[0], model.tokenizer.encode("a")[0]
    assert guide.num_possible([], [digit, digit, letter, digit]) == 2
    assert guide.num_possible([digit] * 11, [digit, model.config.eos_id]) == 2
    assert guide.num_possible([digit] * 11, [digit, digit]) == 1


@pytest.fixture
def grammars(model) -> Grammars:
    return Grammars(model.tokenizer, vocab_size=model.config.vocab_size, end_ids=model.config.end_ids)


@pytest.mark.parametrize(
    ("mode", "before"),
    [
        ("direct", ""),
        ("free", ""),
        ("free", "</think>"),
        ("free", "<think>\nhow? {\n</think>\n\n"),
        ("think", "how?\n</think>\n\n"),
        ("think", "</think>\n\n"),
    ],
)
def test_thinking_is_free_and_the_answer_behind_it_is_held(model, grammars, mode, before):
    tokenizer = model.tokenizer
    guide = grammars.guide(Constraint("regex", "[0-9]+", mode))
    opening, answer = tokenizer.encode(before, parse_special=True), tokenizer.encode("42")
    reply = [*opening, *answer, model.config.eos_id]
    letter = tokenizer.encode("a")[0]
    for place, token in enumerate(reply):
        allowed_W = guide.allowed(reply[:place])
        assert allowed_W[token]
        is_thinking = place < len(opening) and tokenizer.end_think_id in reply[place:]
        is_free = is_thinking and (mode == "think" or place > 0)
        assert bool(allowed_W[letter]) == is_free
        assert bool(allowed_W[model.config.eos_id]) == (place > len(opening))
        is_open = mode == "free" and place == 0
        for control in (tokenizer.think_id, tokenizer.end_think_id, tokenizer.user_id):
            assert bool(allowed_W[control]) == (is_free or (is_open and control != tokenizer.user_id))


def test_a_guide_goes_back_to_wherever_it_is_asked_about(model, grammars):
    tokenizer, guide = model.tokenizer, grammars.guide(Constraint("regex", "(ab|cd)[0-9]{2}"))
    a, b, c, one = (tokenizer.encode(text)[0] for text in "abc1")
    texts = [[], [a], [a, b], [a, b, one], [c], [], [a, b, one, one], [a, b], [a, c], [a]]
    found = [guide.allowed(text) for text in texts]
    fresh = [grammars.guide(Constraint("regex", "(ab|cd)[0-9]{2}")).allowed(text) for text in texts]
    assert [mask is None for mask in found] == [False] * 8 + [True, False]
    assert all(mask is other or torch.equal(mask, other) for mask, other in zip(found, fresh, strict=True))


@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        (Constraint.json({"type": "oh"}), 'the json_schema {"type": "oh"} is none that a reply can be held to: '),
        (Constraint("json_schema", "{"), "the json_schema { is none that a reply can be held to"),
        (Constraint("json_schema", "[1]"), "the json_schema [1] is none that a reply can be held to"),
        (Constraint("regex", "(" * 200), "unclosed group"),
        (Constraint("lark", "start: other"), 'unknown name: "other"'),
        (Constraint.json({"$ref": "https://example.com/schema"}), "is none that a reply can be held to"),
    ],
)
def test_what_is_no_constraint_is_refused_at_the_door_in_one_line(model, constraint, sentence):
    engine = Engine(model)
    with pytest.raises(ConstraintError) as error:
        engine.add([5], params(constraint))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not engine.has_work


def test_a_constraint_needs_a_tokenizer_and_an_end(model):
    with pytest.raises(ValueError, match="this model has no tokenizer to hold a reply to a constraint with"):
        Engine(Model(model.network, model.config, None)).add([5], params(person()))
    endless = Model(model.network, replace(model.config, eos_id=None), model.tokenizer)
    with pytest.raises(ValueError, match="no token ends a reply of this model, so it can not be held to a constraint"):
        Engine(endless).add([5], params(person()))
    with pytest.raises(ValueError, match="ignore_eos=True leaves a constrained reply without an end"):
        params(person(), ignore_eos=True)
