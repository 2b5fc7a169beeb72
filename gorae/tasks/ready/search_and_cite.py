"""Facts about towns that do not exist, to be searched for and cited, in Korean, Chinese and English."""

import re
from itertools import count, product
from random import Random

from gorae.tasks.library import Index, Library

SYLLABLES = {
    "ko": ("누", "벼", "솔", "재", "두", "미", "루", "한", "별", "온"),
    "zh": ("青", "石", "云", "白", "松", "柳", "溪", "岭", "霜", "雁"),
    "en": ("Vel", "dor", "mins", "tasco", "lun", "bri", "selk", "ona", "wick", "rath"),
}
ENDINGS = {"ko": "골", "zh": "镇", "en": ""}
# What is asked of a town, and how a document tells it; the numbers are drawn from the range.
FACTS = (
    (
        range(21, 100),
        {
            "ko": ("{}의 탑은 높이가 몇 미터인가?", "{}의 오래된 탑은 높이가 {} 미터이다."),
            "zh": ("{}的塔高多少米?", "{}的古塔高{}米。"),
            "en": ("How many metres high is the tower of {}?", "The old tower of {} is {} metres high."),
        },
    ),
    (
        range(1201, 1900),
        {
            "ko": ("{}의 장터는 어느 해에 처음 열렸는가?", "{}의 장터는 {} 년에 처음 열렸다."),
            "zh": ("{}的集市是哪一年开始的?", "{}的集市始于{}年。"),
            "en": ("In which year did the market of {} begin?", "The market of {} began in the year {}."),
        },
    ),
    (
        range(101, 900),
        {
            "ko": ("{}의 종은 무게가 몇 킬로그램인가?", "{}의 청동 종은 무게가 {} 킬로그램이다."),
            "zh": ("{}的钟重多少公斤?", "{}的铜钟重{}公斤。"),
            "en": ("How many kilograms does the bell of {} weigh?", "The bronze bell of {} weighs {} kilograms."),
        },
    ),
)
ASKED = {
    "ko": " 문서를 검색하고, 숫자와 그것이 적힌 문서를 이렇게 답하라: 7 [d0]",
    "zh": " 请搜索文档,用数字和写有它的文档作答,例如:7 [d0]",
    "en": " Search the documents, and answer with the number and the document that says so, as in: 7 [d0]",
}
NUM_TOWNS = 40  # a language


def write():
    """The documents by id, and a row for each."""
    random, numbers = Random("search and cite"), count(1)
    documents, rows = {}, []
    for language, syllables in SYLLABLES.items():
        names = ["".join(pair) + ENDINGS[language] for pair in product(syllables, repeat=2) if pair[0] != pair[1]]
        for name, (values, told) in product(random.sample(names, NUM_TOWNS), FACTS):
            name, source, answer = name.capitalize(), f"d{next(numbers)}", str(random.choice(values))
            question, statement = told[language]
            documents[source] = statement.format(name, answer)
            prompt = question.format(name) + ASKED[language]
            rows.append({"prompt": prompt, "question": question.format(name), "answer": answer, "source": source})
            rows[-1]["language"] = language
    return documents, rows


documents, rows = write()
index = Index(documents)


def environment_factory():
    return Library(documents, index)


def oracle(row):
    return [{"name": "search", "arguments": {"query": row["question"]}}, f"{row['answer']} [{row['source']}]"]


def reward(contents, environments, answer, source):
    """1 for the right number and no other, and the document that says so and no other, which a search has shown."""
    return [float(is_cited(*one)) for one in zip(contents, environments, answer, source, strict=True)]


def is_cited(content, environment, answer, source):
    cited = re.findall(r"\[(d\d+)\]", content or "")
    said = re.findall(r"\d+", re.sub(r"\[d\d+\]", "", content or ""))
    return said == [answer] and cited == [source] and source in environment.found
