"""Word problems about a counter that shows only the last digit, in Korean, Chinese and English.

Nouns: a Problem (steps, language, wording), its prompt, its worked solution, its answer. The arithmetic is the same in
every language; the words are not. Knows no tokenizer and no model.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

LANGUAGES = ("ko", "zh", "en")
LABELS = "①②③④⑤"

START = 1  # where 0 would make a first "times" idle
_FRAMES = {
    "ko": (
        "계수기는 일의 자리만 보여 주고 지금은 1이다. 아래 단계를 차례로 따르면 마지막에 어떤 숫자가 보일까?",
        "1에서 시작해 차례로 계산하고 일의 자리만 남겨라. 결과는?",
        "유나의 계수기는 한 자리 숫자만 보이고 1에 맞춰져 있다. 순서대로 하면 무엇이 보이는가?",
    ),
    "zh": (
        "计数器只显示个位数,现在是1。按下面的步骤依次计算,最后显示几?",
        "从1开始依次计算,每一步只保留个位。结果是几?",
        "小明的计数器只有一位数字,现在显示1。照着做完以后是几?",
    ),
    "en": (
        "A counter shows only the last digit, now 1. Follow the steps in order: which digit does it show at the end?",
        "Start with 1, do the steps in order and keep only the last digit. What is left?",
        "Mina has a counter with a single digit, now 1. What does she read after these steps?",
    ),
}
_WORDS = {
    "ko": {"+": "더하기", "-": "빼기", "*": "곱하기"},
    "zh": {"+": "加", "-": "减", "*": "乘"},
    "en": {"+": "plus", "-": "minus", "*": "times"},
}
_FULL_STOPS = {"ko": ".", "zh": "。", "en": "."}


@dataclass(frozen=True)
class Problem:
    """One word problem: operations (one of + - *, a digit) on a counter at `START`, each result kept modulo 10."""

    language: str
    steps: tuple[tuple[str, int], ...]
    prompt: str

    @property
    def answer(self) -> str:
        return str(self.partial_results()[-1])

    @property
    def fingerprint(self) -> str:
        """Names the arithmetic whatever the language and wording, so that a sealed item is sealed in all of them."""
        return "".join(f"{sign}{number}" for sign, number in self.steps)

    def partial_results(self) -> list[int]:
        results, value = [], START
        for sign, number in self.steps:
            value = apply(sign, value, number)
            results.append(value)
        return results

    def worked_solution(self, random: Random, *, mistake_rate: float = 0.0) -> tuple[str, str]:
        """Reasoning, a line for every step, and the answer it ends in.

        Each partial result is replaced by a random digit with probability `mistake_rate`; the mistake is carried on.
        """
        lines, value = [], START
        for label, (sign, number) in zip(LABELS, self.steps, strict=True):
            result = apply(sign, value, number) if random.random() >= mistake_rate else random.randrange(10)
            lines.append(f"{label}{value}{sign}{number}={result}")
            value = result
        return "\n".join(lines), str(value)

    def in_words(self, reasoning: str, random: Random, *, mixing: float) -> str:
        """A worked solution whose lines name their operations, in the problem's language or, `mixing` of them, any."""
        told = []
        for line, (sign, _) in zip(reasoning.splitlines(), self.steps, strict=True):
            language = random.choice(LANGUAGES) if random.random() < mixing else self.language
            told.append(f"{line[0]}{_WORDS[language][sign]} {line[1:]}")
        return "\n".join(told)


def apply(sign: str, value: int, number: int) -> int:
    """One turn of the counter: value sign number, modulo 10."""
    return {"+": value + number, "-": value - number, "*": value * number}[sign] % 10


def draw_problem(random: Random, *, language: str | None = None) -> Problem:
    """A problem drawn from `random`: language, wording and steps."""
    language = language or random.choice(LANGUAGES)
    steps = tuple((random.choice("+-*"), random.randrange(1, 10)) for _ in LABELS)
    words, full_stop = _WORDS[language], _FULL_STOPS[language]
    told = [f"{label}:{words[sign]} {number}{full_stop}" for label, (sign, number) in zip(LABELS, steps, strict=True)]
    return Problem(language, steps, "\n".join([random.choice(_FRAMES[language]), *told]))


def draw_problems(seed: str, *, sealed: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """Endless problems from a seed, none of whose arithmetic is in `sealed` (fingerprints)."""
    random = Random(seed)
    while True:
        problem = draw_problem(random)
        if problem.fingerprint not in sealed:
            yield problem


@dataclass(frozen=True)
class SealedItems:
    """Evaluation problems no training stage may see, in equal shares of the languages, and the hash that names them."""

    problems: tuple[Problem, ...]

    @staticmethod
    def draw(seed: str, count: int) -> "SealedItems":
        random = Random(f"sealed/{seed}")
        found: dict[str, Problem] = {}
        while len(found) < count:
            problem = draw_problem(random, language=LANGUAGES[len(found) % len(LANGUAGES)])
            found.setdefault(problem.fingerprint, problem)
        return SealedItems(tuple(found.values()))

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(problem.fingerprint for problem in self.problems)

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(problem.prompt for problem in self.problems).encode()).hexdigest()


def turn(random: Random) -> tuple[str, str]:
    """A single turn of the counter, as a schoolbook asks it: `7*8=` and `6`."""
    value, sign, number = random.randrange(10), random.choice("+-*"), random.randrange(1, 10)
    return f"{value}{sign}{number}=", str(apply(sign, value, number))


def drill(random: Random, *, num_lines: int = 16) -> str:
    """Lines of single turns, with their results."""
    return "\n".join("".join(turn(random)) for _ in range(num_lines))
