"""Inference against brute force, the dual's optimum against its conditions, sampling against the model."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, clique_marginals, fit_potentials, log_partition
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.select import dense_tree, gains, select, spanning_tree
from dpsynth.privacy.errors import ModelError

SHAPES = {
    "chain": [(0, 1), (1, 2), (2, 3)],
    "star": [(0, 1), (0, 2), (0, 3)],
    "cycle": [(0, 1), (1, 2), (2, 3), (0, 3)],
    "complete": list(itertools.combinations(range(4), 2)),
    "two parts": [(0, 1), (2, 3)],
    "no edge": [],
}


def random_potentials(edges: list[tuple[int, int]], sizes: tuple[int, ...], seed: int = 0):  # type: ignore[no-untyped-def]
    tree = build(sizes, edges)
    generator = torch.Generator().manual_seed(seed)
    shapes = [[sizes[a] for a in clique] for clique in tree.cliques]
    return tree, [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


def brute_force(tree, potentials, sizes):  # type: ignore[no-untyped-def]
    """The full joint's unnormalised log-probabilities."""
    joint = torch.zeros(sizes, dtype=torch.float64)
    for clique, potential in zip(tree.cliques, potentials, strict=True):
        joint = joint + potential.reshape([sizes[a] if a in clique else 1 for a in range(len(sizes))])
    return joint


@pytest.mark.parametrize("edges", SHAPES.values(), ids=SHAPES.keys())
def test_inference_equals_brute_force(edges: list[tuple[int, int]]) -> None:
    sizes = (2, 3, 4, 2)
    tree, potentials = random_potentials(edges, sizes)
    joint = brute_force(tree, potentials, sizes)
    assert float(log_partition(tree, potentials)) == pytest.approx(float(torch.logsumexp(joint.flatten(), 0)))
    p = torch.softmax(joint.flatten(), 0).reshape(sizes)
    for clique, marginal in zip(tree.cliques, clique_marginals(tree, potentials), strict=True):
        others = [a for a in range(4) if a not in clique]
        assert torch.allclose(marginal, p.sum(dim=others) if others else p)


@settings(max_examples=80)
@given(
    st.integers(2, 7).flatmap(
        lambda d: st.tuples(st.just(d), st.sets(st.tuples(st.integers(0, d - 1), st.integers(0, d - 1))))
    )
)
def test_a_junction_tree_covers_every_edge_and_runs_connected(graph: tuple[int, set[tuple[int, int]]]) -> None:
    d, drawn = graph
    edges = [(min(e), max(e)) for e in drawn if e[0] != e[1]]
    tree = build([2] * d, edges)
    assert set().union(*tree.cliques) == set(range(d))
    assert all(any(set(e) <= set(c) for c in tree.cliques) for e in edges)
    for a in range(d):  # the cliques that hold an attribute form a connected subtree: one root among them
        holding = [i for i, c in enumerate(tree.cliques) if a in c]
        roots = [i for i in holding if tree.parents[i] == -1 or a not in tree.cliques[tree.parents[i]]]
        assert len(roots) == 1
    for i, (parent, separator) in enumerate(zip(tree.parents, tree.separators, strict=True)):
        assert parent < i
        if parent >= 0:
            assert set(separator) == set(tree.cliques[i]) & set(tree.cliques[parent])


def noisy_tables(rows: np.ndarray, sizes: tuple[int, ...], edges: list[tuple[int, int]], sigma: float) -> list[Table]:
    rng = np.random.default_rng(1)
    out = []
    for query in [*((a,) for a in range(len(sizes))), *edges]:
        shape = [sizes[a] for a in query]
        flat = np.ravel_multi_index([rows[:, a] for a in query], shape)
        counts = np.bincount(flat, minlength=math.prod(shape)).reshape(shape) + rng.normal(0, sigma, shape)
        out.append(Table(tuple(query), torch.from_numpy(counts), torch.full((1,), sigma, dtype=torch.float64)))
    return out


def correlated_rows(n: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, n)
    b = np.where(rng.random(n) < 0.8, a, rng.integers(0, 3, n))
    c = np.where(rng.random(n) < 0.6, b, rng.integers(0, 3, n))
    return np.stack([a, b, c, rng.integers(0, 4, n)], axis=1)


def test_the_optimum_meets_the_measurements_as_the_dual_says() -> None:
    """At the minimum N mu = y - lambda sigma^2 theta, so with small lambda the tables are met, clipped at their noise."""
    rows, sizes, edges = correlated_rows(), (3, 3, 3, 4), [(0, 1), (1, 2)]
    tree = build(sizes, edges)
    tables = noisy_tables(rows, sizes, edges, sigma=10.0)
    base = [torch.full((s,), -math.log(s), dtype=torch.float64) for s in sizes]
    potentials, _ = fit_potentials(tree, base, tables, n_units=len(rows), regularisation=0.01, iterations=200)
    assert float(log_partition(tree, potentials)) == pytest.approx(0.0, abs=1e-9)
    marginals = clique_marginals(tree, potentials)
    for table in tables:
        clique = tree.cliques[tree.home(table.attributes)]
        others = [i for i, a in enumerate(clique) if a not in table.attributes]
        marginal = marginals[tree.home(table.attributes)]
        fitted = (marginal.sum(dim=others) if others else marginal) * len(rows)
        assert (
            float((fitted - table.values).abs().max()) < 45
        )  # 4.5 sd of the noise; the 1-ways and 2-ways disagree by that


def test_the_gradient_of_the_objective_is_right() -> None:
    """Finite differences of log Z against the marginals that automatic differentiation gives."""
    tree, potentials = random_potentials(SHAPES["cycle"], (2, 2, 3, 2))
    marginals = clique_marginals(tree, potentials)
    step = 1e-6
    for i, potential in enumerate(potentials):
        for cell in itertools.product(*(range(s) for s in potential.shape)):
            moved = [p.clone() for p in potentials]
            moved[i][cell] += step
            slope = float(log_partition(tree, moved) - log_partition(tree, potentials)) / step
            assert slope == pytest.approx(float(marginals[i][cell]), abs=1e-5)


@pytest.mark.parametrize("edges", SHAPES.values(), ids=SHAPES.keys())
def test_samples_have_the_models_joint_distribution(edges: list[tuple[int, int]]) -> None:
    sizes = (2, 3, 4, 2)
    tree, potentials = random_potentials(edges, sizes, seed=3)
    p = torch.softmax(brute_force(tree, potentials, sizes).flatten(), 0).numpy()
    field = MarkovField(list("abcd"), edges, tree, potentials)
    n = 60_000
    drawn = field.sample(n, rng=np.random.default_rng(0), evidence={})
    counts = np.bincount(np.ravel_multi_index(list(drawn.T), sizes), minlength=len(p))
    # Systematic sampling is at least as even as independent draws: 5 sd of those in every cell.
    assert np.all(np.abs(counts - n * p) < 5 * np.sqrt(n * p) + 2)


def test_evidence_conditions_exactly() -> None:
    sizes = (2, 3, 4, 2)
    tree, potentials = random_potentials(SHAPES["cycle"], sizes, seed=4)
    joint = torch.softmax(brute_force(tree, potentials, sizes).flatten(), 0).reshape(sizes).numpy()
    field = MarkovField(list("abcd"), SHAPES["cycle"], tree, potentials)
    drawn = field.sample(40_000, rng=np.random.default_rng(0), evidence={"c": np.array([0.0, 1.0, 0.0, 0.0])})
    assert set(drawn[:, 2]) == {1}
    expected = joint[:, :, 1, :].sum(axis=(1, 2))
    assert np.bincount(drawn[:, 0]) / 40_000 == pytest.approx(expected / expected.sum(), abs=0.01)
    tilted = field.sample(40_000, rng=np.random.default_rng(0), evidence={"a": np.array([1.0, 3.0])})
    expected = joint.sum(axis=(1, 2, 3)) * [1, 3]
    assert np.bincount(tilted[:, 0]) / 40_000 == pytest.approx(expected / expected.sum(), abs=0.01)
    with pytest.raises(ModelError, match="no row possible"):
        field.sample(5, rng=np.random.default_rng(0), evidence={"a": np.zeros(2)})


def test_a_field_survives_its_state() -> None:
    sizes = (2, 3, 4, 2)
    tree, potentials = random_potentials(SHAPES["cycle"], sizes)
    field = MarkovField(list("abcd"), SHAPES["cycle"], tree, potentials)
    arrays, body = field.state()
    again = MarkovField.from_state(arrays, body)
    draws = [f.sample(100, rng=np.random.default_rng(0), evidence={}) for f in (field, again)]
    assert np.array_equal(*draws)
    arrays["potential.0"] = arrays["potential.0"][:1]
    with pytest.raises(ModelError, match="altered"):
        MarkovField.from_state(arrays, body)


def test_the_spanning_tree_is_the_best_of_all() -> None:
    rng = np.random.default_rng(2)
    pairs = list(itertools.combinations(range(5), 2))
    gain = dict(zip(((pair, 0) for pair in pairs), rng.random(len(pairs)) + 0.1, strict=True))
    best = max(
        sum(gain[e, 0] for e in edges)
        for edges in itertools.combinations(pairs, 4)
        if len(set().union(*edges)) == 5 and max(map(len, build([2] * 5, edges).cliques)) == 2
    )
    assert sum(gain[e] for e in spanning_tree(gain, 5)) == pytest.approx(best)


def test_pairs_that_are_all_noise_are_left_out_and_the_cap_holds() -> None:
    found = {(0, 1): 5000.0, (0, 2): 4000.0, (1, 2): 30.0, (0, 3): 3000.0, (1, 3): 2500.0, (2, 3): 2000.0}
    distances = {(pair, 0): distance for pair, distance in found.items()}
    sizes, even = [[10]] * 4, [1.0] * 4
    assert gains(distances, sizes, sigma=1.0, noise_left=1.0, weights=even)[(1, 2), 0] < 0
    chosen = dense_tree(distances, sizes, mu_squared=4.0, weights=even, max_cells=1000)
    pairs = [pair for pair, _ in chosen]
    assert (1, 2) not in pairs and (0, 1) in pairs
    assert build([10] * 4, pairs).cells <= 1000
    fewer = [pair for pair, _ in dense_tree(distances, sizes, mu_squared=4.0, weights=even, max_cells=300)]
    assert build([10] * 4, fewer).cells <= 300 and len(fewer) <= len(pairs)


def test_a_pair_beside_the_tree_is_measured_at_the_resolution_it_is_worth() -> None:
    """A dependence that coarse tables show as well is asked for coarsely; one that only the fine table shows, finely."""
    distances = {((0, 1), 0): 9000.0, ((0, 1), 1): 8900.0, ((0, 2), 0): 8000.0, ((0, 2), 1): 100.0}
    distances |= {((1, 2), 0): 3000.0, ((1, 2), 1): 2900.0}
    sizes = [[20, 5]] * 3
    chosen = select(distances, sizes, 0.01, n_units=1e6, weights=[1.0] * 3, max_cells=1, further_weight=0.5)
    assert [level for _, level in chosen.tree] == [0]
    assert all(level == 1 for pair, level in chosen.further if pair != (0, 2))
    assert {pair for pair, _ in (*chosen.tree, *chosen.further)} == {(0, 1), (0, 2), (1, 2)}
    blurred = select(distances, sizes, 0.01, n_units=9000, weights=[1.0] * 3, max_cells=400, further_weight=0.5)
    assert ((0, 1), 0) in blurred.tree and ((0, 1), 1) in blurred.further
