"""A text as detectors should see it, with a map back to the text as it stands.

Identifiers hide behind encodings: `jane&#64;site.org`, `jane%40site.org`, a zero-width space inside a card number, full-width or
Arabic digits, a Cyrillic letter in a Latin name. The *view* undoes these; each of its characters remembers which characters of
the original it came from, so that a span found in the view can be cut out of the original.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from urllib.parse import unquote

# Encodings that wrap one or several characters. Each is undone where undoing it changes something, at most twice over
# ("&amp;#64;", "%2540").
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,31});")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}")
_DEPTH = 2

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58\ufe63\uff0d\u30fc\u00af"
_FOLDED = {ord(c): "-" for c in _DASHES} | {
    0x2018: "'", 0x2019: "'", 0x02BC: "'", 0x201C: '"', 0x201D: '"', 0x2024: ".", 0x3002: ".", 0x2044: "/", 0x2215: "/",
    0x2502: "|", 0x0085: " ", 0x2028: "\n", 0x2029: "\n",
}  # fmt: skip
# Letters of other scripts that look like Latin ones; folded only in words that also hold ASCII letters or digits, so that
# a Russian or Greek word stays one.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝзАВЕКМНОРСТУХІЈЅοαρυνικΑΒΕΖΗΙΚΜΝΟΡΤΥΧɡɩ",
    "aeopcyxijshdqw3ABEKMHOPCTYXIJSoapuvikABEZHIKMNOPTYXgi",
)
_WORD = re.compile(r"[^\s@.,;:/()<>\[\]{}\"]+")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """text: what detectors see.  starts, ends: where each of its characters lies in the original (None: the same place)."""

    text: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the original that stand behind characters [start, end) of the view."""
        if self.starts is None or self.ends is None or start >= end:
            return start, end
        return self.starts[start], self.ends[end - 1]


def view(text: str) -> View:
    """The text with encodings, invisible characters, compatibility forms and look-alikes undone."""
    if text.isascii() and not any(mark in text for mark in "&%\\\t\r\x0b\x0c\x00"):
        return View(text)
    chars = [(c, i, i + 1) for i, c in enumerate(text)]
    for _ in range(_DEPTH):
        before = len(chars)
        for pattern, decode in ((_ENTITY, html.unescape), (_PERCENT, _percent), (_ESCAPE, _escape)):
            chars = _decoded(chars, pattern, decode)
        if len(chars) == before:
            break
    chars = _folded(chars)
    chars = _lookalikes(chars)
    return View("".join(c for c, _, _ in chars), [s for _, s, _ in chars], [e for _, _, e in chars])


_Char = tuple[str, int, int]


def _decoded(chars: list[_Char], pattern: re.Pattern[str], decode: Callable[[str], str]) -> list[_Char]:
    text = "".join(c for c, _, _ in chars)
    out: list[_Char] = []
    at = 0
    for match in pattern.finditer(text):
        plain = decode(match[0])
        if plain == match[0]:
            continue
        out += chars[at : match.start()]
        first, last = chars[match.start()][1], chars[match.end() - 1][2]
        out += [(c, first, last) for c in plain]
        at = match.end()
    return out + chars[at:] if at else chars


def _percent(token: str) -> str:
    """Percent-encoded bytes as text; as they are where they are no UTF-8 or stand for control characters ("100%25")."""
    try:
        plain = unquote(token, errors="strict")
    except UnicodeDecodeError:
        return token
    return plain if plain.isprintable() else token


def _escape(token: str) -> str:
    plain = chr(int(token[2:], 16))
    return plain if plain.isprintable() else token


def _folded(chars: list[_Char]) -> list[_Char]:
    """Compatibility forms, one cluster (a character and its combining marks) at a time, so that places stay known."""
    out: list[_Char] = []
    at = 0
    while at < len(chars):
        c, start, end = chars[at]
        at += 1
        if c.isascii() and (at == len(chars) or chars[at][0].isascii()):
            out.append((" " if c in "\t\r\x0b\x0c\x00" else c, start, end))
            continue
        while at < len(chars) and unicodedata.combining(chars[at][0]):
            c, end = c + chars[at][0], chars[at][2]
            at += 1
        out += [(plain, start, end) for plain in _fold(c)]
    return out


@lru_cache(maxsize=65536)
def _fold(cluster: str) -> str:
    """One cluster as plain characters: NFKC, ASCII digits, one kind of dash, of quote and of space; nothing for invisible ones."""
    out = []
    for c in unicodedata.normalize("NFKC", cluster.translate(_FOLDED)).translate(_FOLDED):
        category = unicodedata.category(c)
        if category == "Cf" or 0xFE00 <= ord(c) <= 0xFE0F or c == "\u034f":
            continue  # soft hyphens, zero-width characters, direction marks, variation selectors
        if category == "Nd":
            out.append(str(unicodedata.digit(c)))
        elif category == "Zs" or c in "\t\r\x0b\x0c\x00":
            out.append(" ")
        else:
            out.append(c)
    return "".join(out)


def _lookalikes(chars: list[_Char]) -> list[_Char]:
    text = "".join(c for c, _, _ in chars)
    if text.isascii():
        return chars
    out = list(chars)
    for match in _WORD.finditer(text):
        word = match[0]
        if not word.isascii() and any(c.isascii() and c.isalnum() for c in word):
            plain = word.translate(_LOOKALIKES)
            for i, c in enumerate(plain, match.start()):
                out[i] = (c, out[i][1], out[i][2])
    return out


def to_ascii(text: str) -> str:
    """Letters without their accents; what has no ASCII form is left out."""
    return unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()


def pieces(text: str, most: int, overlap: int) -> list[tuple[int, int]]:
    """[start, end) of overlapping pieces of at most `most` characters, cut at white space where there is some."""
    if len(text) <= most:
        return [(0, len(text))]
    cuts = [0]
    while len(text) - cuts[-1] > most:
        reach = cuts[-1] + most - overlap
        space = text.rfind(" ", reach - overlap, reach)
        cuts.append(space + 1 if space > 0 else reach)
    cuts.append(len(text))
    return [(a, min(b + overlap, len(text))) for a, b in pairwise(cuts)]
