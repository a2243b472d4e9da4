"""What the language model is asked to write: lines of examples, then a line that it goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.models.language.words import words_of
from dpsynth.privacy.source import FloatArray

# Texts on subjects that no table is about, of different lengths and tones: (subject, words, text).
EXAMPLES = (
    ("library opening hours", ("sunday", "open"), "Are you open on Sunday mornings, or only during the week?"),
    (
        "lost luggage",
        ("suitcase", "belt"),
        "My suitcase never showed up on the belt and nobody at the desk could help me.",
    ),
    ("recipe advice", ("butter",), "can i use oil instead of butter for this"),
    ("noisy neighbours", ("upstairs", "night"), "The people upstairs move furniture every night. I can't sleep!"),
    ("train tickets", ("return", "cheaper"), "Is a return ticket cheaper if I buy it a week before?"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The prompt of one text column. subject: what the groups' names are.  description: of the texts, public; may be empty.

    examples: public ones, (name of a group, words, text); none = `EXAMPLES`.  bare: none at all, for a model that has learned the form.
    """

    subject: str
    description: str
    examples: tuple[tuple[str, tuple[str, ...], str], ...]
    bare: bool = False

    def prefix(self) -> str:
        about = self.description.strip().rstrip(".") or "Short texts that different people wrote"
        if self.bare:
            return f"{about}.\n\n"
        lines = [f"{about}. Each has a {self.subject} and some words that it uses.", ""]
        for name, words, text in self.examples or EXAMPLES:
            lines += [self.ask(name, words) + " " + text, ""]
        return "\n".join(lines) + "\n"

    def ask(self, name: str, words: Sequence[str]) -> str:
        """The lines that come before a text."""
        return f"{self.head(name)} {', '.join(words)}\nText:"

    def head(self, name: str) -> str:
        """What `ask` begins with for all texts of a group."""
        return (f"{self.subject.capitalize()}: {name}\n" if name else "") + "Words:"

    def after(self, name: str, example: str) -> str:
        """A public text on the same subject, and the words that it uses, to stand before `ask`."""
        words = sorted(dict.fromkeys(words_of(example)), key=len)[-2:]
        return f"{self.ask(name, words)} {example}\n\n" if example else ""


def some_words(weights: FloatArray, words: Sequence[str], rng: np.random.Generator, most: int) -> tuple[str, ...]:
    """Two to `most` different words, drawn by weight; fewer where there are not so many."""
    number = min(int(rng.integers(2, most + 1)), int(np.count_nonzero(weights)))
    if not number:
        return ()
    return tuple(words[i] for i in rng.choice(len(words), number, replace=False, p=weights / weights.sum()))
