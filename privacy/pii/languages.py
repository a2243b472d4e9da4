"""Whether a text is in a language that the models read, told by its script and its commonest words.

No model: spaCy ships lists of the commonest ("stop") words of its languages. A text counts as foreign only where that is evident,
for a run stops on it: a detector that does not read a language would find nothing and say that all is well.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from functools import lru_cache

from dpsynth.privacy.pii.rampart import LANGUAGES

# Languages in the Latin script that are told apart from the ones that are read.
OTHERS = {
    "da": "Danish", "sv": "Swedish", "nb": "Norwegian", "fi": "Finnish", "pl": "Polish", "cs": "Czech", "hu": "Hungarian",
    "ro": "Romanian", "tr": "Turkish", "hr": "Croatian", "sk": "Slovak", "sl": "Slovenian", "lt": "Lithuanian",
    "et": "Estonian", "id": "Indonesian", "vi": "Vietnamese", "ca": "Catalan", "sq": "Albanian", "is": "Icelandic", "tl": "Tagalog",
}  # fmt: skip
# So many of a text's words must be common ones of another language, and twice as many as of any that is read.
MIN_HITS, MIN_SHARE, MIN_LETTERS = 4, 0.2, 3
# Not the letters of codes.
_WORD = re.compile(r"(?<![\w.-])[^\W\d_]+(?![\w-])")


def foreign(text: str) -> str | None:
    """The language or script of a text that the models do not read; None where they do or where it cannot be told."""
    if text.isascii():
        return _other_language(text)
    letters = [c for c in text if c.isalpha()]
    strange = [
        c for c in letters if ord(c) > 0x24F and not 0x1E00 <= ord(c) <= 0x1EFF and not 0xFB00 <= ord(c) <= 0xFF5A
    ]
    strange = [c for c in strange if unicodedata.category(c) != "Lm"]
    if len(strange) >= MIN_LETTERS and 2 * len(strange) > len(letters):
        return unicodedata.name(strange[0], "UNKNOWN").split()[0].title() + " script"
    return _other_language(text)


def _other_language(text: str) -> str | None:
    words = {w.lower() for w in _WORD.findall(text)}
    if len(words) < 2 * MIN_HITS:
        return None
    best: dict[str, int] = {}
    for word in words:
        for language in _languages_of().get(word, ()):
            best[language] = best.get(language, 0) + 1
    read = max((best.get(code, 0) for code in LANGUAGES), default=0)
    other = max(OTHERS, key=lambda code: best.get(code, 0))
    hits = best.get(other, 0)
    evident = hits >= MIN_HITS and hits >= MIN_SHARE * len(words) and hits > 2 * read
    return OTHERS[other] if evident else None


@lru_cache(maxsize=1)
def _languages_of() -> dict[str, tuple[str, ...]]:
    """Common word -> languages it is common in."""
    out: dict[str, tuple[str, ...]] = {}
    for code in (*LANGUAGES, *OTHERS):
        words = importlib.import_module(f"spacy.lang.{code}.stop_words").STOP_WORDS
        for word in words:
            out[word.lower()] = (*out.get(word.lower(), ()), code)
    return out
