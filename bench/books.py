"""The benchmark's tables: their public code books, where their files are, and the split into train and holdout.

Bounds and categories of Adult and Credit are those of the published code books and questionnaires, not of the rows. ACS has none
here: models learn its schema under DP, and only the scorer looks at which categories the file has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from dpsynth import Schema

TRAIN = 0.8


@dataclass(frozen=True)
class Field:
    """One column: numeric with bounds, or categorical with its categories as strings."""

    name: str
    kind: Literal["numeric", "categorical"]
    lower: float = 0.0
    upper: float = 0.0
    categories: tuple[str, ...] = ()
    nullable: bool = False


@dataclass(frozen=True)
class Book:
    """A table's columns; target and positive: what the classifier predicts.  declared: whether models are told all this."""

    name: str
    fields: tuple[Field, ...]
    target: str | None = None
    positive: str | None = None
    declared: bool = True

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Book:
        body = json.loads(path.read_text())
        fields = tuple(Field(**f | {"categories": tuple(f["categories"])}) for f in body["fields"])
        return cls(**body | {"fields": fields})

    def schema(self) -> Schema | None:
        """What `dpsynth.fit` is told; None where it has to learn everything."""
        from dpsynth import Column, Schema

        if not self.declared:
            return None
        return Schema(
            Column(f.name, "categorical", categories=f.categories, nullable=f.nullable)
            if f.kind == "categorical"
            else Column(f.name, "numeric", bounds=(f.lower, f.upper), integer=True, nullable=f.nullable)
            for f in self.fields
        )


def _number(name: str, lower: float, upper: float) -> Field:
    return Field(name, "numeric", lower=lower, upper=upper)


def _labels(name: str, categories: Iterable[str], nullable: bool = False) -> Field:
    return Field(name, "categorical", categories=tuple(categories), nullable=nullable)


WORK = "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"
SCHOOL = (
    "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters 1st-4th 10th Doctorate "
    "5th-6th Preschool"
)
MARITAL = "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse"
OCCUPATION = (
    "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners Machine-op-inspct "
    "Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv Armed-Forces"
)
RELATION = "Wife Own-child Husband Not-in-family Other-relative Unmarried"
RACE = "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black"
COUNTRY = (
    "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India Japan Greece South China "
    "Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France Dominican-Republic Laos "
    "Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago "
    "Peru Hong Holand-Netherlands"
)


def adult() -> Book:
    """UCI Adult: adult.names and the census questionnaire."""
    return Book(
        "adult",
        target="income",
        positive=">50K",
        fields=(
            _number("age", 16, 100),
            _labels("workclass", WORK.split(), nullable=True),
            _number("fnlwgt", 0, 1_500_000),
            _labels("education", SCHOOL.split()),
            _number("education_num", 1, 16),
            _labels("marital_status", MARITAL.split()),
            _labels("occupation", OCCUPATION.split(), nullable=True),
            _labels("relationship", RELATION.split()),
            _labels("race", RACE.split()),
            _labels("sex", ("Male", "Female")),
            _number("capital_gain", 0, 100_000),
            _number("capital_loss", 0, 5_000),
            _number("hours_per_week", 1, 99),
            _labels("native_country", COUNTRY.split(), nullable=True),
            _labels("income", ("<=50K", ">50K")),
        ),
    )


def credit() -> Book:
    """UCI default of credit card clients (Yeh, Lien 2009): its variable descriptions; amounts in New Taiwan dollars."""
    months = (0, 2, 3, 4, 5, 6)
    return Book(
        "credit",
        target="has_default",
        positive="1",
        fields=(
            _number("limit_bal", 0, 1_000_000),
            _labels("sex", "12"),
            _labels("education", "0123456"),
            _labels("marriage", "0123"),
            _number("age", 18, 100),
            *(_labels(f"pay_{m}", map(str, range(-2, 10))) for m in months),
            *(_number(f"bill_amt{i}", -350_000, 1_700_000) for i in range(1, 7)),
            *(_number(f"pay_amt{i}", 0, 1_700_000) for i in range(1, 7)),
            _labels("has_default", "01"),
        ),
    )


def acs(rows: pd.DataFrame) -> Book:
    """ACS PUMS income extract, for scoring: ranges and categories as the file has them."""
    fields = []
    for name, column in rows.items():
        nullable = bool(column.isna().any())
        if pd.api.types.is_numeric_dtype(column):
            fields.append(Field(str(name), "numeric", float(column.min()), float(column.max()), nullable=nullable))
        else:
            fields.append(_labels(str(name), sorted(map(str, column.dropna().unique())), nullable))
    return Book("acs", tuple(fields), declared=False)


FILES = {"adult": "adult.csv.gz", "credit": "credit_default.csv.gz", "acs": "acs_income_2018.parquet"}


def read(name: str, folder: Path) -> tuple[Book, pd.DataFrame]:
    """A table and its book. Categories are strings, a missing cell is None; numbers keep the file's type."""
    path = folder / FILES[name]
    if name == "acs":
        rows = pd.read_parquet(path)
        texts = [c for c in rows if not pd.api.types.is_numeric_dtype(rows[c])]
        rows = rows.assign(**{c: rows[c].astype(object) for c in texts})
        return acs(rows), rows
    book = {"adult": adult, "credit": credit}[name]()
    rows = pd.read_csv(path, na_values=["?"], keep_default_na=False, skipinitialspace=True)
    rows = rows[[f.name for f in book.fields]]
    labels = [f.name for f in book.fields if f.kind == "categorical"]
    return book, rows.assign(**{c: rows[c].astype(object).where(rows[c].isna(), rows[c].astype(str)) for c in labels})


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(train, holdout): 80% and 20% in one fixed random order."""
    order = np.random.default_rng(0).permutation(len(rows))
    cut = int(TRAIN * len(rows))
    train, holdout = (rows.iloc[part].reset_index(drop=True) for part in (order[:cut], order[cut:]))
    return train, holdout
