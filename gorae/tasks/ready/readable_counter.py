"""The counter, thought through in the language of the question: R1's rewards, the answer, the format, the language."""

from gorae.tasks.ready.counter import rows as rows
from gorae.tasks.rewards import reward_exact as reward_exact
from gorae.tasks.rewards import reward_format as reward_format
from gorae.tasks.rewards import reward_language as reward_language

reward_weights = {"reward_exact": 0.9, "reward_format": 0.1, "reward_language": 1.0}
