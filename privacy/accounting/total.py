"""What a tree of events costs together.

A plan that was fixed beforehand is accounted as a whole (`profile_of`): exactly where all is Gaussian, else by the smaller
of two valid bounds, Renyi divergences and privacy loss distributions. Costs that may have been chosen one by one, each after
seeing earlier answers, are values that add up (`cost_of`): loss distributions of parts that were not fixed do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.accounting.cost import ORDERS, Cost, renyi_epsilon
from dpsynth.privacy.accounting.curves import Pair, gaussian_curve, pair_of
from dpsynth.privacy.accounting.gaussian import mu_of_pure
from dpsynth.privacy.accounting.pld import LossDistribution, compose, discretise, either
from dpsynth.privacy.accounting.profile import GaussianProfile, Profile, false_negatives
from dpsynth.privacy.accounting.renyi import renyi_of
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import (
    AboveThreshold,
    Composition,
    DiscreteLaplace,
    Event,
    ExponentialMechanism,
    Gaussian,
    Laplace,
    Leaf,
    Parallel,
    StabilityHistogram,
    SubsampledGaussian,
)

FloatArray = npt.NDArray[np.float64]

# Mechanisms whose loss is bounded: pure DP.
_BOUNDED = (Laplace, DiscreteLaplace, ExponentialMechanism, AboveThreshold)
# Chance of failure that bounding a subsampled Gaussian by a plain one may take, once for each such event.
DOMINATION_FAILURE = 1e-10
# A grid is refined until epsilon moves by less than this share; what is left of the error is then about a third of it.
_CLOSE = 1e-4
_FIRST_CELLS = 1024
# Below this delta the tails of a discretised curve are not followed; Renyi divergences alone are used.
_LEAST_DELTA = 1e-14


def cost_of(events: Iterable[Event]) -> Cost:
    """Total cost of events, chosen beforehand or adaptively: a value that may be added to others."""
    alike = Counter(_unlabelled(e) for e in events)
    gaussian = math.fsum(n * e.mu_squared for e, n in alike.items() if isinstance(e, Gaussian | StabilityHistogram))
    delta = math.fsum(n * e.delta for e, n in alike.items() if isinstance(e, StabilityHistogram))
    others = [_times(_cost(e), n) for e, n in alike.items() if not isinstance(e, Gaussian | StabilityHistogram)]
    return sum(others, Cost(mu_squared=gaussian, delta=delta))


def profile_of(events: Iterable[Event]) -> Profile:
    """The privacy curve of events that were planned as they are, all together. All-Gaussian events may be adaptive."""
    planned = list(events)
    flat = list(_flat(planned))
    if all(isinstance(e, Gaussian | StabilityHistogram) for e in flat):
        total = cost_of(flat)
        return GaussianProfile(math.sqrt(total.mu_squared), total.delta)
    return TreeProfile(tuple(flat))


def planned_epsilon(cost: Cost, plan: Sequence[Event], delta: float) -> float:
    """Epsilon of one run at delta: of its cost, or of the plan that bounds it but for a chance of cost.delta, if that is less.

    plan: see `budget.Reserve.as_events`; empty where the cost says all. Not for a sum of runs: later ones are not planned.
    """
    alone = cost.epsilon(delta)
    return min(alone, profile_of(plan).epsilon(delta - cost.delta)) if plan and delta > cost.delta else alone


@dataclass(frozen=True)
class TreeProfile:
    """The curve of a planned tree: min of Renyi divergences and privacy loss distributions."""

    events: tuple[Event, ...]

    @property
    def method(self) -> str:
        return "smaller of Renyi divergences and privacy loss distributions (connect the dots, refined to 0.01%)"

    def epsilon(self, delta: float) -> float:
        bound = self._renyi_epsilon(delta)
        if delta - self._renyi[1] <= _LEAST_DELTA or not 0 < bound < math.inf:
            return bound
        first = bound / _FIRST_CELLS
        found = _refined(lambda width: self._composed(width, delta=delta).epsilon(delta), first, bound)
        return min(found, _pure_epsilon(Composition(events=self.events)))

    def delta(self, epsilon: float) -> float:
        bound = max(self._renyi_epsilon(1e-6), 1e-6)
        first = bound / _FIRST_CELLS
        found = _refined(lambda width: self._composed(width, epsilon=epsilon).delta(epsilon), first, 1.0)
        return min(found, self._renyi_delta(epsilon))

    @cached_property
    def advantage(self) -> float:
        return self.delta(0.0)

    def false_negatives(self, false_positives: float) -> float:
        width = max(self._renyi_epsilon(1e-6), 1e-6) / _FIRST_CELLS
        return min(false_negatives(curve, false_positives) for curve in self._composed(width, epsilon=0.0).curves)

    @cached_property
    def _renyi(self) -> tuple[FloatArray, float]:
        return _renyi_and_failure(Composition(events=self.events))

    def _renyi_epsilon(self, delta: float) -> float:
        rdp, failure = self._renyi
        return renyi_epsilon(tuple(rdp.tolist()), delta - failure)

    def _renyi_delta(self, epsilon: float) -> float:
        """Smallest delta at which the Renyi divergences give this epsilon, to 1e-6 relative, rounded up; 1 where there is none."""
        low, high = -700.0, 0.0  # natural logarithms; the bound falls as delta grows
        if self._renyi_epsilon(1.0 - 1e-9) > epsilon:
            return 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if self._renyi_epsilon(math.exp(middle)) <= epsilon else (middle, high)
        return math.exp(high)

    def _composed(self, width: float, *, delta: float | None = None, epsilon: float | None = None) -> _Both:
        return _compose_tree(self.events, width, delta=delta, epsilon=epsilon)


@dataclass(frozen=True)
class _Both:
    """Loss distributions of both directions, and the chance of failure beside them."""

    curves: tuple[LossDistribution, LossDistribution]

    def epsilon(self, delta: float) -> float:
        return max(c.epsilon(delta) for c in self.curves)

    def delta(self, epsilon: float) -> float:
        return max(c.delta(epsilon) for c in self.curves)


def _refined(bound_at: Callable[[float], float], width: float, fallback: float) -> float:
    """A pessimistic bound on ever finer grids until it settles; every grid's bound is valid, so the least one counts."""
    best, last = fallback, math.inf
    for _ in range(12):
        try:
            found = bound_at(width)
        except MemoryError:  # a grid too fine to hold: what coarser ones gave is valid, only less tight
            break
        best = min(best, found)
        if abs(last - found) <= _CLOSE * found + 1e-14:
            break
        last, width = found, width / 2
    return best


def _compose_tree(events: Sequence[Event], width: float, *, delta: float | None, epsilon: float | None) -> _Both:
    """Both directions of a composition on one grid. Gaussians are merged beforehand: that is exact."""
    alike = Counter(_unlabelled(e) for e in events)
    mu_squared = math.fsum(n * e.mu_squared for e, n in alike.items() if isinstance(e, Gaussian | StabilityHistogram))
    failure = math.fsum(n * e.delta for e, n in alike.items() if isinstance(e, StabilityHistogram))
    count = sum(n * (e.steps if isinstance(e, SubsampledGaussian) else 1) for e, n in alike.items())
    tail = min(delta or 1e-9, 1e-9) * 1e-5 / count
    forth: list[tuple[LossDistribution, int]] = []
    back: list[tuple[LossDistribution, int]] = []
    if mu_squared > 0:
        curve = gaussian_curve(math.sqrt(mu_squared))
        _add(discretise(Pair(curve, curve), width, tail), 1, forth, back)
    for event, n in alike.items():
        if isinstance(event, Gaussian | StabilityHistogram):
            continue
        if isinstance(event, Composition):
            _add(_compose_tree(event.events, width, delta=delta, epsilon=epsilon).curves, n, forth, back)
        elif isinstance(event, Parallel):
            branches = [_compose_tree([b], width, delta=delta, epsilon=0.0).curves for b in event.branches]
            _add(either(branches), n, forth, back)
        else:
            steps = event.steps if isinstance(event, SubsampledGaussian) else 1
            _add(discretise(pair_of(event), width, tail), n * steps, forth, back)
    if not forth:
        raise MemoryError
    removed = compose(forth, delta=delta, epsilon=epsilon)
    same = all(f is b for (f, _), (b, _) in zip(forth, back, strict=True))
    added = removed if same else compose(back, delta=delta, epsilon=epsilon)
    return _Both((removed.failing(failure), added.failing(failure)))


def _add(
    both: tuple[LossDistribution, LossDistribution],
    count: int,
    forth: list[tuple[LossDistribution, int]],
    back: list[tuple[LossDistribution, int]],
) -> None:
    forth.append((both[0], count))
    back.append((both[1], count))


def _flat(events: Iterable[Event]) -> Iterable[Event]:
    """Events with compositions opened; an event of nothing costs nothing."""
    for event in events:
        if isinstance(event, Composition):
            yield from _flat(event.events)
        elif not isinstance(event, Parallel) or event.branches:
            yield event


def _unlabelled(event: Event) -> Event:
    """The event without what it was for, so that equal mechanisms are counted together."""
    if isinstance(event, Composition):
        return Composition(events=tuple(_unlabelled(e) for e in event.events))
    if isinstance(event, Parallel):
        return Parallel(branches=tuple(_unlabelled(e) for e in event.branches))
    return replace(event, stage="", label="")


def _times(cost: Cost, n: int) -> Cost:
    return Cost(
        mu_squared=n * cost.mu_squared,
        delta=n * cost.delta,
        rdp=None if cost.rdp is None else tuple(n * v for v in cost.rdp),
    )


def _cost(event: Event) -> Cost:
    """Cost of one event; branches that see disjoint units cost the largest of them, component by component."""
    if isinstance(event, Composition):
        return cost_of(event.events)
    if isinstance(event, Parallel):
        costs = [_cost(b) for b in event.branches] or [Cost()]
        return Cost(
            mu_squared=max(c.mu_squared for c in costs),
            delta=max(c.delta for c in costs),
            rdp=tuple(map(max, *(c.renyi for c in costs))) if len(costs) > 1 else costs[0].rdp,
        )
    if isinstance(event, Gaussian | StabilityHistogram):
        return cost_of([event])
    return _leaf_cost(event)


@lru_cache(maxsize=1024)
def _leaf_cost(event: Leaf) -> Cost:
    failure = 0.0 if isinstance(event, _BOUNDED) else DOMINATION_FAILURE
    mu = mu_of_pure(event.epsilon) if isinstance(event, AboveThreshold) else dominating_mu(event, failure)
    return Cost(mu_squared=mu**2, delta=failure, rdp=tuple(renyi_of(event).tolist()))


def dominating_mu(event: Leaf, failure: float) -> float:
    """A mu such that the event, but for a chance of `failure`, tells no more than a mu-Gaussian-DP mechanism.

    That is, its curve is at most failure + (1 - failure) * (the Gaussian's), everywhere: so it is dominated by a Gaussian that
    fails openly with that chance, and composes as one. Compared on a grid, each value with the Gaussian's one cell later:
    both curves fall, so this settles what lies between. A failure of 0 is for mechanisms of bounded loss.
    """
    epsilons, own = _whole_curve(event, failure)

    def dominated(mu: float) -> bool:
        allowed = failure + (1 - failure) * gaussian_curve(mu)(epsilons)
        return bool((own[:-1] <= allowed[1:]).all())

    low, high = 0.0, 1.0
    while not dominated(high):
        low, high = high, 2 * high
        if high > 1e6:
            raise PrivacyError("an event tells more than any Gaussian mechanism: its noise is next to nothing")
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if dominated(middle) else (middle, high)
    return high


def _whole_curve(event: Leaf, failure: float) -> tuple[FloatArray, FloatArray]:
    """(epsilons, deltas): the larger of both directions, from 0 to where it has fallen to `failure`."""
    steps = event.steps if isinstance(event, SubsampledGaussian) else 1
    width = max(renyi_epsilon(tuple(renyi_of(event).tolist()), failure or 1e-9), 1e-9) / 4096
    parts = [[(part, steps)] for part in discretise(pair_of(event), width, 1e-3 * failure / steps)]
    # One composition is precise around one epsilon; each is valid everywhere, so the least counts.
    last = max(_end(part, failure) for part in parts)
    epsilons = np.linspace(0.0, last, 4096)
    around = last * np.linspace(0.0, 1.0, 6 if steps > 1 else 1)
    deltas = [np.min([compose(part, epsilon=float(e)).at(epsilons) for e in around], axis=0) for part in parts]
    return epsilons, np.max(deltas, axis=0)


def _end(part: list[tuple[LossDistribution, int]], failure: float) -> float:
    """An epsilon at which the curve is at most `failure`."""
    if failure == 0:
        return float(part[0][0].losses[-1])
    return compose(part, delta=failure / 2).epsilon(failure / 2)


def _pure_epsilon(event: Event) -> float:
    """Epsilon at delta 0: of bounded losses it is finite, and where they are few the best bound there is."""
    if isinstance(event, Composition):
        return math.fsum(_pure_epsilon(e) for e in event.events)
    if isinstance(event, Parallel):
        return max((_pure_epsilon(b) for b in event.branches), default=0.0)
    return event.epsilon if isinstance(event, _BOUNDED) else math.inf


def _renyi_and_failure(event: Event) -> tuple[FloatArray, float]:
    """Renyi divergences of a tree at ORDERS, and its additive chance of failure."""
    if isinstance(event, Composition):
        children = [(_renyi_and_failure(e), n) for e, n in Counter(_unlabelled(e) for e in event.events).items()]
        total = np.sum([n * rdp for (rdp, _), n in children], axis=0) if children else np.zeros(len(ORDERS))
        return total, math.fsum(n * failure for (_, failure), n in children)
    if isinstance(event, Parallel):
        branches = [_renyi_and_failure(b) for b in event.branches] or [(np.zeros(len(ORDERS)), 0.0)]
        return np.max([rdp for rdp, _ in branches], axis=0), max(failure for _, failure in branches)
    return renyi_of(event), event.delta if isinstance(event, StabilityHistogram) else 0.0
