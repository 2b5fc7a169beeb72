"""Which language a text is written in, told by the script of its letters: Korean, Chinese or English.

Knows no words: other languages in Latin letters count as English, and Japanese kanji as Chinese. The letters of control
tokens are no language's.
"""

import re
from collections import Counter
from collections.abc import Iterator

_CONTROL = re.compile(r"</?think>|<｜[^｜]*｜>")
SCRIPTS = {
    "ko": (("ᄀ", "ᇿ"), ("ㄱ", "ㆎ"), ("가", "힣")),
    "zh": (("一", "鿿"), ("㐀", "䶿")),
    "en": (("A", "Z"), ("a", "z")),
}


def language_of(text: str) -> str | None:
    """The language of most letters; None for a text without letters, or mostly of another script."""
    found = Counter(map(script_of, letters(text)))
    return max(found, key=lambda language: found[language], default=None)


def share_of_language(text: str, language: str) -> float | None:
    """The share of letters in the script of `language`; None for a text without letters. ValueError for a stranger."""
    if language not in SCRIPTS:
        raise ValueError(f"language={language!r} is none of {', '.join(SCRIPTS)}")
    found = [script_of(letter) for letter in letters(text)]
    return found.count(language) / len(found) if found else None


def letters(text: str) -> Iterator[str]:
    return filter(str.isalpha, _CONTROL.sub("", text))


def script_of(letter: str) -> str | None:
    scripts = (name for name, ranges in SCRIPTS.items() if any(low <= letter <= high for low, high in ranges))
    return next(scripts, None)
