"""The one place that draws privacy noise.

Released statistics are integers, and so is their noise, added in integer arithmetic: no floating-point number ever
depends on a private value, and there are no low-order bits to read (Mironov 2012, "On significance of the least
significant bits for differential privacy"). Two kinds of Gaussian noise do this.

- *Rounded*, round(N(0, sigma^2)): since the statistic is an integer, statistic + round(noise) = round(statistic +
  noise). The answer is a post-processing of the continuous Gaussian mechanism and inherits its exact guarantee; it
  composes as Gaussian-DP without loss.
- *Discrete*, P(x) proportional to exp(-x^2 / 2 sigma^2) on the integers (Canonne, Kamath and Steinke 2020): the same
  concentrated-DP guarantee, 1 / (2 sigma^2) for sensitivity 1, with an accounting of its own.

Every draw is exact: the answer is a function of an endless string of uniform bits, of which 64 at a time are looked at, and no
more than settle it.
A comparison that float64 cannot settle, by a proven margin, is repeated in rational arithmetic with as many further bits
as it takes. The residual error of each sampler is zero, given uniform bits. How long a draw takes tells nothing of its
value, but for those repetitions (one in 10^12): what rejection keeps does not depend on how often it rejected.

Uniform bits come from ChaCha20 keyed with 256 bits of the operating system, per object and thread, and again in every
forked process. A seed exists for tests alone and is called what it is.
"""

from __future__ import annotations

import math
import operator
import os
import secrets
import threading
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.privacy import distributions
from dpsynth.privacy.distributions import (
    GUIDE_BITS,
    HEAD_BITS,
    SLACK,
    TABLE_BITS,
    IntArray,
    Law,
    WordArray,
    exp_neg,
    filled,
)
from dpsynth.privacy.errors import PrivacyError

MIN_SIGMA, MAX_SIGMA = 2.0**-40, 2.0**40

CHUNK = 2**14  # draws at a time: what one step leaves is still in the cache for the next
PIECE = 2**18  # draws whose cases in doubt are settled together
_ZEROS = bytes(8 * CHUNK)  # what is encrypted for a chunk: making it takes longer than encrypting it
STREAM_WORDS = 2**32  # words under one key; ChaCha20's 32-bit block counter (RFC 8439) would do for 8 times as many

# Allowance for |v - exp(-y)| in float64: exp(-y) is off by less than 2^-49 for y (see Law.excess) and by at most four units
# in the last place, 2^-51, for numpy's exp; v by 2^-53. The slack only makes the exact path a little more frequent.
DOUBT = 2.0**-44

_forks = 0  # forks between the first process and this one


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def _process() -> tuple[int, int]:
    """Names this process: by its id, and by its forks, since an ancestor's id may be given out again."""
    return os.getpid(), _forks


class _Stream:
    """The words of ChaCha20 under one key and nonce; belongs to the process that made it."""

    def __init__(self, key: bytes, number: int) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        counter, nonce = bytes(4), number.to_bytes(12, "little")
        self._encrypt = Cipher(algorithms.ChaCha20(key, counter + nonce), mode=None).encryptor().update
        self.owner, self.number, self.left = _process(), number, STREAM_WORDS

    def words(self, n: int) -> WordArray:
        self.left -= n
        plain = memoryview(_ZEROS)[: 8 * n] if 8 * n <= len(_ZEROS) else bytes(8 * n)
        return np.frombuffer(self._encrypt(plain), dtype="<u8").astype(np.uint64, copy=False)


class Noise:
    """A source of noise. Each process and each thread that draws from it has a key of its own.

    insecure_seed: for tests alone; noise that can be reproduced protects nobody. All threads then draw the same.
    """

    def __init__(self, *, insecure_seed: int | None = None) -> None:
        self._insecure_seed = insecure_seed
        self._of_thread = threading.local()  # .stream: that of each thread, under a key of its own

    def __repr__(self) -> str:
        return "Noise(INSECURE: seeded, for tests)" if self.insecure else "Noise(ChaCha20, keyed by the OS)"

    def __reduce__(self) -> Any:
        raise PrivacyError("a noise source holds a secret key and is never copied or pickled; make one per process")

    @property
    def insecure(self) -> bool:
        return self._insecure_seed is not None

    def bits(self, n: int) -> WordArray:
        """n uniform 64-bit words, shape (n,), read-only. Raises PrivacyError if n is above 2^32."""
        stream: _Stream | None = getattr(self._of_thread, "stream", None)
        if n > STREAM_WORDS:
            raise PrivacyError("too many random words at once; draw the noise in smaller pieces")
        if stream is None or stream.owner != _process():  # first use, or a fork that must not share its parent's stream
            stream = self._new_stream(0)
        elif n > stream.left:
            stream = self._new_stream(stream.number + 1)
        return stream.words(n)

    def _new_stream(self, number: int) -> _Stream:
        key = secrets.token_bytes(32) if self._insecure_seed is None else _seeded_key(self._insecure_seed)
        self._of_thread.stream = stream = _Stream(key, number)
        return stream

    # -- noise on integers -------------------------------------------------------------------------------------------

    def rounded_gaussian(self, sigma: float, size: int) -> IntArray:
        """`size` independent draws of round(N(0, sigma^2)), int64, shape (size,); exact.

        Standard deviation sqrt(sigma^2 + 1/12) up to terms of exp(-2 pi^2 sigma^2). Guarantee: on an integer statistic of
        sensitivity s, that of the Gaussian mechanism at sigma / s (Gaussian-DP with mu = s / sigma).
        Raises PrivacyError unless 2^-40 <= sigma <= 2^40 and size is a whole number >= 0.
        """
        return self._draw(distributions.gaussian(_scale(sigma), whole=False), _size(size))

    def discrete_gaussian(self, sigma: float, size: int) -> IntArray:
        """`size` independent draws of P(x) proportional to exp(-x^2 / 2 sigma^2), int64, shape (size,); exact.

        Guarantee: on an integer statistic of sensitivity s, zero-concentrated DP with rho = s^2 / (2 sigma^2) (Canonne,
        Kamath and Steinke 2020, theorem 4). It is not that of the continuous Gaussian mechanism in every measure: its
        privacy profile (their theorem 7) is to be charged, not mu.
        Raises PrivacyError unless 2^-40 <= sigma <= 2^40 and size is a whole number >= 0.
        """
        return self._draw(distributions.gaussian(_scale(sigma), whole=True), _size(size))

    def discrete_laplace(self, scale: float, size: int) -> IntArray:
        """`size` independent draws of P(x) proportional to exp(-|x| / scale), int64, shape (size,); exact.

        Guarantee: on an integer statistic of L1 sensitivity s, pure DP with epsilon = s / scale (Ghosh, Roughgarden and
        Sundararajan 2009, the geometric mechanism).
        Raises PrivacyError unless 2^-40 <= scale <= 2^40 and size is a whole number >= 0.
        """
        return self._draw(distributions.laplace(_scale(scale)), _size(size))

    def gradient_gaussian(self, sigma: float, size: int, grid: float) -> IntArray:
        """Noise for DP-SGD: `size` draws of round(N(0, sigma^2) / grid), int64 multiples of `grid`, shape (size,); exact.

        sigma and grid are in the units of the gradient, grid a power of two. Guarantee: where the clipped and summed
        gradients are whole multiples k of grid with L2 sensitivity s, k + noise is a post-processing of the Gaussian
        mechanism at sigma / s, and nothing is left to charge to delta. So each record's gradient is to be clipped and then
        rounded, and the records summed as integers: rounding d coordinates towards zero keeps the clipping norm, rounding
        them to nearest can add sqrt(d) grid / 2 to it.
        Raises PrivacyError unless grid is a power of two and 2^-40 <= sigma / grid <= 2^40.
        """
        if not (math.isfinite(grid) and grid > 0 and math.frexp(grid)[0] == 0.5):
            raise PrivacyError("the grid of the gradients must be a power of two")
        return self.rounded_gaussian(_scale(sigma / grid), size)  # by a power of two: exact

    def _draw(self, law: Law, size: int) -> IntArray:
        """`size` draws with a random sign of the law's magnitude."""
        if size <= PIECE:
            return self._piece(law, size)
        drawn = np.empty(size, dtype=np.int64)
        for start in range(0, size, PIECE):
            drawn[start : start + PIECE] = self._piece(law, min(PIECE, size - start))
        return drawn

    def _piece(self, law: Law, size: int) -> IntArray:
        """`size` draws: candidates, and in the place of each that is rejected the next spare one (the module `distributions` says
        why this is the law)."""
        value = np.empty(distributions.table(law).candidates(size), dtype=np.int64)
        rejected = self._candidates(law, value)
        spare = np.ones(len(value) - size, dtype=bool)
        spare[rejected[rejected >= size] - size] = False
        spares, places = np.flatnonzero(spare) + size, rejected[rejected < size]
        value[places[: len(spares)]] = value[spares[: len(places)]]
        if len(places) > len(spares):
            value[places[len(spares) :]] = self._draw(law, len(places) - len(spares))
        return value[:size]

    def _candidates(self, law: Law, out: IntArray) -> npt.NDArray[np.intp]:
        """Fill `out` with candidates; returns the places of those that are rejected.

        One word a candidate, where that settles everything (see `Table`); where it does not, the next 64 bits of each of its three
        numbers. So a candidate is the same function of endless bits throughout, and of most only the first ones are looked at.
        """
        table, unsettled, places, rejected = distributions.table(law), [], [], []
        for start in range(0, len(out), CHUNK):
            part = out[start : start + CHUNK]
            words = self.bits(len(part))
            head = (words >> np.uint64(64 - HEAD_BITS)).view(np.int64)
            table.start.take(head, out=part, mode="clip")  # clips nothing: the quickest way
            law.add_digits(part, words)
            unsure = words >= table.sure.take(head, mode="clip")
            few = np.flatnonzero(unsure)
            unsettled.append(words[few])
            places.append(few + start)
            if law.whole:  # 0 has one sign, not two
                rejected.append(np.flatnonzero((part == 0) & (words >= np.uint64(2**63)) & ~unsure) + start)
        where = np.concatenate(places)
        value, keep = self._settled(law, filled(np.concatenate(unsettled), table.unsure * len(out)))
        out[where] = value[: len(where)]
        return np.concatenate([where[~keep[: len(where)]], *rejected])

    def _settled(self, law: Law, words: WordArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """The signed value of candidates that begin with these words, shape (n,), and whether each is kept."""
        further = self.bits(3 * len(words)).reshape(-1, 3).T
        minus = -(words >> np.uint64(63)).view(np.int64)  # 0 or -1
        low = (_joined(words << np.uint64(1), GUIDE_BITS, further[0]) >> np.uint64(64 - TABLE_BITS)).view(np.int64)
        level = _joined(words << np.uint64(HEAD_BITS), law.level_bits, further[1])
        digits = _joined(words << np.uint64(64 - law.digits), law.digits, further[2]) if law.digits else further[2]
        offset = law.offset(digits ^ minus.view(np.uint64))
        block, in_doubt = distributions.table(law).blocks(low)
        for i in in_doubt.tolist():
            block[i] = self._settle(law.cumulative, int(low[i]), TABLE_BITS)
        value, keep = (law.values(block, offset) ^ minus) - minus, self._keep(law, block, offset, level)
        if law.whole:
            keep &= (value != 0) | (minus == 0)
        return value, keep

    def _keep(self, law: Law, block: IntArray, offset: WordArray, level: WordArray) -> npt.NDArray[np.bool_]:
        """Whether each candidate is kept: True with probability exp(-(E(block + u) - E(block))), shape (n,)."""
        chance = np.exp(-law.excess(block.astype(np.float64), offset.astype(np.float64) * 2.0**-64))
        margin = chance - level * 2.0**-64
        keep: npt.NDArray[np.bool_] = margin > 0
        for i in np.flatnonzero(np.abs(margin) <= DOUBT).tolist():
            keep[i] = self._settle_keep(law, int(block[i]), int(offset[i]), int(level[i]))
        return keep

    # -- choices -----------------------------------------------------------------------------------------------------

    def coins(self, rate: float, size: int) -> npt.NDArray[np.bool_]:
        """`size` independent coins, True with probability exactly the double `rate`, bool, shape (size,).

        These are the secret coins of Poisson sampling: who was in a batch must not be known, nor be predictable.
        Raises PrivacyError unless 0 <= rate <= 1 and size is a whole number >= 0.
        """
        if not 0 <= rate <= 1:
            raise PrivacyError("the rate of a coin must be between 0 and 1")
        coins = np.empty(_size(size), dtype=bool)
        whole, rest = divmod(Fraction(float(rate)) * 2**64, 1)
        if whole == 2**64:  # rate 1
            coins[:] = True
            return coins
        for start in range(0, len(coins), CHUNK):
            part = coins[start : start + CHUNK]
            words = self.bits(len(part))
            np.less(words, np.uint64(whole), out=part)
            if rest:  # a word equal to the rate's first 64 bits leaves the answer to the rest of them
                for i in np.flatnonzero(words == np.uint64(whole)):
                    part[i] = self.coins(float(rest), 1)[0]
        return coins

    def noisy_max(self, scores: IntArray, epsilon: float, sensitivity: float, monotone: bool = False) -> int:
        """The index of a high score: i with probability proportional to exp(epsilon scores[i] / (2 sensitivity)).

        The exponential mechanism (McSherry and Talwar 2007), drawn exactly from its categorical distribution: equal in
        distribution to the largest of scores with Gumbel noise, without the noise's floating-point numbers.

        scores: int64, shape (candidates,), at least one. A real-valued score is first rounded to a public grid, and its
            sensitivity counted in steps of that grid, after rounding.
        sensitivity: the most that one record can change any score, in the units of `scores`.
        monotone: leaves out the factor 2. The caller must have *proved* that adding a record changes no two scores in
            opposite directions (as with counts, not with distances); it is wrong otherwise.
        Guarantee: pure DP at epsilon. It is in fact epsilon-bounded range (Durfee and Rogers 2019), and so also zCDP with
        rho = epsilon^2 / 8 (Cesar and Rogers 2021).
        Raises PrivacyError if the scores are not such an array or epsilon or sensitivity is not above 0 and finite.
        """
        scores = _scores(scores)
        for value in (epsilon, sensitivity):
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError("the epsilon and the sensitivity of a choice must be above 0 and finite")
        slope = Fraction(float(epsilon)) / Fraction(float(sensitivity)) / (1 if monotone else 2)
        if slope > 2**64:
            raise PrivacyError("epsilon is too large for this sensitivity; state both in the units of the scores")
        below = scores.max().view(np.uint64) - scores.view(np.uint64)  # modulo 2^64: right even where int64 overflows
        word = int(self.bits(1)[0])
        chosen = _choose(below, float(slope), word)
        if chosen is not None:
            return chosen

        def exact(bits: int) -> list[int]:
            return distributions.cumulative((slope * int(d) for d in below), bits)

        return self._settle(exact, word, 64)

    # -- comparisons that floats cannot settle -----------------------------------------------------------------------

    def _settle(self, cumulative: Callable[[int], list[int]], low: int, bits: int) -> int:
        """The index that a uniform number in [low, low + 1) / 2^bits selects; draws bits until there is but one."""
        while True:
            sums = cumulative(bits)
            index = bisect_left(sums, low + 1)
            if index < len(sums) and (index == 0 or sums[index - 1] + SLACK <= low):
                return index
            low, bits = low << 64 | self._word(), bits + 64

    def _settle_keep(self, law: Law, block: int, offset: int, level: int) -> bool:
        """Whether level < exp(-(E(block + u) - E(block))); u and level are 64-bit prefixes, that of a whole law is u."""
        bits = 64
        while True:
            ends = (Fraction(offset + end, 1 << bits) for end in (0, 0 if law.whole else 1))
            most, least = (exp_neg(law.exact_excess(block, u), bits) for u in ends)
            if level + 1 <= least:
                return True
            if level >= most + SLACK:
                return False
            offset = offset << 64 | (0 if law.whole else self._word())
            level, bits = level << 64 | self._word(), bits + 64

    def _word(self) -> int:
        return int(self.bits(1)[0])


def _choose(below: WordArray, slope: float, word: int) -> int | None:
    """The index that the uniform number [word, word + 1) / 2^64 selects, weights exp(-slope below); None in doubt.

    Sums of n weights are off by less than (n + 8) 2^-53 of their total, and the target by little more than that; four times
    as much as both together is allowed.
    """
    sums = np.cumsum(np.exp(below * -slope))
    total = float(sums[-1])
    target, doubt = word * 2.0**-64 * total, (len(sums) + 64) * 2.0**-50 * total
    index = int(np.searchsorted(sums, target - doubt, side="right"))
    return index if index < len(sums) and target + doubt < sums[index] else None


def _joined(words: WordArray, bits: int, further: WordArray) -> WordArray:
    """Words whose first bits are those of `words`, and the rest the first ones of `further`."""
    return words & np.uint64(2**64 - 2 ** (64 - bits)) | further >> np.uint64(bits)


def _scores(scores: IntArray) -> IntArray:
    if not isinstance(scores, np.ndarray) or scores.dtype != np.int64 or scores.ndim != 1 or not scores.size:
        raise PrivacyError("scores must be a one-dimensional int64 array, not empty; round them to a fixed grid first")
    return np.ascontiguousarray(scores)


def _scale(sigma: float) -> float:
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise PrivacyError("the noise scale must be between 2^-40 and 2^40")
    return float(sigma)


def _size(size: int) -> int:
    try:
        number = operator.index(size)
    except TypeError:
        number = -1
    if number < 0:
        raise PrivacyError("the number of draws must be a whole number, at least 0")
    return number


def _seeded_key(seed: int) -> bytes:
    return (seed % 2**256).to_bytes(32, "little")
