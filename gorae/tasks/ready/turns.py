"""A single turn of the counter, which needs no thought: what is asked for is the digit, at once."""

from random import Random

from gorae.tasks.counter import LANGUAGES, turn
from gorae.tasks.rewards import reward_exact as reward_exact

ASKED = {"ko": "일의 자리만: {}", "zh": "只写个位: {}", "en": "Only the last digit: {}"}


def rows(seed):
    random = Random(f"turns/{seed}")
    while True:
        language = random.choice(LANGUAGES)
        question, answer = turn(random)
        yield {"prompt": ASKED[language].format(question), "answer": answer, "language": language}


def reward_length(completion_ids):
    """Up to half a point for answering without thinking: replies of four tokens lose nothing."""
    return [-0.5 * min(1.0, max(0, len(ids) - 4) / 16) for ids in completion_ids]
