"""A public vocabulary, and texts as vectors of the words in it.

The vocabulary is what two public tokenizers hold as whole words: the base model's, which can be nudged towards a word by one token,
and the sentence embedder's. Both list their words about in the order of how frequent they are, which says which words of a text are
rare. Words that are in neither are not counted: a name that only one person has cannot come out, for it cannot go in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.privacy.pii import without_placeholders

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# The most frequent words say nothing of what a text is about.
STOP_WORDS = 100
# Whole numbers that stand for 1: so many steps to the weight of a word in a text that has all the words it may have.
STEPS = 60
# Words of a text that are counted, at most: its rarest.
WORDS_EACH = 6
_WORD = re.compile(r"[^\W\d_]{2,}")


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, without placeholders."""
    return _WORD.findall(without_placeholders(text).lower())


def public_vocabulary(base: Any, embedder: Any) -> tuple[str, ...]:
    """Words of two public tokenizers, the most frequent first, without the `STOP_WORDS` at the head."""
    ranks: dict[str, list[int]] = {}
    for words in (_base_words(base), embedder_words(embedder)):
        for place, word in enumerate(words):
            ranks.setdefault(word, []).append(place)
    order = sorted(ranks, key=lambda w: (sum(ranks[w]) / len(ranks[w]), w))
    return tuple(order[STOP_WORDS:])


def _base_words(tokenizer: Any) -> list[str]:
    """Tokens that begin a word and are one, in the tokenizer's order."""
    ids = sorted(tokenizer.get_vocab().values())
    decoded = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    return _whole(text[1:] for text in decoded if text.startswith(" "))


def embedder_words(tokenizer: Any) -> list[str]:
    """Words that the embedder's tokenizer holds whole, about in the order of how frequent they are."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return _whole(word for word in sorted(vocabulary, key=vocabulary.__getitem__) if not word.startswith("##"))


def _whole(tokens: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(t for t in tokens if t == t.lower() and _WORD.fullmatch(t)))


@dataclass(frozen=True, eq=False)
class WordRows:
    """Each text as its `most` rarest words of a vocabulary; a text's words weigh equally, and its vector is as long as any other's.

    vocabulary: public (or the noisy answer to an earlier question), the most frequent word first.  left_out: texts that count as empty.
    """

    column: str
    vocabulary: tuple[str, ...]
    most: int = WORDS_EACH
    left_out: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        return len(self.vocabulary)

    @property
    def norm(self) -> int:
        return int(np.ceil(STEPS * self.most**0.5))

    @cached_property
    def places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    def encode(self, texts: Sequence[str]) -> csr_array[Any]:
        """int64, shape (texts, width): STEPS * sqrt(most / m), rounded down, for each of a text's m words. L2 norm <= norm.

        Proof. m entries of at most STEPS sqrt(most / m) have a squared norm of at most STEPS^2 most.
        """
        from scipy.sparse import csr_array

        held = [
            []
            if t in self.left_out
            else sorted({self.places[w] for w in words_of(t) if w in self.places})[-self.most :]
            for t in texts
        ]
        values = [int(STEPS * (self.most / len(h)) ** 0.5) for h in held for _ in h]
        ends = np.cumsum([0, *map(len, held)])
        columns = np.array([c for h in held for c in h], np.int64)
        return csr_array((np.array(values, np.int64), columns, ends), shape=(len(held), self.width))
