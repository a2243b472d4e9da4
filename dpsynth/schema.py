"""What a table is said to be: columns and their public facts.

Everything in a declared `Schema` is taken as public and is named so in the certificate. What is left None is learned
under differential privacy from a part of epsilon (see `learn`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dpsynth.privacy.errors import SchemaError

Kind = Literal["numeric", "categorical", "boolean", "datetime", "timedelta", "text", "id"]
Role = Literal["identifier", "target"]
Bound = float | str
Category = str | int | float | bool

KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: tuple[Role, ...] = get_args(Role)
FORMAT = "dpsynth-schema/1"


@dataclass(frozen=True, slots=True)
class Column:
    """One column and what is public about it; a fact that is None is learned under DP.

    name: the column's name.
    kind: numeric, categorical, boolean, datetime, timedelta, text or id; None = learned.
    bounds: (lowest, highest): numbers, ISO dates for a datetime column, seconds for a timedelta column.
    categories: the values that a categorical column may hold.
    integer / decimals: numeric values are whole / have at most this many decimals.
    nullable: whether values may be missing.
    role: "identifier" (never modelled, regenerated as a fake) or "target" (the column that others are to predict).
    entity: what an identifier is ("PERSON", "EMAIL_ADDRESS", ...), so that its fakes look the part.
    sensitive: a column whose subgroups are reported on.
    """

    name: str
    kind: Kind | None = None
    _: KW_ONLY
    bounds: Sequence[Bound] | None = None
    categories: Sequence[Category] | None = None
    integer: bool | None = None
    decimals: int | None = None
    nullable: bool | None = None
    role: Role | None = None
    entity: str | None = None
    sensitive: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):  # callers may be untyped
            raise SchemaError("column names must be strings; rename the columns first")
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(self.bounds))
        if self.categories is not None:
            object.__setattr__(self, "categories", tuple(self.categories))
        for problem in self._problems():
            raise SchemaError(f"column {self.name!r}: {problem}")

    def _problems(self) -> Iterator[str]:
        """Each way in which the declaration contradicts itself."""
        if self.kind is not None and self.kind not in KINDS:
            yield f"kind must be one of {', '.join(KINDS)}"
        if self.role is not None and self.role not in ROLES:
            yield f"role must be one of {', '.join(ROLES)}"
        if self.bounds is not None:
            if self.kind not in ("numeric", "datetime", "timedelta"):
                yield "bounds need kind numeric, datetime or timedelta"
            if len(self.bounds) != 2:
                yield "bounds are a pair (lowest, highest)"
            low, high = self.bounds
            if isinstance(low, str) != isinstance(high, str) or (isinstance(low, str) and self.kind != "datetime"):
                yield "bounds are two numbers, or two ISO dates for kind datetime"
            if not isinstance(low, str) and not (math.isfinite(float(low)) and math.isfinite(float(high))):
                yield "bounds must be finite"
            if low > high:  # type: ignore[operator]  # both numbers or both ISO strings, checked above
                yield "the lower bound is above the upper bound"
        if self.categories is not None:
            if self.kind not in ("categorical", "boolean"):
                yield "categories need kind categorical"
            if not self.categories:
                yield "categories must not be empty"
            if len(set(map(str, self.categories))) != len(self.categories):
                yield "categories must differ from each other, also as strings"
        if self.decimals is not None and not 0 <= self.decimals <= 15:
            yield "decimals must be between 0 and 15"
        if self.integer and self.decimals:
            yield "an integer column has no decimals"
        if (self.integer is not None or self.decimals is not None) and self.kind != "numeric":
            yield "integer and decimals need kind numeric"

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the facts that stand here, for the certificate's list of what was taken as public."""
        return tuple(f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) not in (None, False))

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name}
        out |= {name: getattr(self, name) for name in (f.name for f in fields(self)) if name != "name"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items() if v is not None}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Column:
        known = {f.name for f in fields(cls)}
        if not isinstance(obj, dict) or "name" not in obj:
            raise SchemaError("each column of a schema is an object with a name")
        if unknown := sorted(set(obj) - known):
            raise SchemaError(f"column {obj['name']!r}: unknown field {unknown[0]!r}; known are {sorted(known)}")
        return cls(**obj)


@dataclass(frozen=True, slots=True)
class Schema:
    """The public facts of a table, column by column, in order."""

    columns: tuple[Column, ...]
    constraints: tuple[()] = ()

    def __init__(self, columns: Iterable[Column], constraints: Iterable[Any] = ()) -> None:
        object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "constraints", tuple(constraints))
        names = [c.name for c in self.columns]
        if not names:
            raise SchemaError("a schema needs at least one column")
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise SchemaError(f"column {twice!r} stands twice in the schema; names must be unique")
        if self.constraints:
            raise SchemaError("constraints are not known to this version; remove them from the schema")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"the schema has no column {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def with_column(self, column: Column) -> Schema:
        """The same schema with one column replaced."""
        return replace(self, columns=tuple(column if c.name == column.name else c for c in self.columns))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "columns": [c.to_json() for c in self.columns]}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Schema:
        if not isinstance(obj, dict) or obj.get("format", FORMAT) != FORMAT or not isinstance(obj.get("columns"), list):
            raise SchemaError(f"not a schema: expected an object with format {FORMAT!r} and a list of columns")
        return cls(Column.from_json(c) for c in obj["columns"])

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

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
