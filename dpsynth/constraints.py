"""Declared constraints: what holds for every row by law, code book or logic. Public, free of epsilon, kept exactly.

    Determines("education", "education_num", mapping={...})             one column follows from another
    Impossible({"sex": ["Male"], "pregnant": ["yes"]})                  values that do not occur together
    Ordered("start", "end")                                             one column is never above another
    Total("cost", ("labour", "material"))                               one column is the sum of others

Here they are said, checked against each other and the columns, and looked for in rows. `enforce` makes a model keep them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np

from dpsynth.column import Column, Kind
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import BoolArray, FloatArray, IntArray
from dpsynth.values import (
    LINES,
    Item,
    Own,
    Value,
    as_label,
    coded,
    is_number,
    item_of,
    items_of,
    matching,
    own,
    place,
    public,
    said,
    same,
    span,
)

# The table of an impossible combination is one clique of the model: it must stay small.
MAX_IMPOSSIBLE = 3
# Different values and ranges of a column that impossible combinations may name in all: each gets a code of its own.
MAX_NAMED = 256
# Combinations of declared values that are tried to see whether the constraints leave any.
_TRIED = 20_000
# Whole numbers between a column's bounds that are tried to see whether a mapping names each.
_NAMED = 100_000


@dataclass(frozen=True, slots=True)
class Determines:
    """Each value of `column` goes with one value of `dependent`: education -> education_num, zip -> city, age -> age group.

    mapping: value, or range (low, high) of values, of `column` -> value of `dependent`; a single value goes before a range, and the
        first range before the others. It is public: the dependent column costs nothing, and is made from the other. Where it does not name missing (None), that goes
        with a missing dependent. None = not known: the most frequent dependent of each value is taken from noisy counts.
    """

    column: str
    dependent: str
    mapping: Mapping[Any, Any] | Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.mapping is None:
            return
        items = self.mapping.items() if isinstance(self.mapping, Mapping) else self.mapping
        try:
            pairs = tuple((item_of(key), public(value)) for key, value in items)
        except (TypeError, ValueError):
            raise SchemaError(
                f"constraint {self}: a mapping is a dict, or a list of pairs (value, dependent)"
            ) from None
        object.__setattr__(self, "mapping", pairs)
        if not pairs:
            raise SchemaError(f"constraint {self}: the mapping is empty; leave it out to have it learned")
        if len({key if isinstance(key, tuple) else (as_label(key),) for key, _ in pairs}) != len(pairs):
            raise SchemaError(f"constraint {self}: the mapping names a value twice")

    def __str__(self) -> str:
        return f"{self.column} determines {self.dependent}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, self.dependent)

    @property
    def pairs(self) -> tuple[tuple[Item, Value], ...]:
        """The mapping, value by value; empty where it is not known."""
        return tuple(self.mapping or ())

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def result(self) -> str:
        return self.dependent

    def implied(self, columns: Mapping[str, Column]) -> Iterator[Column]:
        """The two columns with what the mapping says of them. Raises SchemaError where it contradicts what is declared."""
        if not self.pairs:
            return
        by = _with_values(columns[self.column], [key for key, _ in self.pairs if key is not None], codes=True)
        _require_fits(str(self), by, (key for key, _ in self.pairs))
        self._require_whole(by)
        yield by
        dependent = self.described(columns[self.dependent])
        _require_fits(str(self), dependent, (value for _, value in self.pairs))
        yield dependent

    def described(self, dependent: Column) -> Column:
        """The dependent column with what the mapping says of it."""
        return _with_values(dependent, [value for _, value in self.pairs if value is not None])

    def _require_whole(self, by: Column) -> None:
        """Refuses a mapping that lacks a declared value."""
        declared: Sequence[Value] = by.categories or ((False, True) if by.kind == "boolean" else ())
        if by.kind == "numeric" and by.integer and by.bounds is not None:
            low, high = (float(bound) for bound in by.bounds)
            declared = range(math.ceil(low), math.floor(high) + 1) if high - low <= _NAMED else ()
        cells = np.array([own(v, by.kind) for v in declared], np.float64 if by.kind in LINES else object)
        lacking = np.flatnonzero(self._places(cells, by.kind) < 0)
        if len(lacking):
            raise SchemaError(
                f"constraint {self}: the mapping lacks {declared[lacking[0]]!r} of {by.name!r}; name every value that "
                "the schema lets it have"
            )

    def _places(self, cells: Own, kind: Kind | None) -> IntArray:
        """The pair that each cell goes with, shape (cells,); -1 where there is none."""
        single: dict[Any, int] = {}
        for i, (key, _) in enumerate(self.pairs):
            if not isinstance(key, tuple):
                single.setdefault(own(key, kind), i)
        found = np.array([single.get(None if c is None or c != c else c, len(self.pairs)) for c in cells], np.int64)
        for i, (key, _) in enumerate(self.pairs):
            if isinstance(key, tuple):
                found[matching(cells, [key], kind) & (found == len(self.pairs))] = i
        found[found == len(self.pairs)] = -1
        return found

    def made(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> Own:
        """The dependent column's cells, from those of the other, by the mapping."""
        kind = columns[self.dependent].kind
        given, uniques = coded(cells[self.column])
        nothing = np.nan if kind in LINES else None
        values = [own(value, kind) for _, value in self.pairs]
        held = np.array([nothing if v is None else v for v in [*values, None]], np.float64 if kind in LINES else object)
        made: Own = held[self._places(uniques, columns[self.column].kind)][given]
        return made

    def violated(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> BoolArray:
        """Rows that do not obey it, shape (rows,); without a mapping, rows that differ from most others of their value."""
        held = cells[self.dependent]
        if self.pairs:
            return ~same(held, self.made(cells, columns))
        given, uniques = coded(cells[self.column])
        results, _ = coded(held)
        pairs, counts = np.unique(np.stack([given, results]), axis=1, return_counts=True)
        usual = np.zeros(len(uniques), np.int64)
        order = np.argsort(counts, kind="stable")
        usual[pairs[0, order]] = pairs[1, order]  # the last to be written is the most frequent
        return np.asarray(usual[given] != results)

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": "determines", "column": self.column, "dependent": self.dependent}
        if not self.pairs:
            return body
        if all(isinstance(key, str) for key, _ in self.pairs):
            return body | {"mapping": dict(self.pairs)}
        return body | {"mapping": [[list(k) if isinstance(k, tuple) else k, v] for k, v in self.pairs]}


@dataclass(frozen=True, slots=True)
class Total:
    """`total` is the sum of `parts`; missing where one of them is. Costs nothing: the total is made from its parts.

    Numbers or timedeltas; or a datetime that is one datetime plus timedeltas: `Total("end", ("start", "duration"))`.

    >>> print(dpsynth.Total("paid", ["wage", "bonus"]))
    paid = wage + bonus
    """

    total: str
    parts: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.parts, str) or len(tuple(self.parts)) < 2:
            raise SchemaError(f"constraint on {self.total!r}: a total has two parts at least")
        object.__setattr__(self, "parts", tuple(self.parts))

    def __str__(self) -> str:
        return f"{self.total} = {' + '.join(self.parts)}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.total, *self.parts)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.parts)

    @property
    def result(self) -> str:
        return self.total

    def check(self, columns: Mapping[str, Column]) -> None:
        """Raises SchemaError where the columns cannot be added up, or their sum may leave the total's declared bounds."""
        total, parts = columns[self.total], [columns[name] for name in self.parts]
        kinds = [c.kind for c in (total, *parts)]
        if None not in kinds and set(kinds) not in ({"numeric"}, {"timedelta"}):
            dates = kinds[1:].count("datetime") == 1 and set(kinds) == {"datetime", "timedelta"}
            if not (dates and total.kind == "datetime"):
                raise SchemaError(f"constraint {self}: columns of kind {', '.join(map(str, kinds))} do not add up")
        if total.bounds is None:
            return
        ends = [[place(b, c.kind) for b in c.bounds] if c.bounds else [-math.inf, math.inf] for c in (total, *parts)]
        least, most = (sum(e[i] for e in ends[1:]) for i in (0, 1))
        if least < ends[0][0] or most > ends[0][1]:
            raise SchemaError(
                f"constraint {self}: the parts' bounds let the sum pass the bounds of {self.total!r}; leave its bounds out"
            )

    def made(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> Own:
        """The total's cells from those of its parts."""
        out: FloatArray = np.sum([cells[name].astype(np.float64) for name in self.parts], axis=0)
        column = columns[self.total]
        decimals = 0 if column.integer or column.kind != "numeric" else column.decimals
        return out if decimals is None else np.round(out, decimals)

    def violated(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> BoolArray:
        """Rows that do not obey it, shape (rows,); sums are compared to nine digits."""
        held, due = cells[self.total].astype(np.float64), np.asarray(self.made(cells, columns), np.float64)
        return ~np.isclose(held, due, rtol=1e-9, atol=1e-9, equal_nan=True)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "total", "total": self.total, "parts": list(self.parts)}


@dataclass(frozen=True, slots=True)
class Impossible:
    """Values that never occur together: `Impossible({"sex": ["Male"], "pregnant": ["yes"]})`.

    where: column -> value or list of values; a row that has one of them in each of the columns is impossible. None stands for
        missing, a pair (low, high) for all numbers or dates between, both included, None being no end. At most three columns; with
        one column, these values do not occur at all.
    """

    where: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.where, Mapping) or not self.where:
            raise SchemaError("Impossible takes a dict: column -> the values that do not occur together")
        object.__setattr__(self, "where", {str(name): items_of(values) for name, values in self.where.items()})
        if len(self.where) > MAX_IMPOSSIBLE:
            raise SchemaError(f"constraint {self}: names more than {MAX_IMPOSSIBLE} columns; split it")

    def __str__(self) -> str:
        return "impossible: " + " with ".join(f"{n} {' or '.join(map(said, i))}" for n, i in self.where.items())

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.where)

    def check(self, columns: Mapping[str, Column]) -> None:
        """Raises SchemaError where a value cannot be one of its column."""
        for name, items in self.where.items():
            _require_fits(str(self), columns[name], items)

    def violated(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> BoolArray:
        """Rows that do not obey it, shape (rows,)."""
        hits = [matching(cells[name], items, columns[name].kind) for name, items in self.where.items()]
        return np.asarray(np.logical_and.reduce(hits))

    def to_json(self) -> dict[str, Any]:
        where = {n: [list(i) if isinstance(i, tuple) else i for i in items] for n, items in self.where.items()}
        return {"kind": "impossible", "where": where}


@dataclass(frozen=True, slots=True)
class Ordered:
    """`low` is never above `high`, where both are known: two numbers, two dates or two timedeltas.

    strict: they are never equal, either.

    >>> print(dpsynth.Ordered("admitted", "discharged"))
    admitted <= discharged
    """

    low: str
    high: str
    _: KW_ONLY
    strict: bool = False

    def __str__(self) -> str:
        return f"{self.low} {'<' if self.strict else '<='} {self.high}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.low, self.high)

    def check(self, columns: Mapping[str, Column]) -> None:
        """Raises SchemaError where the two columns cannot be compared, or never be in this order."""
        low, high = columns[self.low], columns[self.high]
        for column in (low, high):
            if column.kind is not None and column.kind not in LINES:
                raise SchemaError(f"constraint {self}: {column.name!r} is {column.kind}, and has no order")
        if low.kind is not None and high.kind is not None and low.kind != high.kind:
            raise SchemaError(f"constraint {self}: a {low.kind} column cannot be compared with a {high.kind} one")
        if low.bounds is not None and high.bounds is not None and low.nullable is False and high.nullable is False:
            least, most = place(low.bounds[0], low.kind), place(high.bounds[1], high.kind)
            if least > most or (self.strict and least == most):
                raise SchemaError(
                    f"constraint {self}: the bounds of {self.low!r} and {self.high!r} leave no value for it"
                )

    def violated(self, cells: Mapping[str, Own], columns: Mapping[str, Column]) -> BoolArray:
        """Rows that do not obey it, shape (rows,)."""
        low, high = cells[self.low].astype(np.float64), cells[self.high].astype(np.float64)
        return np.asarray(low >= high if self.strict else low > high)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "ordered", "low": self.low, "high": self.high, "strict": self.strict}


Constraint = Determines | Total | Impossible | Ordered
# Constraints by which a column is made from others.
Making = Determines | Total
_KINDS: dict[str, type[Constraint]] = {
    "determines": Determines,
    "total": Total,
    "impossible": Impossible,
    "ordered": Ordered,
}


def constraint_from_json(obj: Any) -> Constraint:
    """Inverse of `to_json`. Raises SchemaError for anything else."""
    if not isinstance(obj, dict) or obj.get("kind") not in _KINDS:
        raise SchemaError(f"each constraint is an object with a kind, one of {', '.join(_KINDS)}")
    try:
        return _KINDS[obj["kind"]](**{k: v for k, v in obj.items() if k != "kind"})
    except TypeError:
        raise SchemaError(f"a constraint of kind {obj['kind']!r} lacks a field, or has one that is not known") from None


# -- constraints against each other and the columns --------------------------------------------------------------------


def settled(constraints: Iterable[Constraint], columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns with what the constraints imply. Raises SchemaError where constraints contradict the columns or each other."""
    constraints, known = tuple(constraints), dict(columns)
    for constraint in constraints:
        if not isinstance(constraint, Constraint):
            raise SchemaError("constraints are Determines, Total, Impossible or Ordered")
        _require_columns(constraint, known)
    made = in_order(constraints)
    for making in made:
        if isinstance(making, Determines):
            known |= {c.name: c for c in making.implied(known)}
    _require_modelled(constraints, made)
    for constraint in constraints:
        if not isinstance(constraint, Determines):
            constraint.check(known)
    impossible = [c for c in constraints if isinstance(c, Impossible)]
    for name in dict.fromkeys(name for c in impossible for name in c.columns):
        if len({item for c in impossible for item in c.where.get(name, ())}) > MAX_NAMED:
            raise SchemaError(f"column {name!r}: impossible combinations name more than {MAX_NAMED} of its values")
    _require_no_circle(
        [(c.low, c.high) for c in constraints if isinstance(c, Ordered)], "the order goes in a circle; drop one of them"
    )
    _require_possible(impossible, [m for m in made if isinstance(m, Determines) and m.pairs], known)
    return known


def _require_columns(constraint: Constraint, columns: Mapping[str, Column]) -> None:
    for name in constraint.columns:
        if name not in columns:
            raise SchemaError(f"constraint {constraint}: the schema has no column {name!r}; add Column({name!r})")
        column = columns[name]
        if column.role == "identifier" or column.kind in ("id", "text"):
            what = "an identifier" if column.role == "identifier" or column.kind == "id" else "text"
            raise SchemaError(f"constraint {constraint}: {name!r} is {what}, which is not modelled by its values")
    if len(set(constraint.columns)) != len(constraint.columns):
        raise SchemaError(f"constraint {constraint}: names a column twice")


def _require_modelled(constraints: Iterable[Constraint], made: Sequence[Making]) -> None:
    """Refuses constraints on columns that are made from others, where they could not be kept."""
    results, totals = {m.result for m in made}, {m.result for m in made if isinstance(m, Total)}
    for constraint in constraints:
        if isinstance(constraint, Ordered):
            taken = results & set(constraint.columns)
        elif isinstance(constraint, Determines) and not constraint.pairs:
            taken = results & {constraint.column}
        elif isinstance(constraint, Total):
            taken = set()
        else:
            taken = totals & set(constraint.columns) - (
                {constraint.dependent} if isinstance(constraint, Determines) else set()
            )
        if taken:
            raise SchemaError(
                f"constraint {constraint}: {sorted(taken)[0]!r} is made from other columns; say it of those"
            )


def in_order(constraints: Iterable[Constraint]) -> list[Making]:
    """The constraints that make a column, each after those that make what it needs."""
    waiting: list[Making] = [c for c in constraints if isinstance(c, Making)]
    names = [m.result for m in waiting]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise SchemaError(f"column {twice!r} follows from two constraints; keep one")
    _require_no_circle(
        [(s, m.result) for m in waiting for s in m.sources], "each follows from the other; drop one of them"
    )
    out: list[Making] = []
    while waiting:
        left = {m.result for m in waiting}
        out += [m for m in waiting if not left & set(m.sources)]
        waiting = [m for m in waiting if left & set(m.sources)]
    return out


def _require_no_circle(arrows: Iterable[tuple[str, str]], rule: str) -> None:
    """Raises SchemaError where arrows (from, to) lead back to where they began."""
    left = list(arrows)
    while left:
        heads = {arrow[1] for arrow in left}
        going_on = [arrow for arrow in left if arrow[0] in heads]
        if len(going_on) == len(left):
            raise SchemaError(f"constraints on {', '.join(map(repr, sorted(heads)))}: {rule}")
        left = going_on


def _require_possible(
    impossible: Sequence[Impossible], made: Sequence[Determines], columns: Mapping[str, Column]
) -> None:
    """Refuses impossible combinations that leave none of the declared values; looks at those over declared categories."""
    values: dict[str, list[Value]] = {}
    follows = {m.result: m for m in made}

    def roots(name: str) -> str:
        return roots(follows[name].column) if name in follows else name

    for name in dict.fromkeys(roots(name) for c in impossible for name in c.columns):
        column = columns[name]
        declared = (False, True) if column.kind == "boolean" else column.categories
        if declared is not None:
            values[name] = [*declared, *([] if column.nullable is False else [None])]
    known = [c for c in impossible if all(roots(name) in values for name in c.columns)]
    names = list(dict.fromkeys(roots(name) for c in known for name in c.columns))
    if not names or math.prod(len(values[n]) for n in names) > _TRIED:
        return
    tried = list(itertools.product(*(values[n] for n in names)))
    cells: dict[str, Own] = {
        n: np.array([own(row[i], "categorical") for row in tried], dtype=object) for i, n in enumerate(names)
    }
    for making in made:
        if making.column in cells:
            cells[making.result] = making.made(cells, columns)
    if np.logical_or.reduce([c.violated(cells, columns) for c in known]).all():
        raise SchemaError(f"constraints on {', '.join(map(repr, names))}: no declared value is left possible")


def _require_fits(constraint: str, column: Column, items: Iterable[Item]) -> None:
    """Refuses values or ranges that a column of this kind, or with these categories, cannot hold."""
    labels = {"True", "False"} if column.kind == "boolean" else {as_label(c) for c in column.categories or ()}
    for item in items:
        ends = item if isinstance(item, tuple) else (item,)
        if len(ends) == 2 and column.kind is not None and column.kind not in LINES:
            raise SchemaError(
                f"constraint {constraint}: {column.name!r} is {column.kind} and has no ranges; name its values"
            )
        for end in ends:
            if end is None:
                continue
            if labels and as_label(end) not in labels:
                raise SchemaError(f"constraint {constraint}: {end!r} is not a value of {column.name!r}")
            if column.kind in LINES and not _on_line(end, column.kind):
                raise SchemaError(f"constraint {constraint}: {end!r} is no {column.kind} value of {column.name!r}")
        low, high = span(item, column.kind) if column.kind in LINES and item is not None else (0.0, 0.0)
        if low > high:
            raise SchemaError(f"constraint {constraint}: the range of {column.name!r} ends before it begins")


def _on_line(value: Value, kind: Kind | None) -> bool:
    """Whether a value lies on the number line of a kind."""
    if kind != "datetime":
        return is_number(value)
    try:
        place(value, kind)
    except ValueError:
        return False
    return True


def _with_values(column: Column, items: Sequence[Item], *, codes: bool = False) -> Column:
    """A column with the kind, and the categories or whole numbers, that the values of a mapping say it has.

    codes: numbers are labels unless they are whole and leave no gap: each is one that a row may have, and no other is.
    """
    values = [v for item in items for v in (item if isinstance(item, tuple) else (item,)) if v is not None]
    ranges = any(isinstance(item, tuple) for item in items)
    numbers = [float(v) for v in values if is_number(v)]
    whole = bool(values) and len(numbers) == len(values) and all(v == int(v) for v in numbers)
    if column.kind is None and values:
        gaps = not whole or max(numbers) - min(numbers) != len(set(numbers)) - 1
        if all(isinstance(v, bool) for v in values):
            column = replace(column, kind="boolean")
        elif all(isinstance(v, str) for v in values) and not ranges:
            column = replace(column, kind="categorical")
        elif len(numbers) == len(values):
            column = replace(column, kind="categorical" if codes and gaps and not ranges else "numeric")
        else:
            raise SchemaError(f"column {column.name!r}: its values in a mapping are of several kinds; declare its kind")
    if column.kind == "categorical" and column.categories is None and values:
        return replace(column, categories=tuple(dict.fromkeys(values)))
    if column.kind == "numeric" and not ranges and len(numbers) == len(values) > 0:
        ends = min(numbers), max(numbers)
        bounds = column.bounds or (tuple(map(int, ends)) if whole else ends)
        integer = True if whole and column.integer is None and column.decimals is None else column.integer
        return replace(column, bounds=bounds, integer=integer)
    return column
