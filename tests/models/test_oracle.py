"""Our fit of the graphical model against another library's: mbi (McKenna et al.), in JAX, by mirror descent."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from dpsynth.models.marginals.inference import Table, clique_marginals, fit_potentials
from dpsynth.models.marginals.junction_tree import JunctionTree, build

SIZES = (6, 8, 7, 12, 9, 20, 6, 10)
EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 4), (3, 5), (4, 6), (5, 7), (6, 7), (0, 4), (2, 7)]
N, SIGMA = 20_000, 30.0


@pytest.fixture(scope="module")
def mbi() -> Any:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mbi")


def measured() -> list[Table]:
    """Noisy tables of eight columns that depend on a common hidden one."""
    rng = np.random.default_rng(0)
    hidden = rng.random(N)
    rows = [np.minimum(((0.6 * hidden + 0.4 * rng.random(N)) * size).astype(int), size - 1) for size in SIZES]
    tables = []
    for query in [*((a,) for a in range(len(SIZES))), *EDGES]:
        shape = [SIZES[a] for a in query]
        flat = np.ravel_multi_index([rows[a] for a in query], shape)
        counts = np.bincount(flat, minlength=math.prod(shape)).reshape(shape) + rng.normal(0, SIGMA, shape)
        tables.append(Table(query, torch.from_numpy(counts), torch.full((1,), SIGMA, dtype=torch.float64)))
    return tables


def our_marginals(tree: JunctionTree, tables: list[Table], regularisation: float) -> list[torch.Tensor]:
    """What the fitted model says of each measured table, in units."""
    base = [torch.full((size,), -math.log(size), dtype=torch.float64) for size in SIZES]
    potentials, _ = fit_potentials(tree, base, tables, n_units=N, regularisation=regularisation, iterations=2000)
    marginals = clique_marginals(tree, potentials)
    out = []
    for table in tables:
        home = tree.home(table.attributes)
        others = [i for i, a in enumerate(tree.cliques[home]) if a not in table.attributes]
        out.append(N * (marginals[home].sum(dim=others) if others else marginals[home]))
    return out


def loss(marginals: list[torch.Tensor], tables: list[Table]) -> float:
    """Half the squared residuals over the noise: what mbi minimises, and ours as lambda goes to zero."""
    return sum(0.5 * float((((m - t.values) / t.sigma) ** 2).sum()) for m, t in zip(marginals, tables, strict=True))


@pytest.mark.slow
def test_the_fit_agrees_with_mirror_descent(mbi: Any) -> None:
    """Both minimise the squared residuals over the same tables on the same graph; ours adds lambda^-1 times the relative
    entropy, which fades with a small lambda. Then the two must meet in the objective and in every measured table."""
    tables = measured()
    tree = build(SIZES, EDGES)
    ours = our_marginals(tree, tables, regularisation=3e-4)

    names = "abcdefgh"
    domain = mbi.Domain(tuple(names), SIZES)
    asked = [
        mbi.LinearMeasurement(t.values.numpy().ravel(), tuple(names[a] for a in t.attributes), SIGMA) for t in tables
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = mbi.estimation.MirrorDescent().estimate(domain, asked, known_total=float(N), iters=8000)
    theirs = [
        torch.from_numpy(np.array(fitted.project(m.clique).datavector()).reshape(t.values.shape))
        for m, t in zip(asked, tables, strict=True)
    ]
    noise = loss([t.values + SIGMA for t in tables], tables)
    assert loss(ours, tables) < noise  # the noise itself leaves half a unit for each cell
    assert loss(ours, tables) == pytest.approx(loss(theirs, tables), rel=2e-3)
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).abs().sum()) / (2 * N) < 3e-3


@pytest.mark.parametrize("edges", [[], [(0, 1)], [(0, 1), (1, 2), (0, 2)], [(0, 1), (1, 2), (2, 3), (0, 3)]])
def test_the_optimum_is_the_best_of_all_models_on_a_small_domain(edges: list[tuple[int, int]]) -> None:
    """Brute force: the primal, with a parameter for every possible row.

    min_p N KL(p | q) + sum_i |N M_i p - y_i|^2 / (2 lambda sigma^2), of which ours solves the dual.
    """
    sizes, n, sigma, regularisation = (2, 3, 2, 3), 500.0, 8.0, 0.2
    rng = np.random.default_rng(len(edges))
    joint = rng.dirichlet(np.ones(math.prod(sizes))).reshape(sizes)
    tables = []
    for query in [*((a,) for a in range(4)), *edges]:
        others = tuple(a for a in range(4) if a not in query)
        values = n * joint.sum(axis=others) + rng.normal(0, sigma, [sizes[a] for a in query])
        tables.append(Table(query, torch.from_numpy(values), torch.full((1,), sigma, dtype=torch.float64)))
    shares = [rng.dirichlet(np.ones(size) * 5) for size in sizes]
    tree = build(sizes, edges)
    potentials, _ = fit_potentials(
        tree,
        [torch.from_numpy(np.log(s)) for s in shares],
        tables,
        n_units=n,
        regularisation=regularisation,
        iterations=2000,
    )
    log_q = sum(
        torch.from_numpy(np.log(s)).reshape([-1 if a == b else 1 for b in range(4)]) for a, s in enumerate(shares)
    )

    def primal(log_p: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(log_p.flatten(), 0).reshape(sizes)
        value = n * (p * (p.log() - log_q)).sum()
        for table in tables:
            others = [a for a in range(4) if a not in table.attributes]
            value = value + ((n * p.sum(dim=others) - table.values) ** 2).sum() / (2 * regularisation * sigma**2)
        return value

    model = torch.zeros(sizes, dtype=torch.float64)
    for clique, potential in zip(tree.cliques, potentials, strict=True):
        model = model + potential.reshape([sizes[a] if a in clique else 1 for a in range(4)])
    free = torch.zeros(sizes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [free], max_iter=3000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = primal(free)
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        assert float(primal(model)) == pytest.approx(float(primal(free)), rel=1e-6)
        both = [torch.softmax(x.flatten(), 0) for x in (model, free)]
    assert float((both[0] - both[1]).abs().sum()) < 2e-3
    for direction in rng.normal(size=(20, *sizes)):  # any step away from it is worse
        assert float(primal(model + 0.05 * torch.from_numpy(direction))) > float(primal(model))
