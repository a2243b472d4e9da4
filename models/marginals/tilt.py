"""Beyond the junction tree: more tables than exact inference can hold, by tilting the tree's model.

With p the tree's model and theta_i the factors of *all* measured tables, the model is

    p(x) exp(sum_i theta_i[x_i]) / Z.

Z has no closed form, so rows stand for the model. From rows drawn of it as it stands, the dual (see `inference`) is solved
over the rows' weights; the rows are drawn again by weight, refreshed by a Gibbs sweep under the new factors, and so on (Monte
Carlo maximum likelihood: Geyer, Thompson 1992). A term on the size of each step keeps the weights even; without it a step
trusts rows that hardly anyone stands for, and the next ones go astray. All of it is post-processing of noisy tables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dpsynth.models.marginals.inference import Table, laid_out, spans_of
from dpsynth.models.marginals.minimise import Advance, minimise
from dpsynth.models.threads import one_thread
from dpsynth.privacy.source import FloatArray, IntArray

# Rows that stand for the model while it is fitted: as many as keep rows times tables at WORK, within these.
ROWS, FEWEST_ROWS, WORK = 50_000, 10_000, 25_000_000
# The ridge on the tilt, in multiples of the tree's; and, for each round, the further one on its step.
RIDGE = 5.0
STEPS = (9.0, 3.0, 1.0, 0.3)
ITERATIONS = 25
SWEEPS = ITERATIONS * len(STEPS)
# A cell's weight is added up in so many places, which rows take in turn: to add to one place again waits for what was added before.
_LANES = 8
# Rows of a Gibbs sweep that are handled at once.
_CHUNK = 20_000
# Conditions that weigh no code more than so many times another are met by weighing rows of the whole model.
MILD = 20.0


def rows_within_reach(tables: int, wanted: int, places: int = WORK) -> int:
    """How many of the wanted rows the dual of so many tables can be solved on, at so many rows times tables; never below
    FEWEST_ROWS."""
    return min(wanted, max(FEWEST_ROWS, places // max(tables, 1)))


class Columns:
    """Coded rows, shape (rows, columns), column by column: hundreds of factors each read one or two of them, many at the same groups."""

    def __init__(self, rows: IntArray) -> None:
        self._codes = torch.from_numpy(np.ascontiguousarray(rows.T, np.int32))
        self._grouped: dict[tuple[int, bytes], torch.Tensor] = {}

    def __len__(self) -> int:
        return self._codes.shape[1]

    def grouped(self, a: int, groups: IntArray) -> torch.Tensor:
        """groups[code] of each row's code in column a, int32, shape (rows,)."""
        key = a, groups.tobytes()
        if key not in self._grouped:
            self._grouped[key] = torch.from_numpy(groups.astype(np.int32)).index_select(0, self._codes[a])
        return self._grouped[key]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """theta of one table, as plain arrays: what is added to the log-probability of a row.

    attributes: ascending.  groups: for each attribute the index of each of its codes.  theta: log space.
    """

    attributes: tuple[int, ...]
    groups: tuple[IntArray, ...]
    theta: FloatArray

    def cells(self, columns: Columns) -> torch.Tensor:
        """Flat index into theta of each row, int32, shape (rows,)."""
        flat = columns.grouped(self.attributes[0], self.groups[0])
        for a, groups, size in zip(self.attributes[1:], self.groups[1:], self.theta.shape[1:], strict=True):
            flat = torch.add(columns.grouped(a, groups), flat, alpha=size)
        return flat

    def over_codes(self) -> FloatArray:
        """theta spread over all pairs of codes."""
        spread: FloatArray = self.theta[np.ix_(*self.groups)]
        return spread

    def times(self, power: float) -> Factor:
        return Factor(self.attributes, self.groups, power * self.theta)


def factor_of(table: Table, theta: torch.Tensor, sizes: Sequence[int]) -> Factor:
    """The factor of a table; theta has the table's shape."""
    groups = table.groups or tuple(torch.arange(sizes[a]) for a in table.attributes)
    return Factor(table.attributes, tuple(g.cpu().numpy() for g in groups), theta.cpu().double().numpy())


def whole_factor(attributes: tuple[int, ...], log_weights: FloatArray) -> Factor:
    """A factor that tells all codes apart; log_weights of shape sizes[attributes]."""
    return Factor(attributes, tuple(np.arange(size) for size in log_weights.shape), log_weights)


def log_weights(factors: Sequence[Factor], rows: IntArray) -> FloatArray:
    """Sum of the factors at each row, shape (rows,)."""
    columns, total = Columns(rows), torch.zeros(len(rows), dtype=torch.float64)
    for factor in factors:
        total += torch.from_numpy(factor.theta.ravel()).index_select(0, factor.cells(columns))
    return total.numpy()


def effective_size(logs: FloatArray) -> float:
    """How many even rows unevenly weighted ones are worth: (sum w)^2 / sum w^2."""
    weights = np.exp(logs - logs.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def systematic(rows: IntArray, logs: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """Indices of n rows drawn by weight, along the sorted rows: rows that are alike share their rounding."""
    # Numbers that begin with their highest byte are in the order of their bytes: hundreds of columns are compared at once, and few in full.
    keys = np.ascontiguousarray(rows, ">u4")
    ordered = keys.view(np.dtype((np.void, keys.itemsize * keys.shape[1]))).ravel().argsort(kind="stable")
    weights = np.exp(logs - logs.max())[ordered]
    cumulative = np.cumsum(weights)
    quantiles = (np.arange(n) + rng.random()) / n * cumulative[-1]
    chosen: IntArray = ordered[np.minimum(np.searchsorted(cumulative, quantiles, side="right"), len(rows) - 1)]
    return chosen


def resample(rows: IntArray, logs: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """n rows drawn by weight; see `systematic`."""
    drawn: IntArray = rows[systematic(rows, logs, n, rng)]
    return drawn


def is_mild(evidence: Mapping[str, FloatArray]) -> bool:
    """Whether conditions (weight of each code, by column) can be met by weighing rows that were drawn without them."""
    return all(weight.min() * MILD > weight.max() for weight in evidence.values())


def conditioned(
    logs: FloatArray, rows: IntArray, columns: Sequence[str], evidence: Mapping[str, FloatArray]
) -> FloatArray:
    """Log weights of rows under conditions, too."""
    for name, weight in evidence.items():
        logs = logs + np.log(weight)[rows[:, columns.index(name)]]
    return logs


class Conditionals:
    """The distribution of each column given the others, under factors of one and two columns."""

    def __init__(self, sizes: Sequence[int], base: Sequence[FloatArray], factors: Sequence[Factor]) -> None:
        self.sizes = tuple(sizes)
        self._own = [b.astype(np.float64) for b in base]
        pairs: dict[tuple[int, ...], FloatArray] = {}
        for factor in factors:
            if len(factor.attributes) == 1:
                self._own[factor.attributes[0]] = self._own[factor.attributes[0]] + factor.over_codes()
            else:
                pairs[factor.attributes] = pairs.get(factor.attributes, 0.0) + factor.over_codes()
        near: list[list[tuple[int, FloatArray]]] = [[] for _ in self.sizes]
        for (a, b), table in sorted(pairs.items()):
            near[a].append((b, table.T))
            near[b].append((a, table))
        self._near = [_Near.of(of, self.sizes) for of in near]

    def sweep(self, rows: IntArray, rng: np.random.Generator, evidence: Mapping[int, FloatArray]) -> IntArray:
        """The rows with every column drawn anew, one after the other: leaves the model's distribution as it is.

        evidence: log weight of each code, by column.
        """
        codes = torch.from_numpy(np.ascontiguousarray(rows.T, np.int32))
        with torch.no_grad():
            for a in rng.permutation(len(self.sizes)).tolist():
                own = torch.from_numpy((self._own[a] + evidence.get(a, 0.0)).astype(np.float32))
                for part in torch.split(codes, _CHUNK, dim=1):
                    part[a] = self._drawn(a, part, rng, own)
        return codes.T.numpy().astype(np.int64)

    def _drawn(self, a: int, codes: torch.Tensor, rng: np.random.Generator, own: torch.Tensor) -> torch.Tensor:
        """Codes of column a given the others, shape (rows,). codes: shape (columns, rows)."""
        logs = own.expand(codes.shape[1], -1)
        near = self._near[a]
        if near is not None:
            places = (codes[near.columns] + near.first[:, None]).T.contiguous()
            logs = logs + torch.nn.functional.embedding_bag(places, near.table, mode="sum")
        cumulative = torch.softmax(logs, dim=1).cumsum(dim=1)
        quantile = torch.from_numpy(rng.random((codes.shape[1], 1), dtype=np.float32)) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, quantile, right=True)[:, 0].clamp(max=self.sizes[a] - 1).int()


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The columns that share factors with one, what their codes begin at in a common table, and that: shape (codes of all, codes of the one)."""

    columns: torch.Tensor
    first: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, near: Sequence[tuple[int, FloatArray]], sizes: Sequence[int]) -> _Near | None:
        if not near:
            return None
        columns = [b for b, _ in near]
        first = np.cumsum([0, *(sizes[b] for b in columns)])[:-1]
        table = np.concatenate([factor for _, factor in near]).astype(np.float32)
        return cls(torch.tensor(columns), torch.from_numpy(first.astype(np.int32)), torch.from_numpy(table))


@dataclass(frozen=True, slots=True, eq=False)
class Dual:
    """The dual over row weights, and where it stands: theta of all tables, one after the other.

    tables: what was measured.  regularisation: lambda of the ridge on theta.
    """

    tables: tuple[Table, ...]
    sizes: tuple[int, ...]
    n_units: float
    regularisation: float
    theta: torch.Tensor

    @classmethod
    def start(cls, tables: Sequence[Table], sizes: Sequence[int], n_units: float, regularisation: float) -> Dual:
        theta = torch.zeros(sum(t.values.numel() for t in tables), dtype=torch.float64)
        return cls(tuple(tables), tuple(sizes), n_units, regularisation, theta)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of attributes that have a table, sorted."""
        return sorted({(t.attributes[0], t.attributes[1]) for t in self.tables if len(t.attributes) == 2})

    @property
    def factors(self) -> list[Factor]:
        parts = zip(self.tables, self.spans, strict=True)
        return [factor_of(t, self.theta[i:j].reshape(t.values.shape), self.sizes) for t, (i, j) in parts]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each table's cells begin and end in theta."""
        return spans_of(self.tables)

    def solved(
        self,
        rows: IntArray,
        logs: FloatArray,
        *,
        step: float,
        iterations: int,
        until: float = math.inf,
        advance: Advance = lambda n: None,
    ) -> tuple[Dual, FloatArray]:
        """(the dual solved on these rows, their new log weights).

        logs: log weights by which `rows` stand for the model as it is.  step: a further ridge on the move, in multiples of the
        other.  until, advance: see `minimise`.
        """
        columns, lane = Columns(rows), torch.arange(len(rows)) % _LANES
        # A cell's lanes stand side by side.
        cells = [torch.add(lane, f.cells(columns), alpha=_LANES) for f in self.factors]
        spans = [(places, slice(_LANES * i, _LANES * j)) for places, (i, j) in zip(cells, self.spans, strict=True)]
        n, before = self.n_units, self.theta
        measured, penalty, scale = laid_out(self.tables, self.regularisation, before)
        start = torch.from_numpy(logs - logs.max())
        start = start - torch.logsumexp(start, 0)

        def logs_of(move: torch.Tensor) -> torch.Tensor:
            out, lanes = start.clone(), move.repeat_interleave(_LANES)
            for places, span in spans:
                out += lanes[span].index_select(0, places)  # a third of what lanes[span][places] takes
            return out

        def objective(weight: torch.Tensor) -> tuple[float, torch.Tensor]:
            move = scale * weight
            now = logs_of(move)
            log_mean = torch.logsumexp(now, 0)
            shares = torch.exp(now - log_mean)
            lanes = measured.new_zeros(_LANES * len(measured))
            for places, span in spans:
                lanes[span].scatter_add_(0, places, shares)
            expected = lanes.view(-1, _LANES).sum(1)
            theta = before + move
            gradient = scale * (n * expected - measured + penalty * (theta + step * move)) / n
            ridge = 0.5 * (penalty * (theta**2 + step * move**2)).sum()
            return float(n * log_mean - (move * measured).sum() + ridge) / n, gradient

        with one_thread(), torch.no_grad():
            move = scale * minimise(objective, torch.zeros_like(measured), iterations, until=until, advance=advance)
            return replace(self, theta=before + move), logs_of(move).numpy()


def fit_tilt(
    dual: Dual,
    rows: IntArray,
    base: Sequence[FloatArray],
    tree: Sequence[Factor],
    rng: np.random.Generator,
    *,
    until: float = math.inf,
    advance: Advance = lambda n: None,
) -> Dual:
    """The dual solved on top of the tree's model, from which `rows` were drawn.

    base, tree: the tree's model as factors: log shares of each column, and its tables' thetas.  until: rounds that would not be
    done by then are left out (see `minimise`).  advance: told of SWEEPS steps in all.
    """
    for number, step in enumerate(STEPS):
        began = time.monotonic()
        dual, logs = dual.solved(
            rows, np.zeros(len(rows)), step=step, iterations=ITERATIONS, until=until, advance=advance
        )
        now = time.monotonic()
        if number + 1 == len(STEPS) or now + (now - began) > until:
            break
        rows = resample(rows, logs, len(rows), rng)
        rows = Conditionals(dual.sizes, base, [*tree, *dual.factors]).sweep(rows, rng, {})
    return dual
