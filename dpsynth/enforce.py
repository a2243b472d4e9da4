"""Declared constraints on a table that is coded: what they mean for cells, codes and rows. Public or post-processing: free.

A model of codes draws combinations that can obey (`Rules.zeros` tells it which can; `Rules.draw` draws others anew). Values are
then drawn within the codes, together where a constraint binds them, until each row obeys; and columns that follow from others are
made last. So a row comes out with the model's probability *given that it obeys*, whichever model drew it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.column import Column, Kind
from dpsynth.constraints import (
    Constraint,
    Determines,
    Impossible,
    Making,
    Ordered,
    in_order,
)
from dpsynth.encode.cells import FineCells, LabelCells, LineCells
from dpsynth.encode.codec import Codec, draw_conditional
from dpsynth.encode.parse import Scale, numbers
from dpsynth.models.protocol import IMPOSSIBLE, Zeros
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import BoolArray, Cells, FloatArray, IntArray, Numbers, Strings
from dpsynth.values import Item, Own, as_label, matching, span

if TYPE_CHECKING:
    from dpsynth.models.protocol import TableModel

# Codes whose rows can obey with less than this probability count as impossible.
LEAST = 1e-6
# How often rows that do not obey are drawn again: by the model, and within their codes.
ROUNDS, REDRAWS = 20, 60
# Combinations of fine cells within one combination of codes that are listed, to draw one that can obey.
_LISTED = 100_000
# Places in a cell that stand for it where two cells are compared.
_PLACES = (np.arange(16) + 0.5) / 16
# What stands for "any other label": no value of a constraint, and none of its own.
_OTHER = "\x00other"


def representatives(cells: FineCells) -> Own:
    """A value of each fine cell, missing last."""
    if isinstance(cells, LabelCells):
        return np.array([*cells.labels, _OTHER, None], dtype=object)
    return cells.values(np.arange(cells.size), np.full(cells.size, 0.5))


def cells_matching(cells: FineCells, items: Iterable[Item], kind: Kind | None) -> BoolArray:
    """Fine cells that hold none but the values and ranges, shape (cells.size,)."""
    if isinstance(cells, LabelCells):
        return matching(representatives(cells), items, kind)
    out = np.zeros(cells.size, bool)
    slack = 1e-6 * (cells.step or 0.0)
    for item in items:
        if item is None:
            out[cells.missing] = True
            continue
        low, high = span(item, kind)
        out[:-1] |= (cells.low >= low - slack) & (cells.top <= high + slack)
    return out


def cuts(constraints: Iterable[Constraint], column: Column, step: float | None) -> FloatArray:
    """Where a number line is to be cut, so that each interval lies within or without what constraints name. Sorted."""
    ends: list[float] = []
    for constraint in constraints:
        if isinstance(constraint, Determines):
            items = [key for key, _ in constraint.pairs] if constraint.column == column.name else []
        else:
            items = list(constraint.where.get(column.name, ())) if isinstance(constraint, Impossible) else []
        for item in items:
            low, high = span(item, column.kind) if item is not None else (math.inf, math.inf)
            ends += [_on_grid(low, step, first=True)] if math.isfinite(low) else []
            ends += [_on_grid(high, step, first=False)] if math.isfinite(high) else []
    return np.unique(np.array(ends, np.float64))


def _on_grid(value: float, step: float | None, *, first: bool) -> float:
    """The first value from here on, or the first beyond, that a column of this step may hold."""
    if step is None:
        return value if first else float(np.nextafter(value, math.inf))
    return round((math.ceil(value / step - 1e-6) if first else math.floor(value / step + 1e-6) + 1) * step, 9)


def own_cells(cells: Cells, column: Column) -> Own:
    """A table's cells in the codec's terms."""
    if column.kind in SCALES:
        return numbers(cells, SCALES[column.kind])
    if isinstance(cells, Strings):
        texts: Own = np.array([*cells.uniques, None], dtype=object)[cells.codes]
        return texts
    return np.array([None if v != v else as_label(v) for v in cells.data.tolist()], dtype=object)


SCALES: dict[Kind | None, Scale] = {"numeric": "number", "datetime": "datetime", "timedelta": "timedelta"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What `where=` and `balance=` ask of rows.

    fixed: values in the codec's terms, by column.  kept: how many times as often each fine cell is to be drawn, 0 for one that is not
    allowed, by column, shape (cells.size,).
    evidence: weight of each code, by column.
    unseen: labels that noise hides from the model and that rows are to have all the same, with the share of the rows that get one of them,
    by column. Nothing is known of what goes with them.
    """

    fixed: Mapping[str, Any]
    kept: Mapping[str, FloatArray]
    evidence: Mapping[str, FloatArray]
    unseen: Mapping[str, tuple[tuple[str, ...], float]] = field(default_factory=dict)


NO_CONDITIONS = Conditions(fixed={}, kept={}, evidence={})


@dataclass(frozen=True)
class _Group:
    """Constraints that share columns. columns: those that the model has.  making: what makes the others."""

    columns: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    making: tuple[Making, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
    """The constraints of a coded table.

    constraints: with every mapping known.  columns: all of the table's.  codecs: of those that the model has, in its order.
    """

    constraints: tuple[Constraint, ...]
    columns: Mapping[str, Column]
    codecs: Mapping[str, Codec]

    @cached_property
    def making(self) -> tuple[Making, ...]:
        """The constraints by which a column is made, in an order in which they can be."""
        return tuple(in_order(self.constraints))

    def aligned(self) -> dict[str, Codec]:
        """The codecs with groups that lie within or without what impossible combinations name: codes tell who can obey."""
        masks: dict[str, list[BoolArray]] = {}
        for constraint in self._of(Impossible):
            for name, mask in self._masks(constraint).items():
                masks.setdefault(name, []).append(mask)
        labels = {c: np.unique(np.stack(m), axis=1, return_inverse=True)[1].ravel() for c, m in masks.items()}
        return {name: codec.split(labels[name]) if name in labels else codec for name, codec in self.codecs.items()}

    def modelled(self, names: Iterable[str]) -> list[str]:
        """The columns of the model that these are, or follow from."""
        makers = {m.result: m.sources for m in self.making}
        left, out = list(names), []
        while left:
            name = left.pop(0)
            left += makers.get(name, ())
            out += [name] if name in self.codecs and name not in out else []
        return out

    # -- codes ---------------------------------------------------------------------------------------------------------

    @cached_property
    def zeros(self) -> tuple[Zeros, ...]:
        """What the constraints say of codes, for a model."""
        found: dict[tuple[str, ...], FloatArray] = {}
        for columns, shares in self._shares():
            order = sorted(range(len(columns)), key=lambda i: self._places[columns[i]])
            logs = np.where(shares < LEAST, IMPOSSIBLE, np.log(np.maximum(shares, LEAST))).transpose(order)
            names = tuple(columns[i] for i in order)
            found[names] = np.maximum(found.get(names, 0.0) + logs, IMPOSSIBLE)
        return tuple(Zeros(names, logs) for names, logs in found.items())

    def draw(self, model: TableModel, n: int, evidence: Mapping[str, FloatArray], rng: np.random.Generator) -> IntArray:
        """n coded rows of the model, of which each can obey.

        Where the model does not heed a constraint, rows that cannot obey are drawn again.
        Raises ModelError where the model has no row that can.
        """
        codes = model.sample(n, rng=rng, evidence=evidence)
        possible = self._possible(codes)
        lacking, pool = np.flatnonzero(~possible), codes[possible]
        rate = max(float(possible.mean()) if n else 1.0, 0.01)
        for _ in range(ROUNDS):
            if not len(lacking):
                return codes
            more = model.sample(min(int(1.2 * len(lacking) / rate) + 64, max(n, 20_000)), rng=rng, evidence=evidence)
            more = more[self._possible(more)]
            filled = lacking[: len(more)]
            codes[filled] = more[: len(filled)]
            lacking, pool = lacking[len(filled) :], np.concatenate([pool, more])
        if len(lacking) and not len(pool):
            raise ModelError("the constraints leave no row possible under the model; do they hold in the table?")
        codes[lacking] = pool[rng.integers(len(pool), size=len(lacking))] if len(lacking) else codes[lacking]
        return codes

    def with_evidence(self, conditions: Conditions) -> Conditions:
        """Conditions with what fixed values say of columns that are ordered with them."""
        evidence = dict(conditions.evidence)
        for (low, high), strict in self._orders.items():
            known = [name for name in (low, high) if name in conditions.fixed]
            if len(known) != 1 or math.isnan(value := float(conditions.fixed[known[0]])):
                continue
            other = high if known == [low] else low
            exact = self.codecs[other].within @ self._against(value, other, low == other, strict)
            table = self._order_shares(low, high, strict)
            group = self.codecs[known[0]].groups[self._cell_of(known[0], value)]
            usual = table[group] if other == high else table[:, group]
            evidence[other] = evidence.get(other, 1.0) * np.where(usual < LEAST, 0.0, exact / np.maximum(usual, LEAST))
        return replace(conditions, evidence=evidence)

    def contradicts(self, fixed: Mapping[str, Any]) -> Constraint | None:
        """A constraint that fixed values alone do not obey."""
        cells: dict[str, Own] = {
            n: np.array([v], np.float64 if isinstance(v, float) else object) for n, v in fixed.items()
        }
        self._make(cells, self.making)
        for constraint in self.constraints:
            if set(constraint.columns) <= cells.keys() and constraint.violated(cells, self.columns).any():
                return constraint
        return None

    def cells_where(self, name: str, matches: Any) -> tuple[str, BoolArray]:
        """(column that the model has, its fine cells) for which a column that follows from it has values that `matches`."""
        root = self._root(name)
        mask = np.asarray(matches(self._over_cells(name)), bool)
        cells = self.codecs[root].cells
        if isinstance(cells, LabelCells):
            mask[cells.other] = False
        return root, mask

    def _possible(self, codes: IntArray) -> BoolArray:
        out = np.ones(len(codes), bool)
        for zero in self.zeros:
            at = tuple(codes[:, self._places[name]] for name in zero.columns)
            out &= zero.log_weights[at] > IMPOSSIBLE / 2
        return out

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.codecs)}

    def _of(self, kind: type[Impossible]) -> Iterator[Impossible]:
        return (c for c in self.constraints if isinstance(c, kind))

    def _shares(self) -> Iterator[tuple[tuple[str, ...], FloatArray]]:
        """(columns, for each combination of their codes the share that obeys) of each constraint that binds columns."""
        for constraint in self._of(Impossible):
            masks = self._masks(constraint)
            both = np.ones(())
            for name, mask in masks.items():
                both = both[..., None] * (self.codecs[name].within @ mask)
            yield tuple(masks), 1 - both
        for (low, high), strict in self._orders.items():
            yield (low, high), self._order_shares(low, high, strict)

    def _root(self, name: str) -> str:
        """The column of the model from which a column follows by mappings; itself, where the model has it."""
        follows = {m.dependent: m.column for m in self.making if isinstance(m, Determines)}
        while name in follows:
            name = follows[name]
        return name

    def _masks(self, constraint: Impossible) -> dict[str, BoolArray]:
        """For each column of the model the fine cells that a combination names."""
        out: dict[str, BoolArray] = {}
        for name, items in constraint.where.items():
            kind, root = self.columns[name].kind, self._root(name)
            cells = self.codecs[root].cells
            mask = cells_matching(cells, items, kind) if root == name else matching(self._over_cells(name), items, kind)
            if isinstance(cells, LabelCells):
                mask[cells.other] = False
            out[root] = mask & out.get(root, True)
        return out

    def _over_cells(self, name: str) -> Own:
        """The value of a column for each fine cell of the one that it follows from."""
        root = self._root(name)
        cells = {root: representatives(self.codecs[root].cells)}
        self._make(cells, [m for m in self.making if isinstance(m, Determines)])
        return cells[name]

    def _make(self, cells: dict[str, Own], making: Iterable[Making]) -> None:
        for m in making:
            if cells.keys() >= set(m.sources):
                cells[m.result] = m.made(cells, self.columns)

    # -- order ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _orders(self) -> dict[tuple[str, str], bool]:
        """(low, high) -> strict, with what follows: a <= b and b <= c make a <= c."""
        out = {(c.low, c.high): c.strict for c in self.constraints if isinstance(c, Ordered)}
        for middle in {name for pair in out for name in pair}:
            for (a, b), first in list(out.items()):
                for (c, d), second in list(out.items()):
                    if b == middle == c:
                        out[a, d] = out.get((a, d), False) or first or second
        return out

    @cached_property
    def _compared(self) -> dict[tuple[str, str], FloatArray]:
        return {
            (low, high): _comparison(self._line(low), self._line(high), s) for (low, high), s in self._orders.items()
        }

    def _line(self, name: str) -> LineCells:
        cells = self.codecs[name].cells
        if not isinstance(cells, LineCells):
            raise ModelError(f"column {name!r} is not a number line, and has no order")
        return cells

    def _order_shares(self, low: str, high: str, strict: bool) -> FloatArray:
        shares: FloatArray = self.codecs[low].within @ self._compared[low, high] @ self.codecs[high].within.T
        return shares

    def _against(self, value: float, other: str, other_is_low: bool, strict: bool) -> FloatArray:
        """Share of each fine cell of a column that is in order with a value of another."""
        point = LineCells("", self._line(other).scale, (value,), (), None)
        if other_is_low:
            return np.asarray(_comparison(self._line(other), point, strict)[:, 0])
        return np.asarray(_comparison(point, self._line(other), strict)[0])

    def _cell_of(self, name: str, value: float) -> int:
        return int(self.codecs[name].cells.encode(Numbers(np.array([value])))[0])

    # -- values --------------------------------------------------------------------------------------------------------

    def obey(
        self, values: dict[str, Own], codes: IntArray, conditions: Conditions, rng: np.random.Generator
    ) -> BoolArray:
        """Draw values anew, in place and within their codes, in rows that do not obey. Returns the rows that now do, shape (n,).

        values: of the columns that the model has.
        """
        good = np.ones(len(codes), bool)
        for group in self._groups:
            bad = np.flatnonzero(self._broken(values, group))
            for _ in range(REDRAWS):
                if not len(bad):
                    break
                for name in group.columns:
                    if name not in conditions.fixed:
                        values[name][bad] = self.drawn(name, codes[bad, self._places[name]], conditions, rng)
                bad = bad[self._broken({name: values[name][bad] for name in group.columns}, group)]
            if len(bad):
                self._by_list(values, bad, codes, group, conditions, rng)
                bad = bad[self._broken({name: values[name][bad] for name in group.columns}, group)]
            good[bad] = False
        return good

    def drawn(self, name: str, codes: IntArray, conditions: Conditions, rng: np.random.Generator) -> Own:
        """Values of one column within its codes."""
        codec = self.codecs[name]
        if name in conditions.kept:
            codec = codec.tilted(conditions.kept[name])
        fine = codec.refine(codes, rng)
        if isinstance(codec.cells, LabelCells) and codec.cells.labels:
            # "Any other value" has no value to show: such rows get one of the known labels, in proportion.
            rare = np.flatnonzero(fine == codec.cells.other)
            known = np.maximum(codec.shares[: codec.cells.other], 0.0)
            if len(rare) and known.sum() > 0:
                fine[rare] = draw_conditional((known / known.sum())[None, :], np.zeros(len(rare), np.int64), rng)
        return codec.values(fine, rng)

    def complete(self, values: dict[str, Own]) -> None:
        """Add the columns that are made from others, in place."""
        self._make(values, self.making)

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        binding = [c for c in self.constraints if isinstance(c, Impossible | Ordered)]
        parts: list[tuple[set[str], list[Constraint]]] = []
        for constraint in binding:
            columns = {self._root(name) for name in constraint.columns}
            members: list[Constraint] = [constraint]
            apart = []
            for others, their in parts:
                if others & columns:
                    columns, members = columns | others, their + members
                else:
                    apart.append((others, their))
            parts = [*apart, (columns, members)]
        return tuple(
            _Group(tuple(sorted(c, key=self._places.__getitem__)), tuple(m), self._needed(m)) for c, m in parts
        )

    def _needed(self, constraints: Iterable[Constraint]) -> tuple[Making, ...]:
        names = {name for c in constraints for name in c.columns}
        out = []
        for m in reversed(self.making):
            if m.result in names:
                names |= set(m.sources)
                out.append(m)
        return tuple(reversed(out))

    def _broken(self, values: Mapping[str, Own], group: _Group) -> BoolArray:
        cells = {name: values[name] for name in group.columns}
        self._make(cells, group.making)
        return np.asarray(np.logical_or.reduce([c.violated(cells, self.columns) for c in group.constraints]))

    def _by_list(
        self,
        values: dict[str, Own],
        bad: IntArray,
        codes: IntArray,
        group: _Group,
        conditions: Conditions,
        rng: np.random.Generator,
    ) -> None:
        """For rows whose codes hardly ever obey: list the fine cells within the codes, and draw of those that can."""
        places = [self._places[name] for name in group.columns]
        combinations, which = np.unique(codes[bad][:, places], axis=0, return_inverse=True)
        for i, combination in enumerate(combinations):
            rows = bad[which.ravel() == i]
            fine = self._listed(group, combination, conditions, len(rows), rng)
            for _ in range(REDRAWS if fine is not None else 0):
                for column, name in enumerate(group.columns):
                    if name not in conditions.fixed:
                        values[name][rows] = self.codecs[name].values(fine[:, column], rng)  # type: ignore[index]
                broken = self._broken({name: values[name][rows] for name in group.columns}, group)
                if not broken.any():
                    break
                rows, fine = rows[broken], fine[broken]  # type: ignore[index]

    def _listed(
        self, group: _Group, combination: IntArray, conditions: Conditions, n: int, rng: np.random.Generator
    ) -> IntArray | None:
        """n combinations of fine cells within one of codes, shape (n, columns); None where none can obey, or they are too many."""
        lists, weights = [], []
        for name, code in zip(group.columns, combination.tolist(), strict=True):
            codec = self.codecs[name]
            within = codec.within[code] * conditions.kept.get(name, True)
            if isinstance(codec.cells, LabelCells):
                within = np.where(np.arange(codec.cells.size) == codec.cells.other, 0.0, within)
            if name in conditions.fixed:
                value = conditions.fixed[name]
                at = codec.cells.encode(cells_of(value))[0]
                within = np.eye(1, codec.cells.size, int(at))[0]
            lists.append(np.flatnonzero(within))
            weights.append(within[lists[-1]])
        if not 0 < math.prod(map(len, lists)) <= _LISTED:
            return None
        grid = np.stack(np.meshgrid(*lists, indexing="ij"), axis=-1).reshape(-1, len(lists))
        weight = np.prod(np.stack(np.meshgrid(*weights, indexing="ij"), axis=-1).reshape(-1, len(lists)), axis=1)
        column = {name: grid[:, i] for i, name in enumerate(group.columns)}
        for (low, high), table in self._compared.items():
            if low in column and high in column:
                weight = weight * table[column[low], column[high]]
        cells = {name: representatives(self.codecs[name].cells)[at] for name, at in column.items()}
        self._make(cells, group.making)
        for constraint in group.constraints:
            if isinstance(constraint, Impossible):
                weight = np.where(constraint.violated(cells, self.columns), 0.0, weight)
        if not weight.sum() > 0:
            return None
        chosen: IntArray = grid[rng.choice(len(grid), n, p=weight / weight.sum())]
        return chosen


def cells_of(value: Any) -> Cells:
    if isinstance(value, float):
        return Numbers(np.array([value]))
    return Strings(np.array([-1 if value is None else 0], np.int32), np.array([value], dtype=object))


def _comparison(low: LineCells, high: LineCells, strict: bool) -> FloatArray:
    """Probability that values of two fine cells, drawn apart, are in order, shape (low.size, high.size); missing always is.

    By some places in each cell; above 0 exactly where two values of the cells can be in order.
    """
    x, y = (_drawn_in(cells) for cells in (low, high))
    out = np.ones((low.size, high.size))
    for j, places in enumerate(y):
        below = np.searchsorted(places, x.ravel(), side="right" if strict else "left").reshape(x.shape)
        out[:-1, j] = 1 - below.mean(axis=1) / len(_PLACES)
    lowest, highest = low.low[:, None], high.top[None, :]
    can = lowest < highest if strict else lowest <= highest
    out[:-1, :-1] = np.where(can, np.maximum(out[:-1, :-1], 1 / 512), 0.0)
    return out


def _drawn_in(cells: LineCells) -> FloatArray:
    """Evenly spaced values in each cell, missing excluded, shape (cells.size - 1, places)."""
    each = np.repeat(np.arange(cells.size - 1), len(_PLACES))
    drawn: FloatArray = cells.values(each, np.tile(_PLACES, cells.size - 1)).reshape(-1, len(_PLACES))
    return drawn


def violations(rules: Rules, cells: Mapping[str, Cells]) -> dict[str, int]:
    """How many rows of a table do not obey each constraint, by what it says."""
    found = {name: own_cells(cells[name], rules.columns[name]) for c in rules.constraints for name in c.columns}
    return {str(c): int(c.violated(found, rules.columns).sum()) for c in rules.constraints}


def made_column(making: Making, columns: Mapping[str, Column]) -> Column:
    """The facts of a column that is made from others, whose own facts are known."""
    column = columns[making.result]
    if isinstance(making, Determines):
        missing = any(value is None for _, value in making.pairs)
        unnamed = columns[making.column].nullable is not False and all(key is not None for key, _ in making.pairs)
        return replace(making.described(column), nullable=missing or unnamed)
    parts = [columns[name] for name in making.parts]
    nullable = any(part.nullable is not False for part in parts)
    if column.kind != "numeric":
        return replace(column, nullable=nullable)
    decimals = None if any(p.decimals is None and not p.integer for p in parts) else max(p.decimals or 0 for p in parts)
    whole = all(part.integer for part in parts)
    return replace(column, nullable=nullable, integer=whole, decimals=None if whole else decimals)
