"""Which language a text is written in, told by the script of its letters: Korean, Chinese or English.

Knows no words: other languages in Latin letters count as English, and Japanese kanji as Chinese.
"""

from collections import Counter

SCRIPTS = {
    "ko": (("ᄀ", "ᇿ"), ("ㄱ", "ㆎ"), ("가", "힣")),
    "zh": (("一", "鿿"), ("㐀", "䶿")),
    "en": (("A", "Z"), ("a", "z")),
}


def language_of(text: str) -> str | None:
    """The language of most letters; None for a text without letters, or mostly of another script."""
    found = Counter(map(script_of, filter(str.isalpha, text)))
    return max(found, key=lambda language: found[language], default=None)


def share_of_language(text: str, language: str) -> float | None:
    """The share of letters in the script of `language`; None for a text without letters. ValueError for a stranger."""
    if language not in SCRIPTS:
        raise ValueError(f"language={language!r} is none of {', '.join(SCRIPTS)}")
    found = [script_of(character) for character in text if character.isalpha()]
    return found.count(language) / len(found) if found else None


def script_of(letter: str) -> str | None:
    scripts = (name for name, ranges in SCRIPTS.items() if any(low <= letter <= high for low, high in ranges))
    return next(scripts, None)
