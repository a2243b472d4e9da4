"""Exact probabilities of the noise distributions; draws nothing.

A magnitude X with probability proportional to exp(-E(x)), E convex with E(0) = 0, is cut into blocks of width 2^shift:
X = 2^shift (b + u), b = 0, 1, 2, ... and 0 <= u < 1. If b has probability proportional to exp(-E(b)), u is uniform, and
the pair is kept with probability exp(-(E(b + u) - E(b))), then what is kept has probability proportional to
exp(-E(b + u)): rejection sampling, here with the spread E is measured by near 50, so that nearly everything is kept and a
table of a few hundred blocks does for every scale. The idea is that of Karney (2016), "Sampling exactly from the normal
distribution", ACM TOMS 42(1), algorithms N and D, with wider blocks; the discrete Gaussian it yields is that of Canonne,
Kamath and Steinke (2020), "The Discrete Gaussian for Differential Privacy", definition 1.

Every probability is a Python integer with a proven error: `exp_neg` for one exponential, `cumulative` for sums of them.
Scales are doubles and taken at face value, as the rational numbers they are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, count, takewhile
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from mpmath.libmp import from_rational, mpf_exp, to_fixed

IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]
Word = TypeVar("Word", np.int64, np.uint64)

SLACK = 2  # exp_neg and cumulative are at most this much too low, and never too high
TAIL = 64  # the weights that cumulative leaves out sum to less than this, in units of its working precision
TABLE_BITS = 63
GUIDE_BITS = 13  # leading bits of a word, after its sign, that usually name its block
HEAD_BITS = 1 + GUIDE_BITS


def exp_neg(y: Fraction, bits: int) -> int:
    """An integer n with n <= 2^bits exp(-y) <= n + SLACK, for y >= 0.

    At bits + 32 digits the argument and the exponential are each off by at most one part in 2^(bits + 32), together by
    less than 2^-15 at the scale 2^(bits + 16), where 1 is taken off before the last digits are dropped.
    """
    if y >= bits:  # exp(-y) < 2^-bits
        return 0
    precision = bits + 32
    value = mpf_exp(from_rational(-y.numerator, y.denominator, precision), precision)
    return max(0, (int(to_fixed(value, bits + 16)) - 1) >> 16)


def cumulative(exponents: Iterable[Fraction], bits: int) -> list[int]:
    """Integers s_j with s_j <= 2^bits P(X <= j) <= s_j + SLACK, where P(X = j) is proportional to exp(-exponents[j]).

    The smallest exponent must be 0, there must be fewer than 2^38, and weights left out at the end must sum to at most
    TAIL 2^-(bits + 64). Proof: at the scale 2^(bits + 64) the computed sums C_j, and S over all, are too low by at most
    e = SLACK n + TAIL < 2^40, so P(X <= j) lies between C_j / (S + e) and (C_j + e) / S, which differ by less than
    2 e / S < 2^(41 - bits - 63); rounding down adds less than 1.
    """
    weights = [exp_neg(y, bits + 64) for y in exponents]
    total = sum(weights) + SLACK * len(weights) + TAIL
    return [(c << bits) // total for c in accumulate(weights)]


@dataclass(frozen=True)
class Law(ABC):
    """A magnitude 2^shift (block + u), drawn by blocks (see the module).

    spread: the scale in blocks, at most 64.
    whole: True if X is an integer: u is then a multiple of 2^-shift, shift >= 0. False if X is a real number that is
        rounded to the nearest integer; shift may then be negative.
    """

    spread: float
    shift: int
    whole: bool

    @abstractmethod
    def exponent(self, x: Fraction) -> Fraction:
        """E(x), x in blocks."""

    @abstractmethod
    def excess(self, block: FloatArray, u: FloatArray) -> FloatArray:
        """E(block + u) - E(block) in float64, same shape as the arguments. With y for the true value, it is off by at
        most 2^-49 y + 2^-50, so that exp(-y) is off by less than 2^-49: y exp(-y) is below 0.4."""

    def exact_excess(self, block: int, u: Fraction) -> Fraction:
        return self.exponent(block + u) - self.exponent(Fraction(block))

    def cumulative(self, bits: int) -> list[int]:
        """`cumulative` of the blocks, bits >= 63.

        Blocks from the first J with E(J) >= bits + 64 are left out: their weights are below exp(-(bits + 64)) and fall
        by a factor of at most exp(-1/16) from one to the next (E grows by 1 / spread there if it is linear, by more than
        J / spread^2 > 15 / spread if it is quadratic), so they sum to less than TAIL 2^-(bits + 64).
        """
        limit = bits + 64
        return cumulative(takewhile(lambda y: y < limit, (self.exponent(Fraction(j)) for j in count())), bits)

    @property
    def digits(self) -> int:
        """Of how many leading bits of u the value is made, 0 to 37."""
        return max(0, self.shift + (not self.whole))

    @property
    def level_bits(self) -> int:
        """How many bits of the level are in a candidate's first word, at least 13 (see `Table`)."""
        return 64 - HEAD_BITS - self.digits

    def offset(self, words: WordArray) -> WordArray:
        """u as multiples of 2^-64: `words` as they are, or only their leading `shift` bits if X is whole."""
        return words & np.uint64(2**64 - 2 ** (64 - self.shift)) if self.whole else words

    def values(self, block: IntArray, words: WordArray) -> IntArray:
        """The integer that each (block, u) stands for, int64, in integer arithmetic. u = words / 2^64, rounded down."""
        if self.shift < 0:  # u cannot matter: both block edges are multiples of 2^shift, halves among them
            return (block + (1 << (-self.shift - 1))) >> -self.shift
        value = (words >> np.uint64(63 - self.shift)).view(np.int64)  # doubled
        if not self.whole:
            value += 1
        value >>= 1
        value += block << self.shift
        return value

    def add_digits(self, start: IntArray, words: WordArray) -> None:
        """Turn a table's `start` into values, in place, by the digits of u at the end of each word.

        With u = (f + r) / 2^digits, f whole and 0 <= r < 1, the value of a candidate is 2^shift block + f if X is whole, else
        2^shift block + (f + 1) // 2 (see `values`). If the sign is minus, the word's own digits are d = 2^digits - 1 - f, and
        -f = d - (2^digits - 1), -((f + 1) // 2) = (d + 1) // 2 - 2^shift: for either sign d, or (d + 1) // 2, is what the value is
        above its value for d = 0. If X is not whole, `start` is that value doubled, plus 1.
        """
        if self.digits:
            start += (words & np.uint64(2**self.digits - 1)).view(np.int64)
        if not self.whole:
            start >>= 1


class Gaussian(Law):
    """E(x) = x^2 / (2 spread^2)."""

    @cached_property
    def _unit(self) -> Fraction:
        return 1 / (2 * Fraction(self.spread) ** 2)

    def exponent(self, x: Fraction) -> Fraction:
        return x * x * self._unit

    def excess(self, block: FloatArray, u: FloatArray) -> FloatArray:
        # Six roundings, and a last digit of u that is worth 2^-64 (2 block + 2) / (2 spread^2). A block is below 2^20: it
        # comes from a table, which would else have to be longer than that.
        return (block + block + u) * u * (0.5 / (self.spread * self.spread))


class Laplace(Law):
    """E(x) = x / spread."""

    @cached_property
    def _unit(self) -> Fraction:
        return 1 / Fraction(self.spread)

    def exponent(self, x: Fraction) -> Fraction:
        return x * self._unit

    def excess(self, block: FloatArray, u: FloatArray) -> FloatArray:
        return u * (1.0 / self.spread)


def gaussian(sigma: float, *, whole: bool) -> Gaussian:
    """The law of |N(0, sigma^2)| to be rounded, spread 32 to 64; if whole, of the magnitude of the discrete Gaussian,
    spread at most 64."""
    shift = math.frexp(sigma)[1] - 6
    shift = max(0, shift) if whole else shift
    return Gaussian(math.ldexp(sigma, -shift), shift, whole)  # by a power of two: exact


def laplace(scale: float) -> Laplace:
    """The law of the magnitude of the discrete Laplace distribution, spread at most 16."""
    shift = max(0, math.frexp(scale)[1] - 4)
    return Laplace(math.ldexp(scale, -shift), shift, True)


@dataclass(frozen=True)
class Table:
    """What one word decides of a candidate, for most words at a glance.

    A candidate is a sign and three uniform numbers of endlessly many bits: one that selects the block, u, and the level that keeping
    is decided by. Its word holds, from the top: the sign; the first GUIDE_BITS bits of the block's number, together with the sign
    the word's head; the first `level_bits` of the level; the first `digits` of u, or, if the sign is minus, of 1 - u (which is as
    uniform). Where these settle the block and that the candidate is kept, whatever the bits after them are, the value is settled
    too: it depends on no later digits. Then the other bits need not be drawn, and what comes out is what would with all of them.

    sure: uint64, shape (2^HEAD_BITS,): a word below it, with this head, is kept and names its block, whatever bits follow.
    start: int64, same shape: the signed integer that the head stands for where the word's digits of u are 0, in the form that
        `Law.add_digits` takes.
    unsure: the chance of a word that is not below.
    zero: the chance of 0 with a minus, if X is whole, which is rejected: 0 has one sign.
    cuts: int64, shape (blocks,): 2^63 P(block <= j), too low by at most SLACK.
    guide: int16, shape (2^GUIDE_BITS,): the block that all words with these leading bits select, -1 if they differ.
    mixed: the chance, among words that are not sure, of one for which they differ.
    """

    sure: WordArray
    start: IntArray
    unsure: float
    zero: float
    cuts: IntArray
    guide: npt.NDArray[np.int16]
    mixed: float

    def candidates(self, size: int) -> int:
        """How many candidates nearly always hold `size` that are kept."""
        kept = 1 - self.unsure - self.zero
        return math.ceil(size / kept + 5 * math.sqrt(size * (1 - kept)) / kept) + 4

    def blocks(self, words: IntArray) -> tuple[IntArray, IntArray]:
        """The block that each uniform word of 63 bits selects, int64, same shape; and the places where the word's
        64th and later bits decide, so that the block has still to be found."""
        named = self.guide.take(words >> (TABLE_BITS - GUIDE_BITS))
        mixed = np.flatnonzero(named < 0)
        few = filled(words[mixed], self.mixed * len(words))
        index = np.searchsorted(self.cuts, few, side="right")
        below = np.where(index > 0, self.cuts[index - 1], -SLACK)
        in_doubt = (index == len(self.cuts)) | (few - below < SLACK)
        found = named.astype(np.int64)
        found[mixed] = index[: len(mixed)]
        return found, mixed[in_doubt[: len(mixed)]]


@lru_cache(maxsize=64)
def table(law: Law) -> Table:
    """The lookup table of a law; some milliseconds to make, kept for the last 64 laws."""
    sums = law.cumulative(TABLE_BITS)
    cuts = np.array(sums[: sums.index(sums[-1]) + 1], dtype=np.int64)
    starts = np.arange(2**GUIDE_BITS, dtype=np.int64) << (TABLE_BITS - GUIDE_BITS)
    last = starts + ((1 << (TABLE_BITS - GUIDE_BITS)) - 1)
    block = np.searchsorted(cuts, starts - SLACK, side="right")
    settled = (block == np.searchsorted(cuts, last, side="right")) & (block < len(cuts))
    # E is convex, so that exp(-(E(b + u) - E(b))) is least where u is greatest; what is taken off is far above float64's error (see
    # Law.excess).
    greatest = np.full(len(block), 1 - 2.0**-law.shift if law.whole else 1.0)
    least = np.maximum(np.exp(-law.excess(block.astype(np.float64), greatest)) - 2.0**-40, 0.0)
    sure = (np.where(settled, least, 0.0) * 2.0**law.level_bits).astype(np.uint64) << np.uint64(law.digits)
    heads = np.arange(2**HEAD_BITS, dtype=np.uint64) << np.uint64(64 - HEAD_BITS)
    ones = np.full(len(block), 2**64 - 1, dtype=np.uint64)
    start = np.concatenate([law.values(block, ones - ones), -law.values(block, ones)])
    unsure = 1 - float(sure.mean()) * 2.0 ** (HEAD_BITS - 64)
    return Table(
        sure=heads + np.tile(sure, 2),
        start=start if law.whole else 2 * start + 1,
        unsure=unsure,
        zero=math.ldexp(float(cuts[0]), -64 - law.shift) if law.whole else 0.0,
        cuts=cuts,
        guide=np.where(settled, block, -1).astype(np.int16),
        mixed=(1 - float(settled.mean())) / unsure,
    )


def filled(few: npt.NDArray[Word], expected: float) -> npt.NDArray[Word]:
    """`few` filled up with zeros to a length that says nothing of how many they are, so that the work on them does not either."""
    out = np.zeros(max(len(few), math.ceil(expected + 8 * math.sqrt(expected)) + 8), dtype=few.dtype)  # 8 deviations
    out[: len(few)] = few
    return out
