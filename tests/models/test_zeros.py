"""Constraints as factors of the graphical model, against the full joint."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, fit_potentials
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.tilt import Conditionals, whole_factor
from dpsynth.models.marginals.zeros import Given, given, in_tree
from dpsynth.models.protocol import IMPOSSIBLE, Zeros
from dpsynth.privacy.errors import ModelError

SIZES, EDGES = (3, 4, 2, 3), [(0, 1), (1, 2), (2, 3)]


def factors(seed: int) -> list[Given]:
    """A pair beside the measured ones, and a triple; about half of their cells are impossible."""
    rng = np.random.default_rng(seed)
    out = []
    for attributes in [(0, 3), (0, 1, 2)]:
        shape = [SIZES[a] for a in attributes]
        logs = np.where(rng.random(shape) < 0.5, IMPOSSIBLE, np.log(rng.uniform(0.1, 1, shape)))
        logs[(0,) * len(shape)] = 0.0
        out.append(Given(attributes, logs))
    return out


def fitted(seed: int, n: float = 1000.0) -> tuple[MarkovField, list[Table], list[torch.Tensor], list[Given]]:
    rng = np.random.default_rng(seed)
    zeros = factors(seed)
    held, bound = in_tree(SIZES, EDGES, zeros, 1000)
    assert len(held) == 2
    tree = build(SIZES, [*EDGES, *bound])
    base = [torch.from_numpy(np.log(rng.dirichlet(np.ones(s)))) for s in SIZES]
    tables = [
        Table(e, torch.from_numpy(n * rng.dirichlet(np.ones(12)[: SIZES[e[0]] * SIZES[e[1]]]).reshape([SIZES[a] for a in e])),
              torch.full((1,), 5.0, dtype=torch.float64))
        for e in EDGES
    ]  # fmt: skip
    potentials, thetas = fit_potentials(tree, base, tables, n_units=n, regularisation=0.1, iterations=400, given=held)
    return MarkovField("abcd", EDGES, tree, potentials, bound), tables, thetas, zeros


def joint(field: MarkovField) -> np.ndarray:
    logs = np.zeros(SIZES)
    for clique, potential in zip(field.tree.cliques, field._potentials, strict=True):
        logs = logs + potential.numpy().reshape([SIZES[a] if a in clique else 1 for a in range(4)])
    p: np.ndarray = np.exp(logs - logs.max())
    return p / p.sum()


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_with_zeros_is_the_maximum_entropy_model_on_the_rows_that_obey(seed: int) -> None:
    field, tables, thetas, zeros = fitted(seed)
    p = joint(field)
    for zero in zeros:
        others = tuple(a for a in range(4) if a not in zero.attributes)
        assert p.sum(axis=others)[zero.log_weights == IMPOSSIBLE].sum() == 0
    for table, theta in zip(tables, thetas, strict=True):  # the dual's optimum: see the docstring of `inference`
        others = tuple(a for a in range(4) if a not in table.attributes)
        expected = table.values.numpy() - 0.1 * 25.0 * theta.detach().numpy()
        assert 1000 * p.sum(axis=others) == pytest.approx(expected, abs=0.5)


def test_rows_of_a_model_with_zeros_follow_the_joint_and_conditions_condition_it() -> None:
    field, _, _, zeros = fitted(1)
    p, rng = joint(field), np.random.default_rng(0)
    rows = field.sample(60_000, rng=rng, evidence={})
    counted = np.zeros(SIZES)
    np.add.at(counted, tuple(rows.T), 1 / len(rows))
    assert np.abs(counted - p).sum() / 2 < 0.02 and counted[p == 0].sum() == 0
    weight = np.array([0.0, 1.0, 0.5])
    rows = field.sample(60_000, rng=rng, evidence={"d": weight})
    q = p * weight / (p * weight).sum()
    counted = np.zeros(SIZES)
    np.add.at(counted, tuple(rows.T), 1 / len(rows))
    assert np.abs(counted - q).sum() / 2 < 0.02 and counted[p == 0].sum() == 0
    (pair, _) = zeros
    shut = int(np.flatnonzero((pair.log_weights == IMPOSSIBLE).any(axis=1))[0])
    ban = np.where(pair.log_weights[shut] == IMPOSSIBLE, 1.0, 0.0)
    with pytest.raises(ModelError, match="no row possible"):
        field.sample(10, rng=rng, evidence={"a": np.eye(3)[shut], "d": ban})


def test_a_saved_model_keeps_its_zeros_and_names_measured_pairs_alone() -> None:
    field, *_ = fitted(2)
    arrays, body = field.state()
    again = MarkovField.from_state(arrays, body)
    assert joint(again) == pytest.approx(joint(field)) and again.pairs == (("a", "b"), ("b", "c"), ("c", "d"))


def test_a_gibbs_sweep_never_enters_a_zero() -> None:
    rng = np.random.default_rng(0)
    pair = factors(3)[0]
    base = [np.log(np.full(s, 1 / s)) for s in SIZES]
    start = np.zeros((5000, 4), np.int64)
    for _ in range(3):
        start = Conditionals(SIZES, base, [whole_factor(pair.attributes, pair.log_weights)]).sweep(start, rng, {})
    assert (pair.log_weights[start[:, 0], start[:, 3]] == IMPOSSIBLE).sum() == 0
    assert len(np.unique(start[:, [0, 3]], axis=0)) == (pair.log_weights > IMPOSSIBLE).sum()


def test_factors_come_in_the_models_order_and_large_ones_stay_outside() -> None:
    logs = np.arange(6.0).reshape(2, 3)
    (factor,) = given([Zeros(("c", "a"), logs)], ["a", "b", "c"])
    assert factor.attributes == (0, 2) and (factor.log_weights == logs.T).all()
    sizes = [400] * 4
    wide = [Given((a, b), np.zeros((400, 400))) for a, b in itertools.combinations(range(4), 2)]
    held, bound = in_tree(sizes, [(0, 1)], wide, 100_000)
    assert [f.attributes for f in held] == [(0, 1)] and bound in ([], [(0, 1)])
