"""Where rows come from: any table that users hold becomes columns of cells behind the counting protocol.

Also the way back: `Layout` remembers how the input looked (frame type, dtypes) and gives synthetic columns the same
looks. Nothing in a layout is read from the values. It stays in the owner's process, because a data frame's dtype can betray a row:
one missing cell turns int64 into float64. What leaves the process uses types learned under DP instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.ledger.fingerprint import Moments, RowHashes, row_hashes
from dpsynth.privacy.source import Cells, IntArray, MemorySource, Numbers, Strings

SourceType = Literal["number", "integer", "boolean", "string", "datetime", "timedelta"]

MICROSECOND = np.timedelta64(1, "us")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceColumn:
    """What the source itself says of a column: its type, and whether that type is a declaration.

    type: "integer" only where a typed source says so (Parquet, SQL); a data frame's int64 is a "number" like its float64,
    because which of the two it is depends on the rows.
    """

    name: str
    type: SourceType


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the input looked; kept in the owner's process only."""

    frame: Literal["pandas", "polars", "pyarrow"]
    dtypes: Mapping[str, Any]
    texts: frozenset[str] = frozenset()  # object columns that held nothing but strings

    def restore(self, table: pd.DataFrame) -> Any:
        """The synthetic table in the input's frame type, dtypes and all."""
        out = pd.DataFrame({name: self._cast(table[name]) for name in table.columns})
        out.attrs.update(table.attrs)
        if self.frame == "pandas":
            return out
        import pyarrow as pa

        arrow = pa.Table.from_pandas(out, preserve_index=False)
        if self.frame == "pyarrow":
            return arrow
        import polars

        return polars.from_arrow(arrow)

    def _cast(self, column: pd.Series[Any]) -> pd.Series[Any]:
        name = str(column.name)
        if name in self.texts and column.dtype != object:
            labels = column.map(str, na_action="ignore").astype(object)
            return labels.where(column.notna(), None)
        try:
            return _cast(column, self.dtypes.get(name))
        except (TypeError, ValueError):  # a dtype that only its own makers can fill: the column keeps the type it has
            return column


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """A table as read: private cells by column, and what is public about the columns."""

    columns: tuple[SourceColumn, ...]
    cells: Mapping[str, Cells]
    hashes: RowHashes
    layout: Layout

    def __repr__(self) -> str:
        return f"Rows({len(self.columns)} columns, private)"

    def source(self, unit: str | None, max_rows: int | None) -> MemorySource:
        """The rows behind the counting protocol, bounded per unit. Rows without a unit count as one unit together."""
        if unit is None:
            if max_rows is not None:
                raise SchemaError("max_rows_per_unit needs unit=, the column that names the privacy unit")
            return MemorySource(self.cells, row_hashes=self.hashes.rows)
        if unit not in self.cells:
            raise SchemaError(f"unit {unit!r} is not a column of the table")
        if max_rows is None or isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:
            raise SchemaError("unit= needs max_rows_per_unit, a whole number of at least 1")
        columns = {name: cells for name, cells in self.cells.items() if name != unit}
        return MemorySource(
            columns, row_hashes=self.hashes.rows, unit=unit, units=_unit_numbers(self.cells[unit]), max_rows=max_rows
        )


def read(data: Any) -> Rows:
    """Rows of a pandas or polars DataFrame, a pyarrow Table, or the path of a CSV or Parquet file.

    Raises SchemaError where the table cannot be worked with; the message names the column and the rule, never a value.
    """
    frame, layout, declared = _open(data)
    if frame.shape[1] == 0:
        raise SchemaError("the table has no columns")
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names):
        raise SchemaError("column names must be strings; rename the columns first")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise SchemaError(f"column name {twice!r} stands more than once; names must be unique")
    if len(frame) == 0:
        raise SchemaError("the table has no rows")
    columns, cells = [], {}
    moments: dict[str, Moments] = {}
    for name in names:
        source_type, column_cells = _cells(name, frame[name])
        if source_type == "datetime" or source_type == "timedelta":
            moments[name] = source_type
        columns.append(SourceColumn(name=name, type="integer" if name in declared else source_type))
        cells[name] = column_cells
    return Rows(columns=tuple(columns), cells=cells, hashes=row_hashes(cells, moments), layout=layout)


def _open(data: Any) -> tuple[pd.DataFrame, Layout, frozenset[str]]:
    """(data frame, its looks, columns that a typed source declares as integers)."""
    module = type(data).__module__.split(".")[0]
    if isinstance(data, pd.DataFrame):
        frame: Literal["pandas", "polars", "pyarrow"] = "pandas"
        table = data
    elif module == "polars":
        frame, table = "polars", _from_arrow(data.lazy().collect().to_arrow())
    elif module == "pyarrow":
        frame, table = "pyarrow", _from_arrow(data)
    elif isinstance(data, str | Path):
        return _open_file(Path(data))
    else:
        raise SchemaError(
            "data must be a pandas or polars DataFrame, a pyarrow Table, or the path of a CSV or Parquet file"
        )
    dtypes = dict(zip(table.columns, table.dtypes, strict=True))
    objects = [name for name, dtype in dtypes.items() if pd.api.types.is_object_dtype(dtype)]
    texts = frozenset(str(n) for n in objects if pd.api.types.infer_dtype(table[n], skipna=True) == "string")
    return table, Layout(frame=frame, dtypes=dtypes, texts=texts), frozenset()


def _open_file(path: Path) -> tuple[pd.DataFrame, Layout, frozenset[str]]:
    suffixes = "".join(path.suffixes[-2:]).lower()
    if not path.exists():
        raise SchemaError(f"there is no file {path}")
    try:
        if suffixes.endswith((".parquet", ".pq")):
            import pyarrow as pa
            import pyarrow.parquet as pq

            arrow = pq.read_table(path)
            integers = frozenset(f.name for f in arrow.schema if pa.types.is_integer(f.type))
            # No dtypes to restore: the types learned under DP, with the file's integers, are the file's own.
            return _from_arrow(arrow), Layout(frame="pandas", dtypes={}), integers
        if ".csv" in suffixes or ".tsv" in suffixes:
            separator = "\t" if ".tsv" in suffixes else ","
            # Every cell stays a string: which types a reader would infer depends on the rows, so it is learned under DP.
            table = pd.read_csv(path, dtype=str, sep=separator)
            return table, Layout(frame="pandas", dtypes={}), frozenset()
    except SchemaError:
        raise
    except Exception as error:  # a reader's own message may quote a row
        raise SchemaError(
            f"the file {path.name} cannot be read ({type(error).__name__}): is it whole, and UTF-8?"
        ) from None
    raise SchemaError(f"the file {path.name} is neither .csv, .tsv (also .gz) nor .parquet")


def _from_arrow(arrow: Any) -> pd.DataFrame:
    table: pd.DataFrame = arrow.to_pandas(integer_object_nulls=False, date_as_object=False)
    return table


def _cells(name: str, column: pd.Series[Any]) -> tuple[SourceType, Cells]:
    """A column's type, from its dtype alone, and its cells."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "string", _strings(name, column.astype(object))
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean", _strings(name, column.astype(object))
    if pd.api.types.is_datetime64_any_dtype(dtype):
        naive = column.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(dtype, "tz", None) else column
        return "datetime", Numbers(_microseconds(naive.to_numpy(), "datetime64[us]"))
    if pd.api.types.is_timedelta64_dtype(dtype):
        return "timedelta", Numbers(_microseconds(column.to_numpy(), "timedelta64[us]"))
    if pd.api.types.is_complex_dtype(dtype):
        raise SchemaError(f"column {name!r}: complex numbers cannot be modelled; split them into two columns")
    if pd.api.types.is_numeric_dtype(dtype):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return "number", Numbers(np.where(np.isfinite(numbers), numbers, np.nan))
    return "string", _strings(name, column.astype(object))


def _microseconds(values: npt.NDArray[Any], unit: str) -> npt.NDArray[np.float64]:
    micro = values.astype(unit)
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64).astype(np.float64))


def _strings(name: str, column: pd.Series[Any]) -> Strings:
    """Cells as strings; missing is None, NaN, NaT or pd.NA. Nested values are refused for every row alike."""
    try:
        codes, uniques = pd.factorize(column, use_na_sentinel=True)
    except TypeError:
        raise SchemaError(f"column {name!r} holds nested values (lists, dicts, ...); flatten or drop it") from None
    if any(isinstance(u, dict | list | set | tuple | bytes | np.ndarray) for u in uniques):
        raise SchemaError(f"column {name!r} holds nested or binary values; flatten or drop it")
    texts = np.array([str(u) for u in uniques], dtype=object)
    # Different objects may read the same (1 and "1"): one cell value each.
    merged, labels = pd.factorize(pd.Series(texts, dtype=object))
    again = merged.astype(np.int32)
    final = np.append(again, np.int32(-1))[codes]  # code -1, missing, takes the last
    return Strings(final.astype(np.int32), np.asarray(labels, dtype=object))


def _unit_numbers(cells: Cells) -> IntArray:
    raw = cells.codes if isinstance(cells, Strings) else cells.data
    return pd.factorize(raw, use_na_sentinel=False)[0].astype(np.int64)


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
        whole = pd.to_numeric(column).round().clip(float(info.min), float(info.max))
        return pd.Series(whole.astype("Int64").astype(dtype))
    if pd.api.types.is_bool_dtype(dtype) and column.isna().any() and isinstance(dtype, np.dtype):
        return column.astype("boolean")
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pd.Series(column.dt.tz_localize("UTC").dt.tz_convert(dtype.tz).astype(dtype))
    if pd.api.types.is_object_dtype(dtype):
        return column.astype(object).where(column.notna(), None)
    return pd.Series(column.astype(dtype))


def _categorical(column: pd.Series[Any], dtype: pd.CategoricalDtype) -> pd.Series[Any]:
    """Back to a pandas categorical: labels that stand for the dtype's own values become those values again."""
    own = {str(value): value for value in dtype.categories}
    seen = set(column.dropna())
    kept = [value for label, value in own.items() if label in seen]
    values = column.map(lambda label: own.get(label, label), na_action="ignore")
    return pd.Series(pd.Categorical(values, categories=kept, ordered=bool(dtype.ordered)), index=column.index)
