"""The networks against joints small enough to write down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dpsynth.models.ctgan.field import _drawn, propose
from dpsynth.models.ctgan.networks import ConditionalGenerator, Critic, log_ratio, losses_of
from dpsynth.models.ctgan.warm_up import warm_up_critic, warm_up_generator
from dpsynth.privacy.errors import ModelError

SIZES = (2, 3, 4)


class Silent:
    def stage(self, name: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


def joint() -> np.ndarray:
    """All three columns interact."""
    p = np.exp(np.random.default_rng(3).normal(0, 1.0, SIZES))
    return p / p.sum()


def rows_of(p: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    cells = np.random.default_rng(seed).choice(p.size, n, p=p.ravel())
    return np.stack(np.unravel_index(cells, p.shape), axis=1)


def table_of(rows: np.ndarray, logs: np.ndarray | None = None) -> np.ndarray:
    weights = None if logs is None else np.exp(logs)
    out = np.bincount(np.ravel_multi_index(rows.T, SIZES), weights=weights, minlength=24).reshape(SIZES)
    return out / out.sum()


def tv(a: np.ndarray, b: np.ndarray) -> float:
    return 0.5 * float(np.abs(a - b).sum())


@pytest.fixture(scope="module")
def generator() -> ConditionalGenerator:
    torch.manual_seed(0)
    made = ConditionalGenerator(SIZES, 32)
    rows = torch.from_numpy(rows_of(joint(), 20_000))
    warm_up_generator(made, rows, steps=500, batch=512, rate=0.01, progress=Silent())
    return made


SHARES = [joint().sum(axis=tuple(b for b in range(3) if b != a)) for a in range(3)]


def test_the_generator_learns_the_joint_whatever_the_order(generator: ConditionalGenerator) -> None:
    rows, logs = propose(generator, SHARES, 60_000, np.random.default_rng(0), {})
    independent = np.einsum("i,j,k->ijk", *SHARES)
    assert not logs.any()
    assert tv(table_of(rows), joint()) < 0.03 < 0.15 < tv(independent, joint())


def test_conditions_are_met_and_the_rest_follows(generator: ConditionalGenerator) -> None:
    rows, _ = propose(generator, SHARES, 40_000, np.random.default_rng(1), {1: np.array([0.0, 0.0, 1.0])})
    given = np.zeros(SIZES)
    given[:, 2] = joint()[:, 2]
    assert (rows[:, 1] == 2).all()
    assert tv(table_of(rows), given / given.sum()) < 0.03


def test_weights_make_up_for_drawing_conditions_one_by_one(generator: ConditionalGenerator) -> None:
    evidence = {0: np.array([1.0, 0.7]), 2: np.array([0.0, 0.01, 5.0, 0.0])}
    rows, logs = propose(generator, SHARES, 60_000, np.random.default_rng(2), evidence)
    wanted = joint() * evidence[0][:, None, None] * evidence[2]
    wanted /= wanted.sum()
    assert np.isin(rows[:, 2], [1, 2]).all()
    assert tv(table_of(rows, logs), wanted) < 0.1
    # Drawn one by one, the second's weights do not reach back to the first: the weights make up for it.
    firsts = [table.sum(axis=(1, 2)) for table in (table_of(rows, logs), table_of(rows), wanted)]
    assert tv(firsts[0], firsts[2]) < 0.1 < 0.2 < tv(firsts[1], firsts[2])


def test_conditions_that_no_code_meets_are_refused(generator: ConditionalGenerator) -> None:
    with pytest.raises(ModelError, match="no row possible"):
        propose(generator, SHARES, 10, np.random.default_rng(0), {1: np.zeros(3)})


def test_codes_without_weight_are_never_drawn() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]]).repeat(3, 1)
    quantile = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])[:, None]
    assert _drawn(weights, quantile).tolist() == [1, 0, 1, 0, 1, 0]


def test_losses_are_those_of_the_logits_given_what_is_known(generator: ConditionalGenerator) -> None:
    rows = torch.from_numpy(rows_of(joint(), 50, seed=4))
    known = torch.ones(50, 3, dtype=torch.bool)
    known[:, 1] = False
    state = generator.start + generator.added(0, rows[:, 0]) + generator.added(2, rows[:, 2])
    logits = generator.logits(1, generator.features(state))
    expected = nn.functional.cross_entropy(logits, rows[:, 1], reduction="none")
    torch.testing.assert_close(generator.losses(rows, known), expected)


@pytest.mark.parametrize("loss", ["logistic", "least-squares"])
def test_the_critics_scores_are_the_log_ratio(loss: str) -> None:
    torch.manual_seed(0)
    critic = Critic(SIZES, 32, 2)
    p, q = joint(), np.full(SIZES, 1 / 24)
    real, fake = torch.from_numpy(rows_of(p, 50_000)), torch.from_numpy(rows_of(q, 50_000, seed=1))
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for i in range(0, 50_000 - 256, 256):
        optimizer.zero_grad()
        losses = losses_of(loss, critic(real[i : i + 256]), True) + losses_of(loss, critic(fake[i : i + 256]), False)
        losses.mean().backward()
        optimizer.step()
    cells = torch.from_numpy(np.stack(np.unravel_index(np.arange(24), SIZES), axis=1))
    with torch.no_grad():
        found = log_ratio(loss, critic(cells), 3.0).numpy()
    expected = np.clip(np.log(p / q).ravel(), -3, 3)
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert np.abs(found - expected)[expected > -1].mean() < 0.25  # of rare rows it sees few
    assert log_ratio(loss, torch.tensor([50.0, -50.0]), 2.0).tolist() == [2.0, -2.0]


def test_the_warm_critic_keeps_features_and_finds_no_difference() -> None:
    torch.manual_seed(0)
    critic, rows = Critic(SIZES, 16, 2), torch.from_numpy(rows_of(joint(), 2000))
    before = critic.body[0].weight.clone()
    warm_up_critic(critic, rows, steps=20, batch=64, rate=0.01, progress=Silent())
    assert not torch.equal(critic.body[0].weight, before)
    assert not critic(rows).any()
    # All rows pull at the last layer with the same force: half the length of (features, bias).
    for row in rows[:5]:
        weight, bias = torch.autograd.grad(
            losses_of("logistic", critic(row[None]), True).sum(), [critic.head.weight, critic.head.bias]
        )
        assert float(weight.norm()) == pytest.approx(0.5, rel=0.05) and float(bias.abs()) == pytest.approx(0.5)
