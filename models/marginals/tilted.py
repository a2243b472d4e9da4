"""A junction tree's model tilted by further factors: how its rows are drawn and how it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table
from dpsynth.models.marginals.limits import PLACE_SECONDS, Limits
from dpsynth.models.marginals.rounding import PASSES, WATCHED, pair_cells, swapped
from dpsynth.models.marginals.tilt import (
    FEWEST_ROWS,
    WORK,
    Columns,
    Conditionals,
    Dual,
    Factor,
    conditioned,
    effective_size,
    is_mild,
    log_weights,
    resample,
    rows_within_reach,
    systematic,
)
from dpsynth.models.threads import side_by_side
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray, IntArray

# Rows of the tree's model for each row that is wanted, and how many are wanted at once.
PROPOSED, AT_ONCE, LEAST = 3, 60_000, 20_000
# The fewest rows that whole counts are sought for: fewer would be those of the fullest cells, and rare values would be lost.
WHOLE = 5_000
# Parts that are drawn at a time, where a fit has no limit of memory: each takes about 16 bytes a row and table.
MOST_THREADS = 4
# A stage goes as far as leaves rows worth this share of them; there are no more stages than this.
EVEN, MOST_STAGES = 0.5, 12
# Sweeps of the dual that fit drawn rows to the tables once more.
TOUCHES = 30


@dataclass(frozen=True, slots=True)
class Draws:
    """How much work a draw is: rows that are drawn at once, rows times tables on which they are fitted once more, and the sweeps of
    that. Set when the model is fitted, so that a seed draws the same rows wherever it is used."""

    at_once: int = AT_ONCE
    places: int = WORK
    touches: int = TOUCHES

    @classmethod
    def within(cls, limits: Limits, tables: int) -> Draws:
        places = limits.places(WORK)
        if places == WORK:
            return cls()
        at_once = min(AT_ONCE, max(FEWEST_ROWS, places // tables))
        if limits.seconds is None:
            return cls(at_once, places)
        sweeps = int(limits.seconds / (rows_within_reach(tables, PROPOSED * at_once, places) * tables * PLACE_SECONDS))
        return cls(at_once, places, max(1, min(TOUCHES, sweeps)))


class TiltedField:
    """p(x) exp(sum of the dual's factors), with p a `MarkovField` whose own factors are `own` on the log shares `base`."""

    def __init__(
        self,
        field: MarkovField,
        base: Sequence[FloatArray],
        own: Sequence[Factor],
        dual: Dual,
        draws: Draws = Draws(),
    ) -> None:
        self.field, self.base, self.own, self.dual, self.draws = field, list(base), list(own), dual, draws

    def __repr__(self) -> str:
        return f"TiltedField({self.field!r}, {len(self.pairs)} pairs in all)"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.field.columns

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.columns[a], self.columns[b]) for a, b in self.dual.pairs)

    def sample(self, n: int, *, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        """n coded rows, shape (n, columns).

        Rows of the (conditioned) tree are drawn by weight in as many stages as keep the weights even, with a Gibbs sweep
        between two stages (annealed importance sampling with resampling). Theta was found on other rows than these, so the
        weights of rows of the whole model are then fitted to the measured tables once more, and whole rows chosen so that the
        tables of pairs keep their weighted counts. A few rows are drawn from so many (WHOLE), each as likely as the others.
        """
        at_once = self.draws.at_once
        sizes = [min(at_once, n - start) for start in range(0, n, at_once)]
        if len(sizes) < 2:
            return self._part(n, rng, evidence) if n else np.zeros((0, len(self.columns)), np.int64)
        # Parts have seeds of their own, so that they are the same whichever of them are drawn side by side.
        rngs = map(np.random.default_rng, rng.integers(2**63, size=len(sizes)).tolist())
        most = MOST_THREADS if self.draws.places == WORK else 1
        drawn = side_by_side(lambda part: self._part(*part, evidence), list(zip(sizes, rngs, strict=True)), most=most)
        return np.concatenate(drawn)

    def _part(self, n: int, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        mild = is_mild(evidence)
        proposed = max(n, rows_within_reach(len(self.dual.tables), max(PROPOSED * n, LEAST), self.draws.places))
        rows, logs = self._drawn(proposed, rng, {} if mild else evidence)
        if mild:
            _, logs = self.dual.solved(rows, logs, step=0.0, iterations=self.draws.touches)
            logs = conditioned(logs, rows, self.columns, evidence)
        weights = np.exp(logs - logs.max(initial=-np.inf))
        passes, whole = PASSES * self.draws.touches // TOUCHES, max(n, min(WHOLE, proposed))
        chosen = swapped(systematic(rows, logs, whole, rng), self._cells(rows), weights, rng, passes=passes)
        return rng.permutation(resample(rows[chosen], np.zeros(whole), n, rng))

    def _cells(self, rows: IntArray) -> NDArray[np.int32]:
        """The cells of the tables whose counts whole rows should keep: of all pairs, or where these are many, of what was measured."""
        sizes = self.dual.sizes
        watched = min(WATCHED, WATCHED * self.draws.places // WORK)
        if len(rows) * len(sizes) * (len(sizes) - 1) // 2 <= watched:
            return pair_cells(rows, sizes)
        columns = Columns(rows)
        parts = zip(self.dual.factors, self.dual.spans, strict=True)
        return torch.stack([f.cells(columns) + start for f, (start, _) in parts], dim=1).numpy()

    def _drawn(
        self, n: int, rng: np.random.Generator, evidence: Mapping[str, FloatArray]
    ) -> tuple[IntArray, FloatArray]:
        """(rows, log weights) that stand for the conditioned model."""
        rows = self.field.sample(n, rng=rng, evidence=evidence)
        on_codes = {self.columns.index(c): np.log(np.maximum(weight, 1e-300)) for c, weight in evidence.items()}
        tilt, done = self.dual.factors, 0.0
        for _ in range(MOST_STAGES):
            logs = log_weights(tilt, rows)
            step = _step(logs, 1 - done)
            if done + step >= 1:
                break
            done += step
            rows = resample(rows, step * logs, len(rows), rng)
            so_far = [*self.own, *(f.times(done) for f in tilt)]
            rows = Conditionals(self.dual.sizes, self.base, so_far).sweep(rows, rng, on_codes)
        return rows, (1 - done) * log_weights(tilt, rows)

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        arrays, body = self.field.state()
        arrays |= {f"base.{a}": share for a, share in enumerate(self.base)}
        arrays |= {f"own.{i}": f.theta for i, f in enumerate(self.own)}
        for i, (table, factor) in enumerate(zip(self.dual.tables, self.dual.factors, strict=True)):
            arrays |= {f"tilt.{i}": factor.theta, f"measured.{i}": table.values.cpu().double().numpy()}
            arrays[f"sigma.{i}"] = table.sigma.cpu().double().numpy()
        return arrays, body | {
            "family": "tilted-marginals",
            "own": [_described(f) for f in self.own],
            "tilt": [_described(f) for f in self.dual.factors],
            "n_units": self.dual.n_units,
            "regularisation": self.dual.regularisation,
            "draws": asdict(self.draws),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], body: Mapping[str, Any]) -> TiltedField:
        """Inverse of `state`. Raises ModelError where the arrays do not fit the structure."""
        field = MarkovField.from_state(arrays, body)
        sizes = field.tree.sizes
        try:
            base = [np.array(arrays[f"base.{a}"]) for a in range(len(sizes))]
            own, tilt = (
                [_factor(np.array(arrays[f"{kind}.{i}"]), f, sizes) for i, f in enumerate(body[kind])]
                for kind in ("own", "tilt")
            )
            tables = [_table(f, arrays[f"measured.{i}"], arrays[f"sigma.{i}"]) for i, f in enumerate(tilt)]
        except KeyError:
            raise ModelError("the saved model lacks a factor; it was not saved whole") from None
        if any(b.shape != (size,) for b, size in zip(base, sizes, strict=True)):
            raise ModelError("saved shares do not fit their column; the model was altered")
        theta = torch.from_numpy(np.concatenate([f.theta.ravel() for f in tilt]))
        dual = Dual(tuple(tables), sizes, float(body["n_units"]), float(body["regularisation"]), theta)
        draws = Draws(**{name: max(int(body["draws"][name]), 1) for name in ("at_once", "places", "touches")})
        return cls(field, base, own, dual, draws)


def _described(factor: Factor) -> dict[str, Any]:
    return {"attributes": list(factor.attributes), "groups": [g.tolist() for g in factor.groups]}


def _factor(theta: FloatArray, described: Mapping[str, Any], sizes: Sequence[int]) -> Factor:
    attributes = tuple(int(a) for a in described["attributes"])
    groups = tuple(np.array(g, np.int64) for g in described["groups"])
    fits = len(groups) == len(attributes) == theta.ndim and all(
        0 <= a < len(sizes) and g.shape == (sizes[a],) and g.min() >= 0 and g.max() < size
        for a, g, size in zip(attributes, groups, theta.shape, strict=False)
    )
    if not fits:
        raise ModelError("a saved factor does not fit its columns; the model was altered")
    return Factor(attributes, groups, theta)


def _table(factor: Factor, values: FloatArray, sigma: FloatArray) -> Table:
    if values.shape != factor.theta.shape or not np.all(sigma > 0):
        raise ModelError("a saved table does not fit its factor; the model was altered")
    groups = tuple(torch.from_numpy(g) for g in factor.groups)
    return Table(factor.attributes, torch.from_numpy(np.array(values)), torch.from_numpy(np.array(sigma)), groups)


def _step(logs: FloatArray, left: float) -> float:
    """The largest power, up to `left`, at which the weights leave EVEN of the rows."""
    if effective_size(left * logs) >= EVEN * len(logs):
        return left
    low, high = 0.0, left
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if effective_size(middle * logs) >= EVEN * len(logs) else (low, middle)
    return max(low, left / MOST_STAGES)
