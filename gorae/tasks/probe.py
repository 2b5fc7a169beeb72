"""Does a task's grader tell right from wrong? Replies whose reward is known are graded, before a run pleases it.

Nouns: a Script, a reply and the calls that lead to it; a Finding, what became of one kind of reply; an Examination, all
of them. Right answers must earn 1; a reply that says nothing, repeats the question, keeps to the form only or guesses
must earn 0; and the same reply always the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from gorae.tasks.grading import Environments, Graders, Verdict
from gorae.tasks.process import GraderError
from gorae.tasks.task import Reply, Row
from gorae.text import END_THINK, THINK, Message, ToolCall

SHAPING = ("format", "length", "language")  # a function so named rewards something else than being right
FORMS = ("{}", "\\boxed{{{}}}", "<answer>{}</answer>", "#### {}")  # in which graders look for an answer
MOST_LUCKY = 0.25  # the share of guesses that may be right


@dataclass(frozen=True)
class Script:
    """A reply's content, after a thought that gives nothing away or none, and the calls before it."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    thinks: bool = False

    @property
    def reply(self) -> Reply:
        thought = f"{THINK}\n...\n{END_THINK}\n\n" if self.thinks else ""
        return Reply(thought + self.content, self.content)

    @property
    def told(self) -> str:
        return " ".join([*(f"{call.name}({call.arguments})" for call in self.calls), self.content.strip()])


@dataclass(frozen=True)
class Finding:
    """How many replies of a kind were rewarded as they should be, and one of those that were not, in words."""

    kind: str
    wanted: str
    num_well: int
    num_all: int
    is_well: bool
    example: str


@dataclass(frozen=True)
class Examination:
    """All findings, and the form in which right answers were written: the first that the grader took most often."""

    form: str
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        return all(finding.is_well for finding in self.findings)


def examine(graders: Graders, *, num_rows: int = 32, seed: int = 0) -> Examination:
    """Grade replies to `num_rows` rows. Raises GraderError where the task draws no rows or knows no right answers."""
    rows = graders.rows(seed, 0, min(num_rows, graders.num_rows() or num_rows))
    answers = [_script_of(answer) for answer in graders.oracle(rows)]
    right = {form: [_in_form(form, answer) for answer in answers] for form in FORMS}
    given = {form: _grade(graders, rows, scripts) for form, scripts in right.items()}
    form = max(FORMS, key=lambda form: sum(_earns(1.0, verdict) for verdict in given[form]))
    random = Random(seed)
    wrong = {
        "empty": [Script("") for _ in rows],
        "echo": [_in_form(form, Script(asked(row))) for row in rows],
        "format only": [_in_form(form, Script("")) for _ in rows],
        "random": [_in_form(form, _another(answers, answer, random)) for answer in answers],
    }
    findings = [_finding("right", 1.0, right[form], given[form])]
    for kind, guesses in wrong.items():
        findings.append(_finding(kind, 0.0, guesses, _grade(graders, rows, guesses), lucky=kind == "random"))
    findings.append(_compare(right[form], given[form], _grade(graders, rows, right[form])))
    return Examination(form, tuple(findings))


def asked(row: Row) -> str:
    """The text of a prompt."""
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)


def _script_of(answer: Any) -> Script:
    """What an oracle wrote: a content, or calls and then a content. Raises GraderError for anything else."""
    listed = answer if isinstance(answer, list) and answer else [answer]
    calls: list[Any] = listed[:-1]
    if not isinstance(listed[-1], str) or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise GraderError(
            f"the oracle wrote {answer!r:.200}; it must write a text, or a list of calls, each "
            '{"name": ..., "arguments": {...}}, that ends in one'
        )
    arguments = [json.dumps(call.get("arguments", {}), ensure_ascii=False) for call in calls]
    named = enumerate(zip(calls, arguments, strict=True))
    return Script(listed[-1], tuple(ToolCall(f"call_{n}", call["name"], given) for n, (call, given) in named))


def _in_form(form: str, script: Script) -> Script:
    return replace(script, content=form.format(script.content), thinks=True)


def _grade(graders: Graders, rows: Sequence[Row], scripts: Sequence[Script]) -> list[Verdict]:
    replies = [script.reply for script in scripts]
    if graders.tools() is not None:
        replies = _played(Environments(graders, rows, num_samples=1), scripts)
    return [verdict for (verdict,) in graders.grade(rows, [[reply] for reply in replies])]


def _played(world: Environments, scripts: Sequence[Script]) -> list[Reply]:
    """The reply of each script, behind an episode in which its calls were made, one a turn."""
    turns: list[list[Message]] = [[] for _ in scripts]
    failed = {number: one.error for number, one in enumerate(world.act([(n, []) for n in range(len(scripts))]))}
    for step in range(max(len(script.calls) for script in scripts)):
        calls = {n: script.calls[step] for n, script in enumerate(scripts) if script.calls[step:] and not failed[n]}
        for number, call in calls.items():
            turns[number].append(Message("assistant", "", tool_calls=(call,)))
        for (number, call), answer in zip(calls.items(), world.act([(n, turns[n]) for n in calls]), strict=True):
            failed[number] = answer.error
            turns[number] += [Message("tool", text, tool_call_id=call.id) for text in answer.texts]
    return [
        replace(script.reply, scene=world.scene(n, [*turns[n], Message("assistant", script.content)]), error=failed[n])
        for n, script in enumerate(scripts)
    ]


def _earns(wanted: float, verdict: Verdict) -> bool:
    judged = [reward for name, reward in verdict.parts.items() if not any(word in name for word in SHAPING)]
    return verdict.error is None and bool(judged) and all(reward in (wanted, None) for reward in judged)


def earns_full_marks(verdict: Verdict) -> bool:
    """Whether a reply is right: every function that judges it, of those that apply, gave 1 or more.

    Where all functions reward something else than being right, all of them judge.
    """
    given = {name: reward for name, reward in verdict.parts.items() if reward is not None}
    judged = [reward for name, reward in given.items() if not any(word in name for word in SHAPING)]
    return verdict.error is None and bool(given) and all(reward >= 1 for reward in judged or given.values())


def _finding(
    kind: str, wanted: float, scripts: Sequence[Script], verdicts: Sequence[Verdict], *, lucky: bool = False
) -> Finding:
    wrong = [(script, one) for script, one in zip(scripts, verdicts, strict=True) if not _earns(wanted, one)]
    allowed = MOST_LUCKY * len(scripts) if lucky and not any(one.error for _, one in wrong) else 0
    example = _told(*wrong[0]) if wrong else ""
    num_well = len(scripts) - len(wrong)
    return Finding(kind, f"{wanted:.0f}", num_well, len(scripts), len(wrong) <= allowed, example)


def _compare(scripts: Sequence[Script], first: Sequence[Verdict], again: Sequence[Verdict]) -> Finding:
    changed = [(script, two) for script, one, two in zip(scripts, first, again, strict=True) if one != two]
    example = f"the second time {_told(*changed[0])}" if changed else ""
    num_well = len(scripts) - len(changed)
    return Finding("right again", "the same", num_well, len(scripts), not changed, example)


def _told(script: Script, verdict: Verdict) -> str:
    given = [f"{name} {reward:g}" for name, reward in verdict.parts.items() if reward is not None]
    return f"{script.told!r:.60}: {verdict.error or ', '.join(given) or 'nothing'}"


def _another(answers: Sequence[Script], answer: Script, random: Random) -> Script:
    """The right answer to some other row; where all are alike, a number."""
    others = sorted({other for other in answers if other.told != answer.told}, key=lambda other: other.told)
    return random.choice(others) if others else Script(str(random.randrange(10**6, 10**7)))
