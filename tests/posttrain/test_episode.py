"""Episodes: what is sampled goes back as it was, whatever it says; each ends for a reason that has a name."""

from dataclasses import replace

import pytest
import tokenizers
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine, Output, SamplingParams
from gorae.model import Network
from gorae.posttrain import (
    Episode,
    GrpoSettings,
    World,
    episode,
    policy_batch,
    policy_loss,
    rollouts_of,
    sample_episodes,
    sample_groups,
)
from gorae.tasks import Answer
from gorae.text import EOS, TOOL_TOKENS, V3_1, Message, Reply, Tokenizer, Tool, ToolCall
from gorae.train import policy_outputs

LOOK = Tool("look", "Look.", {"type": "object", "properties": {}})
ASK = [Message("user", "3 5?")]
CALL = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    library = Tokenizer.train(["look look 3 5 answer answer tool tools"] * 9, vocab_size=280)._library
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    return Tokenizer(tokenizers.Tokenizer.from_str(library.to_str()), chat_format=V3_1)


class ScriptedEngine:
    """Replies in the order of a script, of texts or ids; a reply that does not end in EOS was cut off."""

    def __init__(self, tokenizer, *script, max_positions=10_000):
        self.tokenizer, self.script, self.max_positions = tokenizer, list(script), max_positions
        self.prompts, self.params = [], []

    def generate(self, prompts, params):
        self.prompts += prompts
        self.params += params
        return [self.output(prompt) for prompt in prompts]

    def output(self, prompt):
        written = self.script.pop(0)
        ids = self.tokenizer.encode(written, parse_special=True) if isinstance(written, str) else written
        reason = "stop" if ids[-1] == self.tokenizer.eos_id else "length"
        return Output(ids, self.tokenizer.decode(ids), [-float(len(prompt))] * len(ids), reason, prompt)


class Room:
    """A world with one tool, whose results are given."""

    def __init__(self, *results, begins="", fails_at=None):
        self.results, self.begins, self.fails_at = list(results), begins, fails_at
        self.asked = []
        self.world = World([LOOK], self.act)

    def act(self, asked):
        self.asked.append([(number, len(turns)) for number, turns in asked])
        if len(self.asked) - 1 == self.fails_at:
            return [Answer(error="it broke") for _ in asked]
        begun = [Answer([self.begins]) for _, turns in asked if not turns]
        return begun or [Answer([self.results.pop(0) for _ in turns[-1].tool_calls]) for _, turns in asked]


def play(engine, room, *, max_turns=4, max_tokens=100, num_samples=1, **options) -> list[Episode]:
    params = SamplingParams(max_tokens=max_tokens)
    options |= {"num_samples": num_samples, "max_turns": max_turns, "params": params, "seed": 3}
    (group,) = sample_episodes(engine, [ASK], room.world, **options)
    return group


def test_what_was_sampled_goes_back_as_it_was_with_the_results_behind_it(tokenizer):
    begin, end = (tokenizer.encode(part, parse_special=True) for part in CALL.split("look"))
    spelt = [*begin, *(tokenizer.encode(letter)[0] for letter in "look"), *end, tokenizer.eos_id]
    assert spelt != tokenizer.encode(CALL + EOS, parse_special=True), "encoded again it would be shorter"
    engine, room = ScriptedEngine(tokenizer, spelt, "answer" + EOS), Room("8")
    (one,) = play(engine, room)
    first, second = engine.prompts
    results = tokenizer.encode_results(["8"])
    assert first == tokenizer.encode_chat(ASK, tools=[LOOK])
    assert second == first + spelt + results
    answer = tokenizer.encode("answer" + EOS, parse_special=True)
    assert (one.prompt_token_ids, one.token_ids) == (first, spelt + results + answer)
    assert one.is_sampled == [True] * len(spelt) + [False] * len(results) + [True] * len(answer)
    assert one.logprobs == [-float(len(first))] * len(spelt) + [-float(len(second))] * len(answer)
    assert (one.content, one.finish_reason) == ("answer", "stop")
    assert [turn.role for turn in one.turns] == ["assistant", "tool", "assistant"]
    assert [turn.content for turn in one.turns] == ["", "8", "answer"]
    (rollout,) = rollouts_of([[one]], [[1.0]])
    assert (rollout.is_sampled, rollout.num_sampled) == (one.is_sampled, len(one.logprobs))


def test_what_the_environment_says_in_the_beginning_is_asked_too(tokenizer):
    engine = ScriptedEngine(tokenizer, "answer" + EOS)
    play(engine, Room(begins=" Look around."))
    assert engine.prompts == [tokenizer.encode_chat([Message("user", "3 5? Look around.")], tools=[LOOK])]


def test_several_calls_in_a_reply_get_a_result_each(tokenizer):
    one_call = CALL.removeprefix(TOOL_TOKENS[0]).removesuffix(TOOL_TOKENS[1])
    engine = ScriptedEngine(tokenizer, CALL.replace(one_call, 2 * one_call) + EOS, "answer" + EOS)
    (one,) = play(engine, Room("8", "9"))
    assert [turn.content for turn in one.turns] == ["", "8", "9", "answer"]
    assert [turn.tool_call_id for turn in one.turns[1:3]] == ["call_0", "call_1"]


@pytest.mark.parametrize(
    ("script", "limits", "reason", "content"),
    [
        (["answer" + EOS], {}, "stop", "answer"),
        (["answer"], {}, "length", None),
        (["<think>answer" + EOS], {}, "stop", None),
        ([CALL + EOS, CALL + EOS, "answer" + EOS], {}, "stop", "answer"),
        ([CALL + EOS, CALL], {}, "length", None),
        ([CALL + EOS, CALL + EOS], {"max_turns": 2}, "turns", None),
        ([CALL + EOS], {"max_tokens": 8}, "length", None),
        ([CALL + EOS], {"max_positions": 30}, "length", None),
    ],
)
def test_an_episode_ends_for_a_reason_that_has_a_name(tokenizer, script, limits, reason, content):
    if "max_positions" in limits:
        limits = {"max_positions": len(tokenizer.encode_chat(ASK, tools=[LOOK])) + 12}
    engine = ScriptedEngine(tokenizer, *script, max_positions=limits.pop("max_positions", 10_000))
    room = Room(*"89")
    (one,) = play(engine, room, **limits)
    assert (one.finish_reason, one.content) == (reason, content)
    assert one.is_sampled[-1], "nothing is appended that no reply follows"
    assert len(one.is_sampled) == len(one.token_ids)
    assert sum(one.is_sampled) == len(one.logprobs)
    num_made = sum(turn.role == "tool" for turn in one.turns)
    assert num_made == 2 - len(room.results)
    assert sum(params.max_tokens for params in engine.params[:1]) == limits.get("max_tokens", 100)


def test_the_tokens_of_an_episode_are_bounded_together(tokenizer):
    engine = ScriptedEngine(tokenizer, CALL + EOS, CALL + EOS, "answer" + EOS)
    play(engine, Room("8", "9"), max_tokens=50)
    num_called = len(tokenizer.encode(CALL + EOS, parse_special=True))
    assert [params.max_tokens for params in engine.params] == [50, 50 - num_called, 50 - 2 * num_called]
    assert len({params.seed for params in engine.params}) == 3


def test_the_environment_that_fails_ends_its_episode_and_says_why(tokenizer):
    for fails_at, num_turns in ((0, 0), (1, 1)):
        (one,) = play(ScriptedEngine(tokenizer, CALL + EOS), Room(fails_at=fails_at))
        assert (one.finish_reason, one.error, one.content) == ("error", "it broke", None)
        assert len(one.turns) == num_turns


def test_episodes_of_a_step_are_played_at_once(tokenizer):
    engine = ScriptedEngine(tokenizer, CALL + EOS, "answer" + EOS, CALL + EOS, CALL + EOS, "3" + EOS, "5" + EOS)
    room = Room(*"789")
    group = play(engine, room, num_samples=3, first=2)
    assert room.asked == [[(6, 0), (7, 0), (8, 0)], [(6, 1), (8, 1)], [(6, 3)]]
    assert [one.content for one in group] == ["5", "answer", "3"]


def test_a_model_that_can_not_call_tools_is_refused(tokenizer):
    plain = ScriptedEngine(Tokenizer(tokenizer._library))
    with pytest.raises(ValueError, match="the model has the format gorae, without tool calls; take a model"):
        play(plain, Room())


@pytest.fixture
def caller(model, tokenizer, monkeypatch):
    """A model with random weights, and readers to which any reply that came to its end is a call."""
    config = replace(model.config, vocab_size=tokenizer.vocab_size, max_positions=1024, eos_id=tokenizer.eos_id)
    call = Reply(None, "", True, (ToolCall("call_0", "look", "{}"),))
    monkeypatch.setattr(episode, "parse_reply", lambda *_: call)
    monkeypatch.setattr(episode, "parse_after_results", lambda *_: call)
    return Model(Network(config, seed=1).eval(), config, tokenizer)


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("drawn", [{}, {"temperature": 0.7, "top_k": 90}], ids=["whole", "cut"])
def test_an_episode_of_several_turns_is_on_policy_to_the_last_bit(caller, tokenizer, prefix_cache, drawn):
    settings = GrpoSettings(num_prompts=2, num_samples=4, max_tokens=60, **drawn)
    params = replace(settings.sampling(routings=True), stop_token_ids=tuple(range(0, 280, 7)))
    engine = Engine(caller, prefix_cache=prefix_cache)
    room = Room(*["It is 35. " * 4] * 100)
    groups = sample_episodes(
        engine, [ASK, [Message("user", "look")]], room.world, num_samples=4, max_turns=3, params=params, seed=0
    )
    episodes = [one for group in groups for one in group]
    assert max(sum(turn.role == "tool" for turn in one.turns) for one in episodes) == 2
    rollouts = rollouts_of(groups, [[float(place) for place in range(4)]] * 2)
    batch = policy_batch(rollouts, settings, pad_id=tokenizer.pad_id)
    with torch.no_grad():
        now_N = policy_outputs(caller.network, batch, sampling=batch.sampling).log_probs_N
    assert torch.equal(now_N, batch.sampled_log_probs_N)
    figures = policy_loss(caller.network, batch, settings=settings).figures
    assert (figures["mismatch_kl"], figures["clip_ratio"]) == (0.0, 0.0)
    assert figures["routing_flips"] == 0.0
    assert batch.divisor == sum(sum(one.is_sampled) for one in episodes) < sum(len(one.token_ids) for one in episodes)


def test_the_first_turn_is_what_is_sampled_without_an_environment(caller, tokenizer):
    params = SamplingParams(max_tokens=9)
    options = {"num_samples": 3, "params": params, "seed": 5, "first": 2}
    episodes = sample_episodes(Engine(caller), [ASK], Room().world, max_turns=1, **options)
    groups = sample_groups(Engine(caller), [tokenizer.encode_chat(ASK, tools=[LOOK])], **options)
    assert [one.token_ids for one in episodes[0]] == [one.token_ids for one in groups[0]]
