"""Sums, differences, products and brackets of small whole numbers, asked in Korean, Chinese and English."""

from random import Random

from gorae.tasks.rewards import reward_exact as reward_exact  # reward_math would take an echo of the sum for its value

ASKED = {"ko": "{} 을(를) 계산하라.", "zh": "计算 {}。", "en": "Compute {}."}
FORMS = ("{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} + {b} * {c}", "({a} - {b}) * {c}", "{a} * {b} - {c}")


def rows(seed):
    random = Random(f"arithmetic/{seed}")
    while True:
        a, b, c = (random.randrange(2, 100) for _ in "abc")
        expression = random.choice(FORMS).format(a=a, b=b, c=c)
        language = random.choice(list(ASKED))
        yield {"prompt": ASKED[language].format(expression), "answer": str(eval(expression)), "language": language}
