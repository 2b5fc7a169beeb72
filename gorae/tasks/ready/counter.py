"""The laptop recipe's own problems: a counter that shows only the last digit, in Korean, Chinese and English."""

from gorae.tasks.counter import draw_problems
from gorae.tasks.rewards import reward_exact as reward_exact


def rows(seed):
    for problem in draw_problems(f"task/{seed}"):
        yield {"prompt": problem.prompt, "answer": problem.answer, "language": problem.language}
