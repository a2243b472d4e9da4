"""Exact probabilities of the noise distributions; draws nothing.

A magnitude X with probability proportional to exp(-E(x)), E convex with E(0) = 0, is cut into blocks of width 2^shift:
X = 2^shift (b + u), b = 0, 1, 2, ... and 0 <= u < 1. If b has probability proportional to exp(-E(b)), u is uniform, and
the pair is kept with probability exp(-(E(b + u) - E(b))), then what is kept has probability proportional to
exp(-E(b + u)): rejection sampling, here with the spread E is measured by near 16, so that nearly everything is kept and a
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
from functools import lru_cache
from itertools import accumulate, count, takewhile

import numpy as np
import numpy.typing as npt
from mpmath.libmp import from_rational, mpf_exp, to_fixed

IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]

SLACK = 2  # exp_neg and cumulative are at most this much too low, and never too high
TAIL = 64  # the weights that cumulative leaves out sum to less than this, in units of its working precision
GUIDE_BITS = 14  # leading bits of a word that usually name its block: a guide of 32 KiB stays in the fastest cache
TABLE_BITS = 63


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

    spread: the scale in blocks, at most 32.
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
        by a factor of at most exp(-1/16) from one to the next, so they sum to less than TAIL 2^-(bits + 64).
        """
        limit = bits + 64
        return cumulative(takewhile(lambda y: y < limit, (self.exponent(Fraction(j)) for j in count())), bits)

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


class Gaussian(Law):
    """E(x) = x^2 / (2 spread^2)."""

    def exponent(self, x: Fraction) -> Fraction:
        return x * x / (2 * Fraction(self.spread) ** 2)

    def excess(self, block: FloatArray, u: FloatArray) -> FloatArray:
        # Six roundings, and a last digit of u that is worth 2^-64 (2 block + 2) / (2 spread^2). A block is below 2^20: it
        # comes from a table, which would else have to be longer than that.
        return (block + block + u) * u * (0.5 / (self.spread * self.spread))


class Laplace(Law):
    """E(x) = x / spread."""

    def exponent(self, x: Fraction) -> Fraction:
        return x / Fraction(self.spread)

    def excess(self, block: FloatArray, u: FloatArray) -> FloatArray:
        return u * (1.0 / self.spread)


def gaussian(sigma: float, *, whole: bool) -> Gaussian:
    """The law of |N(0, sigma^2)| to be rounded, spread 16 to 32; if whole, of the magnitude of the discrete Gaussian,
    spread at most 32."""
    shift = math.frexp(sigma)[1] - 5
    shift = max(0, shift) if whole else shift
    return Gaussian(math.ldexp(sigma, -shift), shift, whole)  # by a power of two: exact


def laplace(scale: float) -> Laplace:
    """The law of the magnitude of the discrete Laplace distribution, spread at most 16."""
    shift = max(0, math.frexp(scale)[1] - 4)
    return Laplace(math.ldexp(scale, -shift), shift, True)


@dataclass(frozen=True)
class Table:
    """The cumulative block probabilities of a law as 63-bit integers, and what settles most words at a glance.

    cuts: int64, shape (blocks,): 2^63 P(block <= j), too low by at most SLACK.
    guide: int16, shape (2^GUIDE_BITS,): the block that all words with these leading bits select, -1 if they differ.
    mixed: the chance of a word for which they differ.
    sure: uint64, shape (blocks + 1,): a level below 2^-64 sure[block] keeps whatever u is; 0 for all later blocks.
    unsure: the chance of a level that is not.
    """

    cuts: IntArray
    guide: npt.NDArray[np.int16]
    mixed: float
    sure: WordArray
    unsure: float

    def blocks(self, words: IntArray) -> tuple[IntArray, IntArray]:
        """The block that each uniform word of 63 bits selects, int64, same shape; and the places where the word's
        64th and later bits decide, so that the block has still to be found."""
        named = self.guide.take(words >> (TABLE_BITS - GUIDE_BITS))
        mixed = places(named < 0, self.mixed)
        found, few = named.astype(np.int64), words[mixed]
        found[mixed] = index = np.searchsorted(self.cuts, few, side="right")
        below = np.where(index > 0, self.cuts[index - 1], -SLACK)
        return found, mixed[(index == len(self.cuts)) | (few - below < SLACK)]


@lru_cache(maxsize=64)
def table(law: Law) -> Table:
    """The lookup table of a law; some milliseconds to make, kept for the last 64 laws."""
    sums = law.cumulative(TABLE_BITS)
    cuts = np.array(sums[: sums.index(sums[-1]) + 1], dtype=np.int64)
    starts = np.arange(2**GUIDE_BITS, dtype=np.int64) << (TABLE_BITS - GUIDE_BITS)
    last = starts + ((1 << (TABLE_BITS - GUIDE_BITS)) - 1)
    first_block = np.searchsorted(cuts, starts - SLACK, side="right")
    settled = (first_block == np.searchsorted(cuts, last, side="right")) & (first_block < len(cuts))
    # E is convex, so that exp(-(E(b + u) - E(b))) is least where u is 1; what is taken off is far above float64's error (see Law.excess).
    least = np.exp(-law.excess(np.arange(len(cuts), dtype=np.float64), np.ones(len(cuts)))) - 2.0**-40
    sure = np.append((np.maximum(least, 0.0) * 2.0**64).astype(np.uint64), np.uint64(0))
    return Table(
        cuts=cuts,
        guide=np.where(settled, first_block, -1).astype(np.int16),
        mixed=1 - float(settled.mean()),
        sure=sure,
        unsure=1 - float(np.diff(cuts, prepend=0) @ (sure[:-1] * 2.0**-64)) * 2.0**-63,
    )


def places(where: npt.NDArray[np.bool_], chance: float) -> npt.NDArray[np.intp]:
    """The places where it holds, each with that chance; filled up with place 0, so that the rest of the work is as much for all draws."""
    found, expected = np.flatnonzero(where), chance * len(where)
    filled = np.zeros(max(len(found), math.ceil(expected + 8 * math.sqrt(expected)) + 8), dtype=np.intp)  # 8 deviations
    filled[: len(found)] = found
    return filled
