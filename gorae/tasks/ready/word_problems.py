"""Stories with two or three numbers in them and a whole number as the answer, in Korean, Chinese and English."""

from random import Random

from gorae.tasks.rewards import reward_math as reward_math

# What is asked of the numbers a, b and c, and how the story is told; a is always the largest.
STORIES = (
    (
        "a - b + c",
        {
            "ko": "책장에 책이 {a}권 있었다. {b}권을 빌려주고 {c}권을 새로 샀다. 지금 책은 모두 몇 권인가?",
            "zh": "书架上有{a}本书。借出{b}本,又买来{c}本。现在一共有多少本书?",
            "en": "A shelf holds {a} books. {b} are lent out and {c} new ones are bought. How many books are there?",
        },
    ),
    (
        "b * c",
        {
            "ko": "상자 하나에 사과가 {b}개씩 들어 있다. 상자가 {c}개 있으면 사과는 모두 몇 개인가?",
            "zh": "每个箱子里有{b}个苹果,一共有{c}个箱子。一共有多少个苹果?",
            "en": "Each box holds {b} apples and there are {c} boxes. How many apples is that?",
        },
    ),
    (
        "a - b - c",
        {
            "ko": "버스에 {a}명이 타고 있었다. 첫 정류장에서 {b}명, 다음에서 {c}명이 내렸다. 남은 사람은 몇 명인가?",
            "zh": "公交车上有{a}人。第一站下了{b}人,第二站下了{c}人。车上还有多少人?",
            "en": "{a} people are on a bus. {b} get off at the first stop and {c} at the next. How many are left?",
        },
    ),
    (
        "a + b * c",
        {
            "ko": "저금통에 {a}원이 있다. 날마다 {b}원씩 {c}일 동안 넣으면 모두 얼마가 되는가?",
            "zh": "存钱罐里有{a}元。每天存入{b}元,存了{c}天。一共有多少元?",
            "en": "A jar holds {a} coins. {b} coins are added every day for {c} days. How many coins are in it then?",
        },
    ),
)


def rows(seed):
    random = Random(f"word problems/{seed}")
    while True:
        a, b, c = random.randrange(50, 200), random.randrange(2, 25), random.randrange(2, 25)
        expression, told = random.choice(STORIES)
        language = random.choice(list(told))
        numbers = {"a": a, "b": b, "c": c}
        answer = eval(expression, numbers.copy())
        yield {"prompt": told[language].format(**numbers), "answer": str(answer), "language": language}
