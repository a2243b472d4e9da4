"""Whole words from a model that writes letter by letter: after each letter only those may follow that a public list of words goes on with."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Lists of a tokenizer hold many fragments among the short ones.
_SHORT = frozenset(
    "a i am an as at be by do go he hi if in is it me my no of oh ok on or pm so to tv up us we".split()
)  # fmt: skip
# What follows an apostrophe: it's, don't, I'd, I'm, we'll, we're, I've.
_TAILS = ("s", "t", "d", "m", "ll", "re", "ve")
_LETTERS, _APOSTROPHE, _OTHER = string.ascii_lowercase, 26, 27


class Lexicon:
    """The words as a tree: a node for each beginning of a word, the first for what is between words.

    tokenizer: whose tokens are bytes.
    """

    def __init__(self, words: Iterable[str], tokenizer: Any) -> None:
        known = {w for w in words if len(w) > 2 and set(w) <= set(_LETTERS)} | _SHORT
        tails = {"'" + tail for tail in _TAILS}
        nodes = {"": 0}
        for word in sorted(known | tails):
            for i in range(1, len(word) + 1):
                nodes.setdefault(word[:i], len(nodes))
        self._next = torch.full((len(nodes), 28), -1)  # -1 = does not follow
        for beginning, node in nodes.items():
            if beginning not in ("", "'"):
                self._next[nodes[beginning[:-1]], _kind(beginning[-1])] = node
        self._next[[0, *(nodes[w] for w in known | tails)], _OTHER] = 0
        self._next[[nodes[w] for w in known], _APOSTROPHE] = nodes["'"]
        bytes_of = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
        self._kinds = torch.tensor([_kind(text) for text in bytes_of])

    def to(self, device: torch.device) -> Lexicon:
        self._next, self._kinds = self._next.to(device), self._kinds.to(device)
        return self

    def barred(self, nodes: Tensor) -> Tensor:
        """Which tokens may not follow, shape (rows, tokens). nodes: of each row, shape (rows,)."""
        return (self._next[nodes] < 0)[:, self._kinds]

    def after(self, nodes: Tensor, token: Tensor) -> Tensor:
        """The nodes after one more token of each row."""
        return self._next[nodes, self._kinds[token]].clamp(min=0)


def _kind(letter: str) -> int:
    place = _LETTERS.find(letter.lower()) if len(letter) == 1 else -1
    return place if place >= 0 else _APOSTROPHE if letter == "'" else _OTHER
