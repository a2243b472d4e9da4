"""What source and schema say of a column before a row is asked."""

from __future__ import annotations

from dataclasses import replace

from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.pii import header_entity
from dpsynth.schema import Column, Kind, Schema
from dpsynth.sources import SourceColumn

# Why no vote is asked of a column whose kind the schema says, as a fit and a scan put it.
BY_SCHEMA = "declared in the schema"

_SAID = {
    "number": "numbers",
    "integer": "whole numbers",
    "boolean": "truth values",
    "datetime": "dates or times",
    "timedelta": "durations",
}
# Kinds that a source's type can be declared to be; the first is taken where nothing is declared. Strings may be anything: they are read as what they are declared to be.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "number": ("numeric", "categorical", "boolean", "id"),
    "integer": ("numeric", "categorical", "boolean", "id"),
    "boolean": ("boolean", "categorical", "id"),
    "datetime": ("datetime", "id"),
    "timedelta": ("timedelta", "id"),
}


def check_kind(source: SourceColumn, column: Column) -> None:
    """Raises SchemaError where a column is declared to be what its type rules out: its cells would be read as something else."""
    kinds = _KINDS.get(source.type)
    if kinds is not None and column.kind is not None and column.kind not in kinds:
        raise SchemaError(
            f"the schema's column {column.name!r} is {column.kind}, but the table holds {_SAID[source.type]}: "
            f"declare {' or '.join(kinds)}, or convert the column"
        )


def is_declared(source: SourceColumn, schema: Schema | None) -> bool:
    """Whether the schema says what a column is: its kind, or that it identifies."""
    column = _column(source, schema)
    return column.kind is not None or column.role == "identifier"


def _column(source: SourceColumn, schema: Schema | None) -> Column:
    return schema[source.name] if schema is not None and source.name in schema else Column(source.name)


def needs_votes(source: SourceColumn, schema: Schema | None) -> bool:
    """Whether the PII detector votes on a column: strings of no declared kind, and numbers whose column's name speaks of an identifier."""
    if is_declared(source, schema):
        return False
    return source.type == "string" or (source.type in ("number", "integer") and header_entity(source.name) is not None)


def may_be_numbered(source: SourceColumn, schema: Schema | None) -> bool:
    """Whether a column of numbers is voted on where they turn out to be long: nothing is declared of it, and its name says nothing."""
    if source.type not in ("number", "integer") or header_entity(source.name) is not None:
        return False
    reckoned_with = any(source.name in c.columns for c in (schema.constraints if schema is not None else ()))
    return not is_declared(source, schema) and not reckoned_with


def declared(source: SourceColumn, schema: Schema | None) -> Column:
    """The schema's column, or one that holds what the source's type says."""
    column = _column(source, schema)
    if is_declared(source, schema):
        return column
    kind = _KINDS[source.type][0] if source.type in _KINDS else None
    return replace(column, kind=kind, integer=True if source.type == "integer" else None)
