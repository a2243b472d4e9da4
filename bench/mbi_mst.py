"""MST by mbi's inference: the peer's wheel holds no mechanism, so this is its published algorithm, told to it.

McKenna, Miklau, Sheldon: Winning the NIST Contest (2021). A third of rho each goes to one-way counts, to a spanning tree of pairs by the
exponential mechanism on L1 errors of the independent model, and to the tree's two-way counts. Noise is floating-point, as in the original:
for comparison only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from math import sqrt
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

jax.config.update("jax_enable_x64", True)  # as mbi asks for beyond 100,000 rows

import mbi  # noqa: E402  # it looks at the setting when it is imported

SELECTION_ROUNDS, ROUNDS = 1000, 5000
# Cells whose noisy count is below so many standard deviations are taken together.
MERGED_BELOW = 3.0

Rng = np.random.Generator


def rho_of(epsilon: float, delta: float) -> float:
    """The largest rho for which rho-zCDP is (epsilon, delta)-DP, by Canonne, Kamath, Steinke (2020), proposition 12."""
    low, high = 0.0, epsilon + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta_of(middle, epsilon) <= delta else (low, middle)
    return low


def _delta_of(rho: float, epsilon: float) -> float:
    orders = 1 + np.geomspace(1e-3, 1e4, 4000)
    logs = (orders - 1) * (orders * rho - epsilon) - np.log(orders - 1) + orders * np.log1p(-1 / orders)
    return float(np.exp(min(logs.min(), 0.0)))


def mst(
    codes: Mapping[str, npt.NDArray[np.int64]], sizes: Mapping[str, int], epsilon: float, delta: float, rng: Rng
) -> Any:
    """Synthetic codes by column, as many rows as a noisy count of them says."""
    data = mbi.Dataset(codes, mbi.Domain.fromdict(dict(sizes)))
    rho = rho_of(epsilon, delta)
    ones = _measured(data, [(a,) for a in data.domain], rho / 3, rng)
    mapping = {m.clique[0]: _merged(np.asarray(m.noisy_measurement), m.stddev) for m in ones}
    mapping = {a: m for a, m in mapping.items() if m.max() + 1 < m.size}
    ones = [m.compress(mapping, data.domain) for m in ones]
    small = data.compress(mapping)
    tree = _tree(small, ones, rho / 3, rng)
    twos = _measured(small, tree, rho / 3, rng)
    model = mbi.estimation.MirrorDescent().estimate(small.domain, [*ones, *twos], iters=ROUNDS)
    np.random.seed(int(rng.integers(2**32)))  # what mbi draws rows with
    made = model.synthetic_data().decompress(mapping)
    return {a: np.asarray(made.data[a]) for a in codes}


def _measured(data: Any, cliques: Iterable[tuple[str, ...]], rho: float, rng: Rng) -> list[Any]:
    """Gaussian counts of each; together rho-zCDP, for each moves by one in one cell where a row comes or goes."""
    cliques = list(cliques)
    sd = sqrt(len(cliques) / (2 * rho))
    found = []
    for clique in cliques:
        counts = np.asarray(data.project(clique).datavector())
        found.append(mbi.LinearMeasurement(counts + rng.normal(0, sd, counts.size), clique, sd))
    return found


def _merged(noisy: npt.NDArray[np.float64], sd: float) -> npt.NDArray[np.int64]:
    """The new code of each: frequent ones keep one of their own, all others share the last."""
    frequent = noisy >= MERGED_BELOW * sd
    return np.where(frequent, np.cumsum(frequent) - 1, frequent.sum())


def _tree(data: Any, ones: list[Any], rho: float, rng: Rng) -> list[tuple[str, str]]:
    """Pairs that span the columns, each drawn by the exponential mechanism; together rho-zCDP."""
    independent = mbi.estimation.MirrorDescent().estimate(data.domain, ones, iters=SELECTION_ROUNDS)
    shares = {a: np.asarray(independent.project((a,)).datavector()) for a in data.domain}
    total = float(independent.total)
    errors = {}
    for a, b in combinations(data.domain, 2):
        real = np.asarray(data.project((a, b)).datavector())
        errors[a, b] = float(np.abs(real - np.outer(shares[a], shares[b]).ravel() / total).sum())
    part = {a: {a} for a in data.domain}
    # epsilon-DP by the exponential mechanism is epsilon^2/8-zCDP (Cesar, Rogers 2021).
    epsilon = sqrt(8 * rho / max(len(part) - 1, 1))
    tree: list[tuple[str, str]] = []
    while len(tree) < len(part) - 1:
        open_pairs = [(a, b) for a, b in errors if part[a] is not part[b]]
        scores = 0.5 * epsilon * np.array([errors[pair] for pair in open_pairs])
        weights = np.exp(scores - scores.max())
        a, b = open_pairs[int(rng.choice(len(open_pairs), p=weights / weights.sum()))]
        tree.append((a, b))
        together = part[a] | part[b]
        part |= dict.fromkeys(together, together)
    return tree
