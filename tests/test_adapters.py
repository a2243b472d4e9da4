"""Schemas of other tools and back."""

from __future__ import annotations

import enum
import json
import warnings
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

import dpsynth
from dpsynth import Column, Schema

SCHEMA = Schema(
    [
        Column("age", "numeric", bounds=(0, 110), integer=True, nullable=True),
        Column("income", "numeric", bounds=(0, 1e6), decimals=2),
        Column("city", "categorical", categories=("Lima", "Oslo"), nullable=False),
        Column("well", "boolean", nullable=False),
        Column("joined", "datetime", bounds=("2020-01-01", "2024-12-31")),
        Column("note", "text"),
        Column("key", "id"),
        Column("email", role="identifier", entity="EMAIL_ADDRESS"),
        Column("unknown"),
    ]
)


def test_a_schema_goes_to_sdv_and_back(tmp_path: Path) -> None:
    body = SCHEMA.to_sdv("people")
    assert Schema.from_sdv(body, ranges="declared") == SCHEMA
    (tmp_path / "m.json").write_text(json.dumps(body))
    assert Schema.from_sdv(tmp_path / "m.json", ranges="declared") == SCHEMA
    without = Schema.from_sdv(body, ranges="ignore")
    assert all(c.bounds is None and c.categories is None and c.nullable is None for c in without.columns)


@pytest.mark.slow
def test_sdv_itself_reads_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sdv.metadata import Metadata

        metadata = Metadata.load_from_dict(SCHEMA.to_sdv("people"))
        metadata.validate()
    assert Schema.from_sdv(metadata, ranges="declared") == SCHEMA


class Size(enum.Enum):
    SMALL, LARGE = "s", "l"


def test_a_pydantic_model_says_what_it_says_and_no_more() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        age: int = pydantic.Field(ge=0, lt=111)
        income: float | None = pydantic.Field(ge=0, le=1e6, multiple_of=0.01)
        city: Literal["Lima", "Oslo"]
        size: Size | None = None
        well: bool
        born: date
        seen: datetime | None
        stay: timedelta
        email: str = pydantic.Field(json_schema_extra={"format": "email"})
        name: str
        price: Decimal
        open_ended: int = pydantic.Field(ge=0)

    schema = Schema.from_json_schema(Person)
    assert schema.columns == (
        Column("age", "numeric", bounds=(0, 110), integer=True, nullable=False),
        Column("income", "numeric", bounds=(0, 1e6), decimals=2, nullable=True),
        Column("city", "categorical", categories=("Lima", "Oslo"), nullable=False),
        Column("size", "categorical", categories=("s", "l"), nullable=True),
        Column("well", "boolean", nullable=False),
        Column("born", "datetime", nullable=False),
        Column("seen", "datetime", nullable=True),
        Column("stay", "timedelta", nullable=False),
        Column("email", role="identifier", entity="EMAIL_ADDRESS"),
        Column("name", nullable=False),
        Column("price", nullable=False),
        Column("open_ended", "numeric", integer=True, nullable=False),
    )


def test_a_json_schema_from_a_file(tmp_path: Path) -> None:
    body = {
        "properties": {
            "a": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
            "b": {"enum": [True, False, None]},
            "c": {"const": 7},
            "d": {},
        },
        "required": ["a", "b", "c", "d"],
    }
    (tmp_path / "s.json").write_text(json.dumps(body))
    assert Schema.from_json_schema(tmp_path / "s.json").columns == (
        Column("a", "numeric", bounds=(1, 9), integer=True, nullable=True),
        Column("b", "boolean", nullable=True),
        Column("c", "categorical", categories=(7,), nullable=False),
        Column("d", nullable=False),
    )


@pytest.mark.parametrize(
    "bad, says",
    [
        ("nowhere.json", "pydantic model"),
        (7, "pydantic model"),
        ({"type": "array"}, "no object"),
        ({"properties": {"a": {"type": "object"}}}, "'a' holds nested"),
        ({"properties": {"a": {"$ref": "#/$defs/nobody"}}}, "'a': the JSON Schema refers"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "'a': the JSON Schema refers"),
        ({"properties": {"a": 7}}, "'a'"),
    ],
)
def test_what_is_no_schema_of_a_row_is_refused(bad: object, says: str) -> None:
    with pytest.raises(dpsynth.SchemaError, match=says):
        Schema.from_json_schema(bad)


def test_a_pandera_schema_says_what_it_says_and_no_more() -> None:
    pa = pytest.importorskip("pandera.pandas", reason="pandera is not installed")
    import pandas as pd

    schema = pa.DataFrameSchema(
        {
            "age": pa.Column(int, pa.Check.in_range(0, 111, include_max=False)),
            "income": pa.Column(float, [pa.Check.ge(0), pa.Check.lt(1e6), pa.Check.le(2e6)], nullable=True),
            "low": pa.Column("Int64", pa.Check.gt(3)),
            "city": pa.Column(str, pa.Check.isin(["Lima", "Oslo"]), required=False),
            "size": pa.Column(pd.CategoricalDtype(["s", "l"])),
            "well": pa.Column(bool),
            "born": pa.Column(
                "datetime64[ns]", pa.Check.in_range(pd.Timestamp("2020-01-01"), pd.Timestamp("2024-12-31"))
            ),
            "stay": pa.Column("timedelta64[ns]", pa.Check.between(pd.Timedelta(0), pd.Timedelta("1D"))),
            "note": pa.Column(str, pa.Check.str_matches("x")),
            "odd": pa.Column(float, pa.Check(lambda x: x > 0)),
            "open": pa.Column(None, nullable=True),
        }
    )
    expected = (
        Column("age", "numeric", bounds=(0, 110), integer=True, nullable=False),
        Column("income", "numeric", bounds=(0, 1e6), nullable=True),
        Column("low", "numeric", integer=True, nullable=False),
        Column("city", "categorical", categories=("Lima", "Oslo"), nullable=True),
        Column("size", "categorical", categories=("s", "l"), nullable=False),
        Column("well", "boolean", nullable=False),
        Column("born", "datetime", bounds=("2020-01-01T00:00:00", "2024-12-31T00:00:00"), nullable=False),
        Column("stay", "timedelta", bounds=(0.0, 86400.0), nullable=False),
        Column("note", nullable=False),
        Column("odd", "numeric", nullable=False),
        Column("open", nullable=True),
    )
    assert Schema.from_pandera(schema, ranges="declared").columns == expected
    bare = Schema.from_pandera(schema, ranges="ignore").columns
    assert bare == tuple(Column(c.name, c.kind if c.name != "city" else None) for c in expected)

    class Model(pa.DataFrameModel):  # type: ignore[misc, name-defined]
        x: int = pa.Field(ge=0, le=9)

    assert Schema.from_pandera(Model, ranges="declared").columns == (
        Column("x", "numeric", bounds=(0, 9), integer=True, nullable=False),
    )
    for bad, said in (
        (pa.DataFrameSchema({"x_.*": pa.Column(int, regex=True)}), "named by a pattern"),
        (pd.DataFrame({"a": [1]}), "pass a pandera"),
        (pa.DataFrameSchema({}), "with columns"),
    ):
        with pytest.raises(dpsynth.SchemaError, match=said):
            Schema.from_pandera(bad, ranges="declared")
    with pytest.raises(dpsynth.SchemaError, match="read off rows"):
        Schema.from_pandera(schema, ranges=None)  # type: ignore[arg-type]
