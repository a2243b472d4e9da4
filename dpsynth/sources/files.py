"""CSV and Parquet files, and folders of them, as streams of Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpsynth.privacy.errors import DpsynthError, SchemaError
from dpsynth.privacy.ledger.fingerprint import MISSING
from dpsynth.sources.arrow import BATCH, Feed, source_type
from dpsynth.sources.layout import PLAIN

PARQUET, TEXT = (".parquet", ".pq"), (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# What a reader of CSV files takes for a missing cell.
_NO_VALUE = [*MISSING, "nan", "NaN", "-nan", "-NaN"]
# The most bytes that a CSV row may have.
_LONGEST_ROW = 2**24


def feed_of_path(path: Path) -> Feed:
    """A file, or a folder of files of one kind with the same columns (in any order) of the same types.

    Files are taken in the order of their names; names that begin with "." or "_" are passed over.
    No dtypes are restored in samples: the types learned under DP, with the files' integers, are the files' own.
    """
    if not path.exists():
        raise SchemaError(f"there is no file {path}")
    files = files_of(path)
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise SchemaError(f"the folder {path.name} holds both CSV and Parquet files; keep one kind")
    parquet = kinds == {"parquet"}
    schemas = [_schema(file, parquet) for file in files]
    schema = _agreed(files, schemas)
    reads = _parquet_batches if parquet else _csv_batches
    integers = frozenset(f.name for f in schema if parquet and pa.types.is_integer(f.type))
    what = f"the folder {path.name}" if path.is_dir() else f"the file {path.name}"
    return Feed(
        schema=schema,
        batches=_all_batches(files, schemas, schema, reads),
        layout=PLAIN,
        declared=integers,
        what=what,
    )


def files_of(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of a folder, in order. Raises SchemaError where a folder has none."""
    return _inside(path) if path.is_dir() else [path]


def _inside(folder: Path) -> list[Path]:
    hidden = (".", "_")
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part.startswith(hidden) for part in file.relative_to(folder).parts)
        and file.name.lower().endswith((*PARQUET, *TEXT))
    ]
    if not found:
        raise SchemaError(f"the folder {folder.name} holds neither CSV nor Parquet files")
    return found


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith(PARQUET):
        return "parquet"
    if name.endswith(TEXT):
        return "csv"
    raise SchemaError(f"the file {file.name} is neither .csv, .tsv (also .gz) nor .parquet")


def _schema(file: Path, parquet: bool) -> pa.Schema:
    try:
        if parquet:
            import pyarrow.parquet as pq

            return pq.read_schema(file).remove_metadata()
        names = _header(file)
    except DpsynthError:
        raise
    except Exception as error:  # a reader's own message may quote a row
        raise _unreadable(file, error) from None
    # Every cell stays a string: which types a reader would infer depends on the rows, so it is learned under DP.
    return pa.schema([(name, pa.string()) for name in names])


def _agreed(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema of all files: the first one's, where no later one says otherwise."""
    first = schemas[0]
    fields = {f.name: f for f in first}
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        if odd := sorted(set(first.names) ^ set(schema.names)):
            has = "has no" if odd[0] in first.names else "has a"
            raise SchemaError(f"the files differ: {file.name} {has} column {odd[0]!r}, unlike {files[0].name}")
        for name in first.names:
            one, other = fields[name].type, schema.field(name).type
            if pa.types.is_null(one):  # a file whose cells are all missing says nothing of the type
                fields[name] = schema.field(name)
            elif not pa.types.is_null(other) and _wider(name, one, other) is None:
                raise SchemaError(
                    f"the files differ: column {name!r} is {other} in {file.name}, and {one} in the files before it"
                )
            elif not pa.types.is_null(other):
                fields[name] = fields[name].with_type(_wider(name, one, other))
    return pa.schema([fields[name] for name in first.names])


def _wider(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the cells of both, where they are the same but for their width."""
    if one.equals(other):
        return one
    for same in (pa.types.is_integer, pa.types.is_floating):
        if same(one) and same(other):
            return one if one.bit_width >= other.bit_width else other
    if source_type(name, one) == source_type(name, other) == "string":
        return pa.large_string()
    return None


def _all_batches(
    files: Sequence[Path], schemas: Sequence[pa.Schema], schema: pa.Schema, reads: Any
) -> Iterator[pa.RecordBatch]:
    for file, own in zip(files, schemas, strict=True):
        try:
            for batch in reads(file, own):
                yield pa.RecordBatch.from_arrays([_cast(batch, field) for field in schema], schema=schema)
        except DpsynthError:
            raise
        except Exception as error:  # a reader's own message may quote a row
            raise _unreadable(file, error) from None


def _cast(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    column = batch.column(field.name)
    return column if column.type.equals(field.type) else column.cast(field.type)


def _unreadable(file: Path, error: Exception) -> SchemaError:
    return SchemaError(f"the file {file.name} cannot be read ({type(error).__name__}): is it whole, and UTF-8?")


def _parquet_batches(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH):
            yield batch.select(schema.names)


def _header(file: Path) -> list[str]:
    """The names in the first row. A column without one gets the name that pandas would give it."""
    import csv
    import io

    with pa.input_stream(str(file), compression="detect") as stream:
        text = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
        row = next((row for row in csv.reader(text, delimiter=_separator(file)) if row), None)
    if row is None:
        raise SchemaError(f"the file {file.name} is empty")
    return [name or f"Unnamed: {i}" for i, name in enumerate(row)]


def _separator(file: Path) -> str:
    return "\t" if ".tsv" in file.name.lower() else ","


def _csv_batches(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv

    # The row that does not fit is told by its shape alone.
    odd: list[tuple[int, int]] = []

    def note(row: Any, odd: list[tuple[int, int]]) -> str:
        odd.append((row.expected_columns, row.actual_columns))
        return "error"

    options = {
        "read_options": csv.ReadOptions(column_names=schema.names, skip_rows=1, block_size=_LONGEST_ROW),
        "parse_options": csv.ParseOptions(
            delimiter=_separator(file), newlines_in_values=True, invalid_row_handler=partial(note, odd=odd)
        ),
        "convert_options": csv.ConvertOptions(
            column_types=schema, null_values=_NO_VALUE, strings_can_be_null=True, quoted_strings_can_be_null=True
        ),
    }
    try:
        with pa.input_stream(str(file), compression="detect") as stream, csv.open_csv(stream, **options) as reader:
            last = None
            for batch in reader:
                last = batch if batch.num_rows else last
                yield batch
    except pa.ArrowInvalid:
        if odd:
            expected, actual = odd[0]
            raise SchemaError(
                f"the file {file.name} has a row of {actual} cells under a header of {expected}; quote cells that hold separators"
            ) from None
        raise
    if last is not None and "\n" in (last.column(-1)[-1].as_py() or "") and not _ends_in_a_quote(file):
        raise SchemaError(f"the file {file.name} ends inside a quoted cell: is it whole?")


def _ends_in_a_quote(file: Path) -> bool:
    """Whether the last cell of a CSV file, which holds a line break and so was quoted, is closed."""
    tail = b""
    with pa.input_stream(str(file), compression="detect") as stream:
        while part := stream.read(2**20):
            tail = (tail + part)[-1000:]
    return tail.rstrip(b"\r\n").endswith(b'"')
