"""Renyi divergences of single mechanisms at fixed orders: the part of the accounting that may be spent adaptively.

At order a the divergence of a pair is log E_Q[(P/Q)^a] / (a - 1), the larger of both directions. They add up.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.accounting.cost import ORDERS
from dpsynth.privacy.accounting.curves import chance_of_full_batch
from dpsynth.privacy.events import (
    AboveThreshold,
    DiscreteGaussian,
    DiscreteLaplace,
    ExponentialMechanism,
    Gaussian,
    Laplace,
    Leaf,
    StabilityHistogram,
    SubsampledGaussian,
)

FloatArray = npt.NDArray[np.float64]
_ORDERS: FloatArray = np.array(ORDERS)


def renyi_of(event: Leaf) -> FloatArray:
    """Divergences of one mechanism at ORDERS, shape (orders,), all its steps together."""
    match event:
        case Gaussian() | StabilityHistogram():
            return _ORDERS * event.mu_squared / 2
        case DiscreteGaussian():  # at most that of the continuous one (Canonne, Kamath, Steinke 2020, prop. 5)
            return _ORDERS * (event.sensitivity / event.sigma) ** 2 / 2
        case Laplace():
            return _laplace(event.epsilon)
        case DiscreteLaplace():
            return _discrete_laplace(int(event.sensitivity), event.scale)
        case ExponentialMechanism():
            return _bounded_range(event.epsilon)
        case AboveThreshold():
            return _pure(event.epsilon)
        case SubsampledGaussian():
            one = _sampled(event.sampling_rate, event.noise_multiplier)
            full = chance_of_full_batch(event)
            if full > 0:  # the moment, too, is jointly convex: see curves._subsampled
                two = _sampled(event.sampling_rate, event.noise_multiplier / 2)
                moments = np.logaddexp(math.log1p(-full) + (_ORDERS - 1) * one, math.log(full) + (_ORDERS - 1) * two)
                one = moments / (_ORDERS - 1)
            return event.steps * one
        case _:
            assert_never(event)


def _laplace(epsilon: float) -> FloatArray:
    """Mironov, "Renyi Differential Privacy", 2017, table II."""
    a = _ORDERS
    moments = np.logaddexp(np.log(a / (2 * a - 1)) + (a - 1) * epsilon, np.log((a - 1) / (2 * a - 1)) - a * epsilon)
    divergences: FloatArray = np.maximum(moments, 0.0) / (a - 1)
    return divergences


def _pure(epsilon: float) -> FloatArray:
    """Of randomized response: Mironov 2017, table II."""
    a = _ORDERS
    true, false = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    moments = np.logaddexp(a * true + (1 - a) * false, a * false + (1 - a) * true)
    divergences: FloatArray = np.maximum(moments, 0.0) / (a - 1)
    return divergences


def _discrete_laplace(shift: int, scale: float) -> FloatArray:
    """By its losses: step * shift at x <= 0, falling by two steps a cell to -step * shift at x >= shift."""
    step = 1 / scale
    x = np.arange(0, shift + 1)
    mass = np.log(np.tanh(step / 2)) - step * x
    mass[0] = -math.log1p(math.exp(-step))  # all x <= 0
    mass[-1] = -step * shift - math.log1p(math.exp(-step))  # all x >= shift
    moments = _logsumexp(mass[None, :] + (_ORDERS[:, None] - 1) * step * (shift - 2 * x)[None, :])
    divergences: FloatArray = np.maximum(moments, 0.0) / (_ORDERS - 1)
    return divergences


def _bounded_range(epsilon: float) -> FloatArray:
    """The largest divergence of a loss that lies in an interval of length epsilon.

    For the pair with losses t and t - epsilon the moment is A e^((a-1)t) - B e^(at); its maximum over t has a closed form.
    """
    a = _ORDERS
    low = np.exp(-(a - 1) * epsilon)
    first = low + (1 - low) / -math.expm1(-epsilon)
    second = (1 - low) / math.expm1(epsilon)
    t = np.clip(np.log(first * (a - 1)) - np.log(second * a), 0.0, epsilon)
    moments = (a - 1) * t + np.log(np.maximum(first - second * np.exp(t), 1e-300))
    # Never above order * epsilon^2 / 8 (Rogers, Steinke, "A Better Privacy Analysis of the Exponential Mechanism", 2021).
    divergences: FloatArray = np.minimum(np.maximum(moments, 0.0) / (a - 1), a * epsilon**2 / 8)
    return divergences


@lru_cache(maxsize=64)
def _sampled(q: float, sigma: float) -> FloatArray:
    """One Poisson-subsampled Gaussian step: log E_Q[((1 - q) + q e^((2x - 1)/(2 sigma^2)))^a] / (a - 1).

    The direction P against Q is the larger one (Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism", 2019, thm. 5). The integrand is analytic and falls off as a Gaussian around 0 and around a: the trapezoidal
    rule converges faster than any power of its step.
    """
    if q == 1.0:
        plain: FloatArray = _ORDERS / (2 * sigma**2)
        return plain
    out = np.empty(len(_ORDERS))
    for i, order in enumerate(_ORDERS):
        low, high = -13 * sigma, order + 13 * sigma
        steps = int(min(max(2000, 40 * (high - low) / sigma), 400_000))
        x, width = np.linspace(low, high, steps, retstep=True)
        log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * sigma**2))
        log_density = -(x**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
        out[i] = _logsumexp((log_density + order * log_ratio)[None, :])[0] + math.log(width)
    return np.maximum(out, 0.0) / (_ORDERS - 1)


def _logsumexp(terms: FloatArray) -> FloatArray:
    top = terms.max(axis=1)
    sums: FloatArray = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return sums
