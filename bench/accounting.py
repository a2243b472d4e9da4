"""Epsilon by this package's accountant and by other libraries, for the same events, side by side.

    python bench/accounting.py [--json FILE]

Others: Opacus (Renyi; PRV, upper end), dp-accounting (Renyi; PLD), the exact Gaussian where that is all there is. "lower" is
what no sound accountant can go below: dp-accounting's optimistic PLD, the exponential mechanism by one pair of neighbours.
dp-accounting is a development dependency.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dpsynth.privacy.accounting import gaussian_epsilon, profile_of
from dpsynth.privacy.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    ExponentialMechanism,
    Gaussian,
    Laplace,
    Leaf,
    SubsampledGaussian,
)

DELTA = 1e-6
_FOR = {"stage": "bench", "label": "bench"}


def _gaussian(sigma: float) -> Event:
    return Gaussian(**_FOR, sensitivity=1.0, sigma=sigma)


def _sgd(rate: float, noise: float, steps: int, cap: int | None = None, units: int | None = None) -> Event:
    return SubsampledGaussian(
        **_FOR, sampling_rate=rate, noise_multiplier=noise, steps=steps, max_batch=cap, units_at_most=units
    )


def _choice(epsilon: float) -> Event:
    return ExponentialMechanism(**_FOR, sensitivity=1.0, epsilon=epsilon)


def _laplace(scale: float) -> Event:
    return Laplace(**_FOR, sensitivity=1.0, scale=scale)


def _discrete(sigma: float) -> Event:
    return DiscreteGaussian(**_FOR, sensitivity=1, sigma=sigma)


MIXED: tuple[Event, ...] = (
    *([_gaussian(20)] * 30),
    *([_choice(0.1)] * 20),
    *([_laplace(10)] * 2),
    *([_discrete(20)] * 5),
    _sgd(0.01, 1.2, 1000),
)
CONFIGURATIONS: dict[str, tuple[Event, ...]] = {
    "100 Gaussians, sigma 10": (_gaussian(10),) * 100,
    "1 Gaussian, sigma 1": (_gaussian(1),),
    "DP-SGD q .01, sigma 1, 1,000 steps": (_sgd(0.01, 1, 1000),),
    "DP-SGD q .001, sigma .8, 10,000 steps": (_sgd(0.001, 0.8, 10_000),),
    "DP-SGD q .1, sigma 4, 500 steps": (_sgd(0.1, 4, 500),),
    "DP-SGD q .02, sigma .7, 300 steps": (_sgd(0.02, 0.7, 300),),
    "DP-SGD q .005, sigma 2, 5,000 steps": (_sgd(0.005, 2, 5000),),
    "DP-SGD q .25, sigma 8, 2,000 steps": (_sgd(0.25, 8, 2000),),
    "DP-SGD q .01, sigma 1, cut at 1,200 of 100,000": (_sgd(0.01, 1, 1000, 1200, 100_000),),
    "20 Laplace, scale 10": (_laplace(10),) * 20,
    "10 discrete Laplace, scale 5": (DiscreteLaplace(**_FOR, sensitivity=1, scale=5.0),) * 10,
    "10 discrete Gaussians, sigma 5": (_discrete(5),) * 10,
    "20 exponential mechanisms, epsilon .1": (_choice(0.1),) * 20,
    "10 exponential mechanisms, epsilon 1": (_choice(1.0),) * 10,
    "40 Gaussians, sigma 20, and DP-SGD": ((_gaussian(20),) * 40 + (_sgd(0.01, 1.2, 1000),)),
    "30 Gaussians, 20 exponential, 2 Laplace, 5 discrete Gaussians, DP-SGD": MIXED,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Epsilon at DELTA by each accountant; None where it cannot say.  seconds: ours, wall clock."""

    name: str
    ours: float
    seconds: float
    lower: float
    others: dict[str, float | None]


def compare(name: str, events: Sequence[Event]) -> Row:
    start = time.perf_counter()
    ours = profile_of(events).epsilon(DELTA)
    seconds = time.perf_counter() - start
    others = {
        "exact Gaussian": exact_gaussian(events),
        "Opacus RDP": opacus(events, "rdp"),
        "Opacus PRV": opacus(events, "prv"),
        "dp-accounting RDP": library_rdp(events),
        "dp-accounting PLD": library_pld(events, pessimistic=True),
    }
    lower = library_pld(events, pessimistic=False)
    return Row(name=name, ours=ours, seconds=seconds, lower=lower, others=others)


def exact_gaussian(events: Sequence[Event]) -> float | None:
    if not all(isinstance(e, Gaussian) for e in events):
        return None
    return gaussian_epsilon(math.sqrt(sum(e.mu_squared for e in events if isinstance(e, Gaussian))), DELTA)


def opacus(events: Sequence[Event], which: str) -> float | None:
    """Opacus knows Gaussians, sampled or not."""
    if not all(isinstance(e, Gaussian | SubsampledGaussian) for e in events) or _cut(events):
        return None
    from opacus.accountants import PRVAccountant, RDPAccountant

    accountant = RDPAccountant() if which == "rdp" else PRVAccountant()
    accountant.history = [
        (e.sigma / e.sensitivity, 1.0, 1) if isinstance(e, Gaussian) else (e.noise_multiplier, e.sampling_rate, e.steps)  # type: ignore[union-attr]  # checked above
        for e in events
    ]
    return float(accountant.get_epsilon(delta=DELTA))


def _cut(events: Iterable[Event]) -> bool:
    return any(isinstance(e, SubsampledGaussian) and e.max_batch is not None for e in events)


def library_rdp(events: Sequence[Event]) -> float | None:
    if _cut(events):
        return None
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    def one(e: Event) -> Any:
        match e:
            case Gaussian():
                return dp_event.GaussianDpEvent(e.sigma / e.sensitivity)
            case DiscreteGaussian():
                return dp_event.ZCDpEvent(0.5 * (e.sensitivity / e.sigma) ** 2)
            case ExponentialMechanism():
                return dp_event.ZCDpEvent(e.epsilon**2 / 8)
            case Laplace() | DiscreteLaplace():  # pure DP: the Laplace event bounds the continuous one alone
                return (
                    dp_event.LaplaceDpEvent(1 / e.epsilon)
                    if isinstance(e, Laplace)
                    else dp_event.ZCDpEvent(e.epsilon**2 / 2)
                )
            case SubsampledGaussian():
                inner = dp_event.PoissonSampledDpEvent(e.sampling_rate, dp_event.GaussianDpEvent(e.noise_multiplier))
                return dp_event.SelfComposedDpEvent(inner, e.steps)
        raise TypeError

    accountant = RdpAccountant()
    for e in events:
        accountant.compose(one(e))
    return float(accountant.get_epsilon(DELTA))


def library_pld(events: Sequence[Event], *, pessimistic: bool) -> float:
    """dp-accounting's PLDs put together by hand: its accountant refuses some of these events.

    The exponential mechanism stands as pure DP (pessimistic), or as the pair of losses +- epsilon / 2 (a lower bound).
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    grid = {
        "value_discretization_interval": 1e-4 if pessimistic else 2e-5,
        "pessimistic_estimate": pessimistic,
        "use_connect_dots": pessimistic,
    }

    plain = {name: value for name, value in grid.items() if name != "use_connect_dots"}  # of discrete noise

    def one(e: Leaf) -> Any:
        match e:
            case Gaussian():
                return pld.from_gaussian_mechanism(e.sigma, sensitivity=e.sensitivity, **grid)
            case DiscreteGaussian():
                return pld.from_discrete_gaussian_mechanism(e.sigma, sensitivity=e.sensitivity, **plain)
            case Laplace():
                return pld.from_laplace_mechanism(e.scale, sensitivity=e.sensitivity, **grid)
            case DiscreteLaplace():
                return pld.from_discrete_laplace_mechanism(1 / e.scale, sensitivity=e.sensitivity, **plain)
            case ExponentialMechanism():
                bound = e.epsilon if pessimistic else e.epsilon / 2
                return pld.from_randomized_response(2 / (1 + math.exp(bound)), 2, **plain)
            case SubsampledGaussian():
                # Without the cut, which only ever costs more: for those a lower bound, not an upper one.
                return pld.from_gaussian_mechanism(e.noise_multiplier, sampling_prob=e.sampling_rate, **grid)
        raise TypeError

    counts: dict[Leaf, int] = {}
    for e in events:
        counts[e] = counts.get(e, 0) + (e.steps if isinstance(e, SubsampledGaussian) else 1)  # type: ignore[index]
    total = None
    for e, n in counts.items():
        part = one(e).self_compose(n)
        total = part if total is None else total.compose(part)
    return float(total.get_epsilon_for_delta(DELTA))  # type: ignore[union-attr]  # there are events


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    wanted = parser.parse_args()
    rows = [compare(name, events) for name, events in CONFIGURATIONS.items()]
    table = Table(title=f"epsilon at delta {DELTA:g}")
    table.add_column("events", max_width=34)
    for column in ("ours", "s", "lower", *rows[0].others):
        table.add_column(column, justify="right")
    for row in rows:
        others = ["" if v is None else f"{v:.4f}" for v in row.others.values()]
        table.add_row(row.name, f"[bold]{row.ours:.4f}[/]", f"{row.seconds:.2f}", f"{row.lower:.4f}", *others)
    Console().print(table)
    if wanted.json:
        with open(wanted.json, "w", encoding="utf-8") as file:
            json.dump([row.__dict__ for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
