"""Checks that look at the synthetic table alone: its values, identifiers in it, the declared constraints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.parse import numbers
from dpsynth.enforce import SCALES, violations
from dpsynth.learn import ColumnFacts, Domain
from dpsynth.privacy.source import Cells, Numbers
from dpsynth.schema import Column
from dpsynth.sources import read
from dpsynth.values import as_label, off_the_line

if TYPE_CHECKING:
    import pandas as pd


class OutputCheck(NamedTuple):
    """Findings of one kind: how many, and which."""

    name: str
    findings: int
    detail: str


def output_checks(domain: Domain, table: pd.DataFrame) -> Iterator[OutputCheck]:
    """What is wrong with a synthetic table whatever the rows are."""
    cells = read(table).cells if len(table) else {}
    yield _values(domain.facts, table.columns, cells)
    yield _identifiers(table)
    if domain.rules.constraints and len(table):
        broken = {rule: count for rule, count in violations(domain.rules, cells).items() if count}
        told = ", ".join(f"{n} of {rule}" for rule, n in broken.items()) or "none"
        yield OutputCheck("declared constraints", sum(broken.values()), f"rows that break one: {told}")


def _values(facts: Iterable[ColumnFacts], columns: Iterable[str], cells: Mapping[str, Cells]) -> OutputCheck:
    """Values that the schema does not allow, and columns that it does not have."""
    facts, names = list(facts), list(columns)
    known = {f.column.name for f in facts}
    wrong = {f"column {name!r}": 1 for name in known.symmetric_difference(names)}
    for fact in facts:
        name = fact.column.name
        if name in cells and fact.treatment in ("modelled", "determined"):
            wrong |= {name: count} if (count := outside(fact.column, cells[name])) else {}
    told = ", ".join(f"{count} in {name}" for name, count in wrong.items()) or "none"
    return OutputCheck("values outside the schema", sum(wrong.values()), f"cells: {told}")


def outside(column: Column, cells: Cells) -> int:
    """Cells that a column's facts do not allow: out of bounds, no category, not whole, missing where none may be."""
    if column.kind in SCALES:
        values = numbers(cells, SCALES[column.kind])
        wrong = off_the_line(column, values)
        missing = np.isnan(values)
        if not isinstance(cells, Numbers):  # strings that are no number
            wrong |= missing & (cells.codes >= 0)
    elif column.kind == "boolean" or column.categories is not None:
        labels = ("False", "True") if column.categories is None else tuple(map(as_label, column.categories))
        known = LabelCells(column.name, labels)
        codes = known.encode(cells)
        wrong, missing = codes == known.other, codes == known.missing
    else:
        return 0
    if column.nullable is False:
        wrong = wrong | missing
    return int(wrong.sum())


def _identifiers(table: pd.DataFrame) -> OutputCheck:
    """No valid identifier outside the reserved ranges of the fakes."""
    from dpsynth.privacy.pii import find_leaks

    found = find_leaks(map(str, table.columns))
    for name in table.columns:
        if table[name].dtype == object or str(table[name].dtype) in ("category", "string", "str"):
            # Not by pandas, which takes values for one that differ after a zero.
            values = dict.fromkeys(map(str, table[name].dropna()))
            for entity, count in find_leaks(values).items():
                found[entity] = found.get(entity, 0) + count
    kinds = ", ".join(f"{count} {entity}" for entity, count in sorted(found.items())) or "none"
    return OutputCheck(
        "identifiers in the output", sum(found.values()), f"valid identifiers outside reserved ranges: {kinds}"
    )
