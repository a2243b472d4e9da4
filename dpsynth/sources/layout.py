"""How an input looked, and synthetic columns in the same looks.

Nothing in a layout is read from the values. It stays in the owner's process, because a data frame's dtype can betray a row:
one missing cell turns int64 into float64. What leaves the process uses types learned under DP instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the input looked; kept in the owner's process only.

    dtypes: pandas dtypes by column.  texts: object columns that held nothing but strings.
    arrow: the Arrow schema, where the input had one.
    """

    frame: Literal["pandas", "polars", "pyarrow"]
    dtypes: Mapping[str, Any]
    texts: frozenset[str] = frozenset()
    arrow: Any = None

    @classmethod
    def of_pandas(cls, table: pd.DataFrame) -> Layout:
        dtypes = dict(zip(table.columns, table.dtypes, strict=True))
        objects = [name for name, dtype in dtypes.items() if pd.api.types.is_object_dtype(dtype)]
        texts = frozenset(str(n) for n in objects if pd.api.types.infer_dtype(table[n], skipna=True) == "string")
        return cls(frame="pandas", dtypes=dtypes, texts=texts)

    @classmethod
    def of_arrow(cls, frame: Literal["polars", "pyarrow"], schema: Any) -> Layout:
        """The looks of an Arrow table, from its schema alone."""
        from dpsynth.sources.arrow import is_text

        texts = frozenset(f.name for f in schema if is_text(f.type))
        looks = schema.empty_table().to_pandas(date_as_object=False).dtypes
        # A dictionary's values are no part of a schema; the last cast makes the dictionary.
        dtypes = {n: d for n, d in looks.items() if not isinstance(d, pd.CategoricalDtype)}
        return cls(frame=frame, dtypes=dtypes, texts=texts, arrow=schema)

    def restore(self, table: pd.DataFrame) -> Any:
        """The synthetic table in the input's frame type, dtypes and all."""
        out = pd.DataFrame({name: self._cast(table[name]) for name in table.columns})
        out.attrs.update(table.attrs)
        if self.frame == "pandas":
            return out
        import pyarrow as pa

        arrow = self._as_arrow(pa.Table.from_pandas(out, preserve_index=False))
        if self.frame == "pyarrow":
            return arrow
        import polars

        return polars.from_arrow(arrow)

    def _as_arrow(self, table: Any) -> Any:
        """The table with the input's Arrow types, where these can hold its values."""
        import pyarrow as pa

        for i, name in enumerate(table.column_names):
            if self.arrow is None or name not in self.arrow.names:
                continue
            field = self.arrow.field(name)
            try:
                column = table.column(i).cast(field.type)
            except pa.ArrowException:
                continue
            table = table.set_column(i, pa.field(name, field.type), column)
        return table

    def _cast(self, column: pd.Series[Any]) -> pd.Series[Any]:
        name = str(column.name)
        if name in self.texts and column.dtype != object:
            labels = column.map(str, na_action="ignore").astype(object)
            return labels.where(column.notna(), None)
        try:
            return _cast(column, self.dtypes.get(name))
        except (TypeError, ValueError):  # a dtype that only its own makers can fill: the column keeps the type it has
            return column


# Of sources that have no dtypes of their own: samples are pandas tables in the types learned under DP.
PLAIN = Layout(frame="pandas", dtypes={})


def _cast(column: pd.Series[Any], dtype: Any) -> pd.Series[Any]:
    """A synthetic column in the input's dtype, where that can hold its values."""
    if dtype is None or column.dtype == dtype:
        return column
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical(column, dtype)
    if pd.api.types.is_integer_dtype(dtype):
        if column.isna().any() and isinstance(dtype, np.dtype):
            return column.astype("Int64")
        info = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        highest = float(info.max) if int(float(info.max)) <= info.max else np.nextafter(float(info.max), 0.0)
        whole = pd.to_numeric(column).round().clip(float(info.min), highest)
        return pd.Series(whole.astype("UInt64" if info.min == 0 else "Int64").astype(dtype))
    if pd.api.types.is_bool_dtype(dtype):
        # Declared categorical, they were learned as labels.
        column = column.map({True: True, False: False, "True": True, "False": False}).astype("boolean")
        if column.isna().any() and isinstance(dtype, np.dtype):
            return column
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pd.Series(column.dt.tz_localize("UTC").dt.tz_convert(dtype.tz).astype(dtype))
    if pd.api.types.is_object_dtype(dtype):
        return column.astype(object).where(column.notna(), None)
    return pd.Series(column.astype(dtype))


def _categorical(column: pd.Series[Any], dtype: pd.CategoricalDtype) -> pd.Series[Any]:
    """Back to a pandas categorical: labels that stand for the dtype's own values become those values again. Strings that it has not, stay."""
    # By what it reads as, or, where numbers or dates were learned, by itself.
    own = {value: value for value in dtype.categories} | {str(value): value for value in dtype.categories}
    seen = set(column.dropna())
    kept = [value for value in dtype.categories if value in seen or str(value) in seen]
    values = column.map(lambda label: own.get(label, label), na_action="ignore")
    new = set(values.dropna()) - set(dtype.categories)
    if (
        new and column.dtype == object
    ):  # texts that were written, or fakes; a number between the dtype's own goes missing
        return column.astype(object)
    return pd.Series(pd.Categorical(values, categories=kept, ordered=bool(dtype.ordered)), index=column.index)
