"""The one place that draws privacy noise.

Released statistics are integers. Their noise is a *rounded Gaussian*: round(N(0, sigma^2)), drawn on its own and added
in integer arithmetic. Since the statistic is an integer, statistic + round(noise) = round(statistic + noise): the answer
is a post-processing of the continuous Gaussian mechanism and inherits its exact guarantee, while no floating-point
number ever depends on a private value (no low-order bits to read). A discrete Gaussian would need its own, slightly
larger, accounting; this one composes as Gaussian-DP without loss.

The draw is exact: a uniform number is held as an interval of 2^-64 and pushed through the inverse normal distribution
function with an explicit error allowance; where the interval does not settle the integer, bits are added and the
comparison is repeated at 80 digits until it does.

Uniform bits come from ChaCha20 keyed with 256 bits of the operating system, per object and again in every forked
process. A seed exists for tests alone and is called what it is.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.errors import PrivacyError

IntArray = npt.NDArray[np.int64]

# Allowance for the float64 evaluation of z = ndtri(p): |error| <= NDTRI_ERROR * (1 + |z|). Measured error is below 1e-14
# (tests compare with 50-digit arithmetic); the slack only makes the exact path a little more frequent.
NDTRI_ERROR = 1e-12
MAX_SIGMA = 2.0**40


class Noise:
    """A source of rounded Gaussian noise.

    insecure_seed: for tests alone; noise that can be reproduced protects nobody.
    """

    def __init__(self, *, insecure_seed: int | None = None) -> None:
        self._insecure_seed = insecure_seed
        self._pid = -1
        self._raw: Callable[[int], npt.NDArray[np.uint64]]

    def __repr__(self) -> str:
        return "Noise(INSECURE: seeded, for tests)" if self.insecure else "Noise(ChaCha20, keyed by the OS)"

    def __reduce__(self) -> Any:
        raise PrivacyError("a noise source holds a secret key and is never copied or pickled; make one per process")

    @property
    def insecure(self) -> bool:
        return self._insecure_seed is not None

    def bits(self, n: int) -> npt.NDArray[np.uint64]:
        """n uniform 64-bit words, shape (n,)."""
        if self._pid != os.getpid():  # first use, or a fork that must not share its parent's stream
            self._key()
        return self._raw(n)

    def _key(self) -> None:
        from randomgen import ChaCha

        key = secrets.randbits(256) if self._insecure_seed is None else (self._insecure_seed * 2 + 1) % 2**256
        self._raw = ChaCha(key=key, rounds=20).random_raw
        self._pid = os.getpid()

    def rounded_gaussian(self, sigma: float, size: int) -> IntArray:
        """`size` independent draws of round(N(0, sigma^2)), int64, shape (size,).

        Standard deviation sqrt(sigma^2 + 1/12) up to terms of exp(-2 pi^2 sigma^2).
        Raises PrivacyError unless 0 < sigma <= 2^40.
        """
        from scipy.special import ndtri

        if not 0 < sigma <= MAX_SIGMA:
            raise PrivacyError("the noise scale must be above 0 and at most 2^40")
        words = self.bits(size)
        negative, magnitude = (words >> np.uint64(63)).astype(bool), words & np.uint64(2**63 - 1)
        # Upper-tail probability p in (0, 1/2], known up to +- 2^-65; kept in the lower tail, where floats are densest.
        p = (magnitude.astype(np.float64) + 0.5) * 2.0**-64
        z = -ndtri(p)
        density = np.exp(-0.5 * z * z) * 0.3989422804014327
        doubt = sigma * (2.0**-64 / density + NDTRI_ERROR * (1 + z))
        scaled = sigma * z
        nearest = np.rint(scaled)
        unsettled = 0.5 - np.abs(scaled - nearest) <= doubt
        drawn = nearest.astype(np.int64)
        for i in np.flatnonzero(unsettled | (magnitude < 2**20)):
            drawn[i] = self._settle(int(magnitude[i]), sigma)
        return np.where(negative, -drawn, drawn)

    def _settle(self, magnitude: int, sigma: float) -> int:
        """round(sigma * z) for upper-tail probability in [magnitude, magnitude + 1) / 2^64, adding bits as needed."""
        import mpmath

        bits, low = 64, magnitude
        with mpmath.workdps(80):
            while True:
                ends = [mpmath.mpf(low + i) / mpmath.mpf(2) ** bits for i in (0, 1)]
                inner, outer = (_nearest(mpmath, p, sigma) if p > 0 else None for p in (ends[1], ends[0]))
                if inner == outer and inner is not None:
                    return inner
                low, bits = (low << 64) | int(self.bits(1)[0]), bits + 64


def _nearest(mpmath: Any, tail: Any, sigma: float) -> int:
    """round(sigma * z) where z >= 0 has upper-tail probability `tail`, at the working precision of mpmath."""
    z = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * tail) if tail > mpmath.mpf(2) ** -40 else _far_tail(mpmath, tail)
    return int(mpmath.floor(sigma * z + mpmath.mpf(1) / 2))


def _far_tail(mpmath: Any, tail: Any) -> Any:
    """Inverse of the upper tail by Newton's method on its logarithm, where erfinv would lose digits."""
    z = mpmath.sqrt(-2 * mpmath.log(tail))
    for _ in range(60):
        survival = mpmath.erfc(z / mpmath.sqrt(2)) / 2
        density = mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)
        step = survival * mpmath.log(survival / tail) / density
        z += step
        if abs(step) < mpmath.mpf(10) ** -60:
            break
    return z
