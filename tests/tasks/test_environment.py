"""Environments: tools from signatures and docstrings, episodes in processes, errors told apart from failures."""

import re

import pytest

from gorae.tasks import Environments, Reply, examine
from gorae.tasks.environment import tools_of
from gorae.text import Message, ToolCall

SAFE = """
    import os, sys, time
    from random import Random

    rows = [{"prompt": f"Open safe {number}.", "answer": str(number), "secret": number} for number in range(4)]

    class Safe:
        def reset(self, secret):
            self.secret, self.tries, self.is_open = secret, 0, False
            return f" It is number {secret}."

        def turn(self, code: int) -> str:
            '''Try a code.

            Args:
                code: a whole number
            '''
            self.tries += 1
            if code == 7: os._exit(3)
            if code == 8: time.sleep(1000)
            if code == 9: sys.exit("enough")
            if code < 0: raise ValueError("no such code")
            self.is_open = code == self.secret
            return {"open": self.is_open, "tries": self.tries}

        def get_reward(self):
            return float(self.is_open)

    environment_factory = Safe
"""


class Library:
    def reset(self):
        pass

    def get_reward(self):
        return 0.0

    async def search(self, query: str, most: int = 3, kinds: list[str] | None = None) -> list[str]:
        """Search the library.

        All of it.

        Args:
            query (str): what to look for,
                in any language
            most: how many at most
        Returns:
            titles
        """
        return [query, str(most), str(kinds)]

    def _index(self):
        return 0


def called(*arguments, name="turn"):
    """Turns of a model that made these calls, one a turn and not one of them answered."""
    texts = [given if isinstance(given, str) else f'{{"code": {given}}}' for given in arguments]
    return [Message("assistant", "", tool_calls=(ToolCall("call_0", name, text),)) for text in texts]


def test_public_methods_are_tools_by_their_signatures_and_docstrings():
    (tool,) = tools_of(Library())
    assert (tool.name, tool.description) == ("search", "Search the library.\n\nAll of it.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "what to look for, in any language"},
            "most": {"type": "integer", "description": "how many at most"},
            "kinds": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": ["query"],
    }


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("def look(self, at: str): pass", "the tool look has no docstring; say in one what it does, or begin its name"),
        ("def look(self, at):\n            'Look.'", "the parameter at of the tool look has no type"),
        ("def look(self, *at: str):\n            'Look.'", r"the parameter \*at: str of the tool look has no type"),
        (
            "def look(self, at: set):\n            'Look.'",
            "the parameter at: set of the tool look has a type that JSON",
        ),
    ],
)
def test_a_method_that_can_not_be_told_to_a_model_is_refused(graders, method, complaint):
    with pytest.raises(ValueError, match=complaint):
        graders(f"""
    rows = [{{"prompt": "p"}}]
    class environment_factory:
        def reset(self): pass
        def get_reward(self): return 0.0
        {method}
""")


def test_an_episode_lives_in_a_process_from_its_beginning_to_its_reward(graders):
    for num_processes in (1, 3):
        one = graders(SAFE, num_processes=num_processes)
        rows = one.rows(0, 0, 4)
        world = Environments(one, rows, 2)
        numbers = range(8)
        begun = world.act([(number, []) for number in numbers])
        assert [answer.texts for answer in begun] == [[f" It is number {rows[n // 2]['secret']}."] for n in numbers]
        turns = {number: called(1) for number in numbers}
        first = world.act(list(turns.items()))
        is_one = [row["secret"] == 1 for row in rows for _ in range(2)]
        assert [answer.texts for answer in first] == [[str({"open": found, "tries": 1})] for found in is_one]
        turns |= {number: turns[number] + called(2) for number in numbers if number % 2}
        again = world.act([(number, turns[number]) for number in numbers if number % 2])
        assert {answer.texts[0][-2] for answer in again} == {"2"}, "the calls of earlier turns are not made again"
        ended = [Reply("", "", scene=world.scene(number, turns[number])) for number in numbers]
        verdicts = one.grade(rows, [ended[first : first + 2] for first in range(0, 8, 2)])
        expected = {1: [1.0, 0.0], 2: [0.0, 1.0]}
        assert [[one.reward for one in group] for group in verdicts] == [
            expected.get(row["secret"], [0.0, 0.0]) for row in rows
        ]


@pytest.mark.parametrize(
    ("arguments", "name", "told"),
    [
        ('{"code": -1}', "turn", "{'error': 'no such code'}"),
        ('{"code": 1', "turn", "{'error': \"Expecting"),
        ("[1]", "turn", "{'error': 'The arguments must be a JSON object.'}"),
        ('{"digit": 1}', "turn", "{'error': \"Safe.turn() got an unexpected keyword argument 'digit'\"}"),
        ("{}", "get_reward", "{'error': 'Tool get_reward not found; there are turn.'}"),
        ("{}", "__init__", "{'error': 'Tool __init__ not found; there are turn.'}"),
    ],
)
def test_the_error_of_a_call_is_what_the_model_sees_of_it(graders, arguments, name, told):
    one = graders(SAFE)
    world = Environments(one, one.rows(0, 0, 1), 1)
    (answer,) = world.act([(0, called(arguments, name=name))])
    assert answer.error is None
    assert answer.texts[1].startswith(told)


@pytest.mark.parametrize(
    ("code", "told"),
    [(7, "its process ended with status 3"), (8, "it took too long and was ended"), (9, "SystemExit: enough")],
)
def test_an_environment_that_ends_its_process_is_an_error_of_its_own_episode_and_no_others(graders, code, told):
    one = graders(SAFE, seconds=0.7 if code == 8 else 30.0)
    rows = one.rows(0, 0, 2)
    world = Environments(one, rows, 1)
    world.act([(0, []), (1, [])])
    other, failed = world.act([(0, called(rows[0]["secret"])), (1, called(1, code))])
    assert other.texts == [str({"open": True, "tries": 1})]
    assert re.search(told, failed.error or "")
    done = called(rows[0]["secret"])
    replies = [[Reply("", "", scene=world.scene(0, done))], [Reply("", "", error=failed.error)]]
    (good,), (bad,) = one.grade(rows, replies)
    assert (good.reward, bad.reward, bad.error) == (1.0, None, failed.error)


ODD = SAFE.replace('f" It is number {secret}."', '" It is " + str(os.getpid())')


@pytest.mark.parametrize("source", [SAFE, ODD], ids=["the same", "another"])
def test_an_environment_whose_process_ended_is_begun_anew_and_must_say_the_same(graders, source):
    one = graders(source)
    rows = one.rows(0, 0, 2)
    world = Environments(one, rows, 1)
    world.act([(0, []), (1, [])])
    world.act([(0, called(5)), (1, called(7))])
    (answer,) = world.act([(0, called(5, 6))])
    if source == SAFE:
        assert answer.texts == [str({"open": False, "tries": 2})]
    else:
        assert re.search(r"begun anew said ' It is \d+' where it had said ' It is \d+'", answer.error or "")


def test_calls_behind_which_an_episode_was_ended_are_not_made(graders):
    one = graders(SAFE)
    rows = one.rows(0, 0, 1)
    world = Environments(one, rows, 1)
    world.act([(0, [])])
    (verdict,) = one.grade(rows, [[Reply("", None, scene=world.scene(0, called(rows[0]["secret"])))]])[0]
    assert verdict.reward == 0.0


def test_reward_functions_see_environments_and_the_whole_conversation(graders):
    one = graders(
        SAFE.replace("get_reward", "_reward")
        + """
    def reward(completions, environments, contents):
        assert contents == ["done"]
        first, result, last = completions[0]
        assert first["tool_calls"][0]["function"] == {"name": "turn", "arguments": {"code": 3}}
        assert (result["role"], last) == ("tool", {"role": "assistant", "content": "done", "reasoning_content": "hm"})
        return [environment.tries / 10 for environment in environments]
"""
    )
    rows = one.rows(0, 0, 1)
    world = Environments(one, rows, 1)
    turns = called(3)
    texts = world.act([(0, turns)])[0].texts
    turns += [Message("tool", texts[1], tool_call_id="call_0"), Message("assistant", "done", "hm")]
    ((verdict,),) = one.grade(rows, [[Reply("done", "done", scene=world.scene(0, turns))]])
    assert verdict.error is None
    assert verdict.reward == 0.1


ORACLE = """
    def oracle(row):
        return [{"name": "turn", "arguments": {"code": row["secret"]}}, "It is open."]
"""


def test_an_oracle_may_make_calls_and_a_sound_environment_passes(graders):
    found = examine(graders(SAFE + ORACLE))
    assert found.is_sound, found
    assert not examine(graders(SAFE)).is_sound, "the answer alone opens nothing"


def test_an_environment_that_rewards_any_call_is_caught(graders):
    found = examine(graders((SAFE + ORACLE).replace("code == self.secret", "True")))
    assert [finding.kind for finding in found.findings if not finding.is_well] == ["random"]
