"""One column of a table, and what is public about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal, get_args

from dpsynth.privacy.errors import SchemaError

Kind = Literal["numeric", "categorical", "boolean", "datetime", "timedelta", "text", "id"]
Role = Literal["identifier", "target"]
Bound = float | str
Category = str | int | float | bool

KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: tuple[Role, ...] = get_args(Role)


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
        for fact in ("bounds", "categories"):
            if isinstance(values := getattr(self, fact), Iterable) and not isinstance(values, str):
                object.__setattr__(self, fact, tuple(values))
            elif values is not None:
                raise SchemaError(f"column {self.name!r}: {fact} are a list of values")
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
                return
            low, high = self.bounds
            if isinstance(low, str) != isinstance(high, str) or (isinstance(low, str) and self.kind != "datetime"):
                yield "bounds are two numbers, or two ISO dates for kind datetime"
            elif isinstance(low, str) and not (_is_date(low) and _is_date(high)):
                yield "bounds of a datetime are ISO dates, such as 2020-01-31"
            elif not isinstance(low, str) and not (math.isfinite(float(low)) and math.isfinite(float(high))):
                yield "bounds must be finite"
            elif low > high:  # type: ignore[operator]  # both numbers or both ISO strings, checked above
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
        # Also of those that say no or none: by nullable=False and decimals=0 something is known.
        return tuple(f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) != f.default)

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


def _is_date(text: Bound) -> bool:
    import pandas as pd

    try:
        return not pd.isna(pd.Timestamp(text))
    except (ValueError, TypeError):
        return False
