"""What a table is said to be: columns, their public facts, and the constraints that its rows obey.

Everything in a declared `Schema` is taken as public and is named so in the certificate. What is left None is learned
under differential privacy from a part of epsilon (see `learn`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpsynth.column import Category, Column, Kind, Role
from dpsynth.constraints import Constraint, Making, constraint_from_json, in_order, settled
from dpsynth.privacy.errors import SchemaError

__all__ = ["Category", "Column", "Kind", "Role", "Schema"]

FORMAT = "dpsynth-schema/1"


@dataclass(frozen=True, slots=True)
class Schema:
    """The public facts of a table: its columns in order, and the constraints that every row obeys.

    Facts that a constraint implies (the values that a declared mapping names) are filled in.

    >>> age = dpsynth.Column("age", "numeric", bounds=(0, 110), integer=True)
    >>> group = dpsynth.Column("group", "categorical")
    >>> by_age = dpsynth.Determines("age", "group", mapping={(0, 17): "child", (18, 110): "adult"})
    >>> schema = dpsynth.Schema([age, group], constraints=[by_age])
    >>> schema.names
    ('age', 'group')
    >>> schema["group"].categories
    ('child', 'adult')
    """

    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...] = ()

    def __init__(self, columns: Iterable[Column], constraints: Iterable[Constraint] = ()) -> None:
        object.__setattr__(self, "columns", tuple(columns) if isinstance(columns, Iterable) else ())
        object.__setattr__(self, "constraints", tuple(constraints))
        if not isinstance(columns, Iterable) or any(
            not isinstance(c, Column) for c in self.columns
        ):  # callers may be untyped
            raise SchemaError("a schema is a list of columns: Schema([Column(...), ...])")
        names = [c.name for c in self.columns]
        if not names:
            raise SchemaError("a schema needs at least one column")
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise SchemaError(f"column {twice!r} stands twice in the schema; names must be unique")
        if self.constraints:
            known = settled(self.constraints, {c.name: c for c in self.columns})
            object.__setattr__(self, "columns", tuple(known[name] for name in names))

    @classmethod
    def learned(cls, columns: Iterable[Column], constraints: Iterable[Constraint]) -> Schema:
        """What a fit made of a schema: the facts are filled in, and hold as they are."""
        schema = cls(columns)
        object.__setattr__(schema, "constraints", tuple(constraints))
        return schema

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def made(self) -> tuple[Making, ...]:
        """The constraints by which a column is made from others, each after those that make what it needs."""
        return tuple(in_order(self.constraints))

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"the schema has no column {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def with_column(self, column: Column) -> Schema:
        """The same schema with one column replaced."""
        return Schema((column if c.name == column.name else c for c in self.columns), self.constraints)

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"format": FORMAT, "columns": [c.to_json() for c in self.columns]}
        return body | ({"constraints": [c.to_json() for c in self.constraints]} if self.constraints else {})

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Schema:
        if not isinstance(obj, dict) or obj.get("format", FORMAT) != FORMAT or not isinstance(obj.get("columns"), list):
            raise SchemaError(f"not a schema: expected an object with format {FORMAT!r} and a list of columns")
        constraints = obj.get("constraints", [])
        if not isinstance(constraints, list):
            raise SchemaError("the constraints of a schema are a list of objects, each with a kind")
        return cls((Column.from_json(c) for c in obj["columns"]), (constraint_from_json(c) for c in constraints))

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def of(cls, schema: Schema | str | Path) -> Schema:
        """A schema, or the one in a JSON file."""
        if isinstance(schema, Schema):
            return schema
        if isinstance(schema, str | Path):
            return cls.load(schema)
        raise SchemaError("schema: a dpsynth.Schema or the path of its JSON file")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise SchemaError(f"the schema file cannot be read: {error.strerror}") from None
        except json.JSONDecodeError:
            raise SchemaError("the schema file is not valid JSON") from None

    @classmethod
    def from_sdv(cls, metadata_or_path: Any, ranges: Literal["declared", "ignore"]) -> Schema:
        """A schema from SDV Metadata (object or JSON path); see `dpsynth.adapters.sdv_metadata.read`."""
        from dpsynth.adapters.sdv_metadata import read

        return read(metadata_or_path, ranges=ranges)

    def to_sdv(self, table: str = "table") -> dict[str, Any]:
        """The schema as SDV Metadata V2 (a dict); see `dpsynth.adapters.sdv_metadata.write`."""
        from dpsynth.adapters.sdv_metadata import write

        return write(self, table)

    @classmethod
    def from_json_schema(cls, model_or_path: Any) -> Schema:
        """A schema from a pydantic model, a JSON Schema or its path; see `dpsynth.adapters.json_schema.read`."""
        from dpsynth.adapters.json_schema import read

        return read(model_or_path)

    @classmethod
    def from_pandera(cls, model: Any, ranges: Literal["declared", "ignore"]) -> Schema:
        """A schema from a pandera DataFrameSchema or DataFrameModel; see `dpsynth.adapters.pandera.read`."""
        from dpsynth.adapters.pandera import read

        return read(model, ranges=ranges)
