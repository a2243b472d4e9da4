"""Privacy loss distributions: composing dominating pairs numerically, always rounded towards more loss.

A pair's curve H(epsilon) is convex in y = e^epsilon. Connecting its values on a grid of epsilons by straight lines in y
gives a curve that lies above it and belongs to a distribution on the grid ("connect the dots": Doroshenko, Ghazi, Kamath,
Kumar, Manurangsi 2022), so the distribution dominates the pair. Under composition losses add up: the distribution of the
sum is a convolution, done by FFT (Koskela, Jalko, Honkela 2020).

Floating-point error of an FFT is absolute, while the tail that decides delta is small. So distributions are tilted first, by
e^(theta * loss), which moves the tail of interest to the middle, and tilted back afterwards: the error becomes relative.
What leaves the FFT's window is added to the mass at infinite loss, by Chernoff's bound; what wraps around adds mass. The
FFT's own rounding is added to every cell, so the curve errs upwards: far from the loss of interest, where tilting back blows
it up, the curve says 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.accounting.curves import Curve, Pair

FloatArray = npt.NDArray[np.float64]

# Tilted mass that may leave the window of a convolution.
_TAIL = 1e-15
# Mass above 1 by more than this is an error of rounding, which counts upwards.
_ROUNDING = 1e-6
# Tilts that are tried; a tilt of theta belongs to the Renyi order theta + 1.
_TILTS: FloatArray = np.exp2(np.arange(-8, 12.5, 0.5))
# Further tilts, either side of the one chosen, for Chernoff's bounds on the window.
_OFFSETS: FloatArray = np.exp2(np.arange(-8, 11, 1.0))
# Ends of a curve that are tried.
_ENDS: FloatArray = 1e-7 * np.exp2(np.arange(0, 44, 0.1))
MAX_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class LossDistribution:
    """Privacy loss on the grid width * (first + i), with probabilities `mass`, shape (n,), and `infinite` beyond.

    Stands for a dominating pair: delta(epsilon) is at least that of whatever it was made from.
    """

    width: float
    first: int
    mass: FloatArray
    infinite: float

    @cached_property
    def losses(self) -> FloatArray:
        grid: FloatArray = self.width * (self.first + np.arange(len(self.mass), dtype=np.float64))
        return grid

    @cached_property
    def deltas(self) -> FloatArray:
        """The curve at each of `losses`, shape (n,)."""
        at: FloatArray = self._known(self.infinite + self._from_above - self._discounted, self._from_above)
        # The true curve falls, so what holds at a loss holds for all to its left: rounding must not hide that.
        return np.maximum.accumulate(at[::-1])[::-1]

    @staticmethod
    def _known(values: FloatArray, above: FloatArray) -> FloatArray:
        """Values of the curve; 1 where there is more mass above than there can be, which is rounding blown up."""
        known: FloatArray = np.where(above > 1 + _ROUNDING, 1.0, values)
        return known

    @cached_property
    def _from_above(self) -> FloatArray:
        """Mass at each loss and above."""
        return np.cumsum(self.mass[::-1])[::-1]

    @cached_property
    def _discounted(self) -> FloatArray:
        """sum over losses l >= own of mass * e^(own - l), by its recursion: a plain sum would under- or overflow."""
        from scipy.signal import lfilter

        discounted: FloatArray = lfilter([1.0], [1.0, -math.exp(-self.width)], self.mass[::-1])[::-1]
        return discounted

    def at(self, epsilons: FloatArray) -> FloatArray:
        """delta at each epsilon: infinite + E[(1 - e^(epsilon - loss))+]. Mass that the window lost on its left counts as
        if its loss were infinite."""
        place = np.minimum(np.searchsorted(self.losses, epsilons), len(self.losses) - 1)
        lost = max(1 - self.infinite - float(self._from_above[0]), 0.0)
        above = self.infinite + self._from_above[place] + np.where(epsilons < self.losses[0], lost, 0.0)
        inside = above - self._discounted[place] * np.exp(np.minimum(epsilons - self.losses[place], 0.0))
        inside = self._known(inside, self._from_above[place])
        values: FloatArray = np.where(epsilons > self.losses[-1], self.infinite, inside)
        return np.clip(values, self.infinite, 1.0)

    def delta(self, epsilon: float) -> float:
        """The same at one epsilon."""
        return float(self.at(np.array([epsilon]))[0])

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon >= 0 with delta(epsilon) <= delta; inf where there is none.

        Between neighbouring losses the curve is a - b e^epsilon, so it is solved exactly.
        """
        if self.infinite > delta:
            return math.inf
        if self.delta(0.0) <= delta:
            return 0.0
        at = int(np.argmax(self.deltas <= delta)) if self.deltas[-1] <= delta else len(self.mass) - 1
        excess = self.infinite + self._from_above[at] - delta
        if at == 0 or not self._discounted[at] > 0:  # what lies left of the grid is not known
            return float(max(self.losses[at], 0.0))
        solved = self.losses[at] + math.log(max(excess, 1e-300) / self._discounted[at])
        return float(max(solved, self.losses[at - 1], 0.0))

    def failing(self, chance: float) -> LossDistribution:
        """The same with a chance of open failure beside it."""
        return self if chance == 0 else replace(self, infinite=self.infinite + chance)

    def log_moments(self, tilts: FloatArray) -> FloatArray:
        """log E[e^(t * loss)] of the finite part, for each tilt, which may be negative."""
        held = self.mass > 0
        terms = np.log(self.mass[held])[None, :] + tilts[:, None] * self.losses[held][None, :]
        top = terms.max(axis=1)
        moments: FloatArray = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
        return moments


def discretise(pair: Pair, width: float, tail: float) -> tuple[LossDistribution, LossDistribution]:
    """The pair's loss distributions, (removed, added), on a grid of this width.

    tail: chance of losses that are cut off and counted as infinite.
    """
    highest = math.ceil(_upper_end(pair.removed, tail) / width) + 1
    symmetric = pair.removed is pair.added
    lowest = -highest if symmetric else -math.ceil(_upper_end(pair.added, tail) / width) - 1
    if highest - lowest > MAX_CELLS:
        raise MemoryError
    forth = _connect_the_dots(pair.removed, pair.added, lowest, highest, width)
    return forth, forth if symmetric else _connect_the_dots(pair.added, pair.removed, -highest, -lowest, width)


def either(branches: Sequence[tuple[LossDistribution, LossDistribution]]) -> tuple[LossDistribution, LossDistribution]:
    """A distribution that dominates each of several (removed, added), which share one width: from the largest curve.

    Between two points of the grid each curve is straight in e^epsilon, so the largest lies below the line that joins the
    largest values at both.
    """
    width = branches[0][0].width
    ends = [(d.first, d.first + len(d.mass) - 1) for both in branches for d in both]
    far = max(max(-low, high) for low, high in ends) + 1

    def largest(direction: int) -> Curve:
        def curve(epsilons: FloatArray) -> FloatArray:
            values: FloatArray = np.max([both[direction].at(epsilons) for both in branches], axis=0)
            return values

        return curve

    removed, added = largest(0), largest(1)
    forth = _connect_the_dots(removed, added, -far, far, width)
    return forth, _connect_the_dots(added, removed, -far, far, width)


def _upper_end(curve: Curve, tail: float) -> float:
    """An epsilon > 0 at which the curve is at most `tail`: the first of a series."""
    tried = _ENDS[curve(_ENDS) <= tail]
    if not len(tried):
        raise MemoryError
    return float(tried[0])


def _connect_the_dots(curve: Curve, reverse: Curve, lowest: int, highest: int, width: float) -> LossDistribution:
    """Mass at each grid point: the second difference of the curve in e^epsilon.

    Left of 0 the curve is close to 1 - e^epsilon, whose second difference is 0: what is above that line, e^epsilon times the
    reverse curve at -epsilon, is differenced instead, so that no digits are lost.
    """
    epsilons: FloatArray = width * np.arange(lowest, highest + 1, dtype=np.float64)
    # From the point that ends the left part on, take the curve itself.
    direct, excess = curve(epsilons), np.exp(np.minimum(epsilons, 0.0)) * reverse(-np.minimum(epsilons, 0.0))
    growth = math.expm1(width)

    def second_difference(values: FloatArray) -> FloatArray:
        step = np.diff(values)
        inner: FloatArray = (step[1:] - math.exp(width) * step[:-1]) / growth
        return inner

    mass = np.empty(len(epsilons))
    mass[1:-1] = np.where(epsilons[1:-1] < -width / 2, second_difference(excess), second_difference(direct))
    mass[0] = (excess[1] - excess[0]) / growth - excess[0]
    mass[-1] = math.exp(width) * (direct[-2] - direct[-1]) / growth
    return LossDistribution(width, lowest, np.maximum(mass, 0.0), float(direct[-1]))


def compose(
    parts: Sequence[tuple[LossDistribution, int]], *, delta: float | None = None, epsilon: float | None = None
) -> LossDistribution:
    """The distribution of the sum of losses, each part `count` times; most precise around this delta or this epsilon.

    All parts share one width. Raises MemoryError where the window would be too large.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    width = parts[0][0].width
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    theta = _tilt(parts, delta, epsilon)
    low, high, log_moment = _window(parts, theta)
    first, last = math.floor(low / width) - 1, math.ceil(high / width) + 1
    size = next_fast_len(last - first + 1, real=True)
    if size > MAX_CELLS:
        raise MemoryError
    spectrum: npt.NDArray[np.complex128] = np.ones(size // 2 + 1, np.complex128)
    for part, count in parts:
        tilted = _tilted(part, theta)
        places = (part.first + np.arange(len(tilted))) % size
        spectrum *= rfft(np.bincount(places, weights=tilted, minlength=size)) ** count
    # Rounding of the transforms and of the powers, as a bound on each cell: the mean error of the spectrum.
    steps = math.log2(size) + sum(count for _, count in parts)
    error = 2 * np.finfo(np.float64).eps * steps * float(np.abs(spectrum).mean())
    summed = np.maximum(np.roll(irfft(spectrum, size), -(first % size)), 0.0) + error
    losses = width * (first + np.arange(size))
    mass = summed * np.exp(np.minimum(log_moment - theta * losses, 700.0))
    survives = math.fsum(count * math.log1p(-part.infinite) for part, count in parts)
    beyond = _TAIL * math.exp(min(log_moment - theta * high, 0.0))
    return LossDistribution(width, first, mass, -math.expm1(survives) + beyond)


def _tilted(part: LossDistribution, theta: float) -> FloatArray:
    """Mass times e^(theta * loss), as shares of their sum. In two factors: e to a large loss alone may be past any number."""
    exponents = np.where(part.mass > 0, theta * part.losses - part.log_moments(np.array([theta]))[0], 0.0)
    tilted: FloatArray = part.mass * np.exp(np.minimum(exponents, 700.0)) * np.exp(np.maximum(exponents - 700.0, 0.0))
    return tilted


def _log_moments(parts: Sequence[tuple[LossDistribution, int]], tilts: FloatArray) -> FloatArray:
    moments: FloatArray = np.sum([count * part.log_moments(tilts) for part, count in parts], axis=0)
    return moments


def _tilt(parts: Sequence[tuple[LossDistribution, int]], delta: float | None, epsilon: float | None) -> float:
    """The tilt that moves the loss of interest to the middle: the best one in Chernoff's bound."""
    if epsilon is None:
        return float(_TILTS[np.argmin((_log_moments(parts, _TILTS) - math.log(delta or 1.0)) / _TILTS)])
    tilts = np.append(0.0, _TILTS)
    return float(tilts[np.argmin(_log_moments(parts, tilts) - tilts * epsilon)])


def _window(parts: Sequence[tuple[LossDistribution, int]], theta: float) -> tuple[float, float, float]:
    """(low, high, log moment at theta): losses outside of which the tilted sum falls with a chance of at most _TAIL a
    side, by Chernoff's bound at a few more tilts."""
    moments = _log_moments(parts, theta + np.concatenate([-_OFFSETS, [0.0], _OFFSETS]))
    down, middle, up = np.split(moments, [len(_OFFSETS), len(_OFFSETS) + 1])
    own, need = float(middle[0]), -math.log(_TAIL)
    return float((-(down - own + need) / _OFFSETS).max()), float(((up - own + need) / _OFFSETS).min()), own
