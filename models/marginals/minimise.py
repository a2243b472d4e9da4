"""L-BFGS for smooth convex objectives, on any device, that can be told when to stop.

Of other implementations, torch's loads the compiler, which takes longer than most fits, and SciPy's has threads of its own,
which wait for each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

# What is told how many steps of a stage are done.
Advance = Callable[[int], None]
# The value and the gradient at a vector.
Objective = Callable[[torch.Tensor], tuple[float, torch.Tensor]]
# Looks that are taken however little time there is: a model that its measurements have reached.
LEAST_SWEEPS = 10
# Steps that are remembered.
HISTORY = 20
# A step is long enough when it has so much of the decrease that the slope promises, and so much less slope (Wolfe's conditions).
_DECREASE, _SLOPE = 1e-4, 0.9
# How many times as far is looked at most where a step was too short, and how often in all.
_STRIDE, _LOOKS = 1000.0, 25
# Where the search has converged: the largest entry of the gradient, and what a step brings.
_FLAT, _STILL = 1e-9, 1e-12


def minimise(
    objective: Objective,
    start: torch.Tensor,
    iterations: int,
    *,
    until: float = math.inf,
    advance: Advance = lambda n: None,
) -> torch.Tensor:
    """The best vector that at most so many steps from `start` found; float64.

    until: when to stop, by `time.monotonic`, but not before LEAST_SWEEPS looks.  advance: told of progress, `iterations` in all.
    """
    search = _Search(objective, iterations, until, advance)
    search.run(start)
    advance(max(iterations - search.looks, 0))
    return search.best


class _Search:
    """looks: how often the objective was asked.  best, least: the vector with the least value so far, and that."""

    def __init__(self, objective: Objective, iterations: int, until: float, advance: Advance) -> None:
        self._objective, self._iterations, self._until, self._advance = objective, iterations, until, advance
        self.looks, self.least = 0, math.inf

    def run(self, x: torch.Tensor) -> None:
        self.best = x
        value, gradient = self._look(x)
        memory = _Memory()
        for _ in range(self._iterations):
            if float(gradient.abs().max()) <= _FLAT:
                return
            direction = memory.newton(-gradient)
            slope = float(direction @ gradient)
            first = 1.0 if memory.steps else min(1.0, 1.0 / float(gradient.abs().sum()))
            found = self._along(x, direction, value, slope, first)
            if found is None:
                return
            step, after, there = found
            memory.remember(step * direction, there - gradient)
            x, gradient, gained, value = x + step * direction, there, value - after, after
            if gained <= _STILL:
                return

    def _along(
        self, x: torch.Tensor, direction: torch.Tensor, value: float, slope: float, step: float
    ) -> tuple[float, float, torch.Tensor] | None:
        """(step, value and gradient there): one that meets Wolfe's conditions, by strides and then halving (Lewis, Overton, "Nonsmooth
        optimization via quasi-Newton methods", 2013); None where there is none to be seen, or no time."""
        short, long = 0.0, math.inf
        for _ in range(_LOOKS):
            if self.looks >= LEAST_SWEEPS and time.monotonic() > self._until:
                return None
            after, gradient = self._look(x + step * direction)
            if not after <= value + _DECREASE * step * slope:
                long = step
            elif (here := float(direction @ gradient)) < _SLOPE * slope:
                # To where the slope would end if it went on to fall as it did.
                ahead = slope / (slope - here) if here > slope else math.inf
                short, step = step, step * min(ahead, _STRIDE)
            else:
                return step, after, gradient
            if long < math.inf:
                step = (short + long) / 2
        return None

    def _look(self, x: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, gradient = self._objective(x)
        self.looks += 1
        if self.looks <= self._iterations:
            self._advance(1)
        if value < self.least:
            self.least, self.best = value, x
        return value, gradient


class _Memory:
    """What the last steps say of the curvature."""

    def __init__(self) -> None:
        self.steps: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def remember(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """A step and what it did to the gradient."""
        curved = float(step @ change)
        if curved > 0:
            self.steps = [*self.steps[1 - HISTORY :], (step, change, curved)]

    def newton(self, vector: torch.Tensor) -> torch.Tensor:
        """The inverse curvature times a vector, by two passes over the steps (Nocedal, Wright, "Numerical optimization", algorithm
        7.4)."""
        if not self.steps:
            return vector
        out, shares = vector.clone(), []
        for step, change, curved in reversed(self.steps):
            shares.append(float(step @ out) / curved)
            out.add_(change, alpha=-shares[-1])
        _, change, curved = self.steps[-1]
        out *= curved / float(change @ change)
        for (step, change, curved), share in zip(self.steps, reversed(shares), strict=True):
            out.add_(step, alpha=share - float(change @ out) / curved)
        return out
