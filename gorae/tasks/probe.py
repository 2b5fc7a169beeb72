"""Does a task's grader tell right from wrong? Replies whose reward is known are graded, before a run pleases it.

Nouns: a Finding, what became of one kind of reply; an Examination, all of them. Right answers must earn 1; a reply that
says nothing, repeats the question, keeps to the form only or guesses must earn 0; and the same reply always the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from gorae.tasks.grading import Graders, Verdict
from gorae.tasks.task import Reply, Row
from gorae.text import END_THINK, THINK

SHAPING = ("format", "length", "language")  # a function so named rewards something else than being right
FORMS = ("{}", "\\boxed{{{}}}", "<answer>{}</answer>", "#### {}")  # in which graders look for an answer
MOST_LUCKY = 0.25  # the share of guesses that may be right


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
    answers = graders.oracle(rows)
    right = {form: _grade(graders, rows, [written(form, answer) for answer in answers]) for form in FORMS}
    form = max(FORMS, key=lambda form: sum(_earns(1.0, verdict) for verdict in right[form]))
    random = Random(seed)
    wrong = {
        "empty": [Reply("", "") for _ in rows],
        "echo": [written(form, asked(row)) for row in rows],
        "format only": [written(form, "") for _ in rows],
        "random": [written(form, _another(answers, answer, random)) for answer in answers],
    }
    replies = [written(form, answer) for answer in answers]
    findings = [_finding("right", 1.0, replies, right[form])]
    for kind, guesses in wrong.items():
        findings.append(_finding(kind, 0.0, guesses, _grade(graders, rows, guesses), lucky=kind == "random"))
    findings.append(_compare(replies, right[form], _grade(graders, rows, replies)))
    return Examination(form, tuple(findings))


def written(form: str, answer: str) -> Reply:
    """A reply with a thought that gives nothing away."""
    content = form.format(answer)
    return Reply(f"{THINK}\n...\n{END_THINK}\n\n{content}", content)


def asked(row: Row) -> str:
    """The text of a prompt."""
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)


def _grade(graders: Graders, rows: Sequence[Row], replies: Sequence[Reply]) -> list[Verdict]:
    return [verdict for (verdict,) in graders.grade(rows, [[reply] for reply in replies])]


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
    kind: str, wanted: float, replies: Sequence[Reply], verdicts: Sequence[Verdict], *, lucky: bool = False
) -> Finding:
    wrong = [(reply, one) for reply, one in zip(replies, verdicts, strict=True) if not _earns(wanted, one)]
    allowed = MOST_LUCKY * len(replies) if lucky and not any(one.error for _, one in wrong) else 0
    example = _told(*wrong[0]) if wrong else ""
    num_well = len(replies) - len(wrong)
    return Finding(kind, f"{wanted:.0f}", num_well, len(replies), len(wrong) <= allowed, example)


def _compare(replies: Sequence[Reply], first: Sequence[Verdict], again: Sequence[Verdict]) -> Finding:
    changed = [(reply, two) for reply, one, two in zip(replies, first, again, strict=True) if one != two]
    example = f"the second time {_told(*changed[0])}" if changed else ""
    num_well = len(replies) - len(changed)
    return Finding("right again", "the same", num_well, len(replies), not changed, example)


def _told(reply: Reply, verdict: Verdict) -> str:
    given = [f"{name} {reward:g}" for name, reward in verdict.parts.items() if reward is not None]
    return f"{reply.content!r:.60}: {verdict.error or ', '.join(given) or 'nothing'}"


def _another(answers: Sequence[str], answer: str, random: Random) -> str:
    """The right answer to some other row; where all are alike, a number."""
    others = sorted({other for other in answers if other.strip() != answer.strip()})
    return random.choice(others) if others else str(random.randrange(10**6, 10**7))
