"""What dpsynth made is known as such: a fit on its own output must be asked for.

The mark is the id of the run that made the rows. pandas frames carry it in `attrs`, Arrow tables and Parquet files in the metadata of
their schema, Spark DataFrames in those of a column, a release folder in its manifest. It is a help against mistakes, no defence: a CSV file outside its release folder, a
table in a database, and what is made of a polars frame have no place for it. Of these, a ledger in which a release was booked still
knows the whole of its rows again (`Ledger.released`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from dpsynth.privacy.errors import SchemaError
from dpsynth.sources.files import PARQUET, files_of

MARK = "dpsynth.synthetic"
# polars frames hold no metadata; the object itself may carry a name of ours.
_ATTRIBUTE = "_dpsynth_synthetic"
# Of a mark that names no run.
UNKNOWN = "a run that it does not name"


def mark(frame: Any, run: str) -> Any:
    """The frame (pandas, polars or pyarrow) with the mark of the run that made it."""
    if isinstance(frame, pa.Table):
        return frame.replace_schema_metadata({**(frame.schema.metadata or {}), MARK: run})
    if hasattr(frame, "attrs"):
        frame.attrs[MARK] = run
    else:
        setattr(frame, _ATTRIBUTE, run)
    return frame


def made_by(data: Any) -> str | None:
    """The run that made a table, as far as it carries a mark; None where it has none. Takes what `fit` takes; reads no row."""
    if isinstance(data, str | Path):
        return None if "://" in str(data) else _of_path(Path(data))
    if type(data).__module__.split(".")[0] == "pyspark":
        return _of_spark(data)
    if type(data).__module__.split(".")[0] == "pyarrow" and hasattr(data, "schema"):  # a table, a dataset, a stream
        return _of_metadata(data.schema.metadata)
    carried = getattr(data, "attrs", {}).get(MARK, getattr(data, _ATTRIBUTE, None))
    return None if carried is None else str(carried)


def _of_spark(frame: Any) -> str | None:
    """Of a Spark DataFrame: by a column, or by the files that it reads, where they lie on this machine."""
    try:
        named = [field.metadata[MARK] for field in frame.schema.fields if MARK in (field.metadata or {})]
        if named:
            return str(named[0])
        files = [urlsplit(file) for file in frame.inputFiles()[:1]]
    except Exception:  # reading it will say what is wrong
        return None
    local = [Path(unquote(file.path)) for file in files if file.scheme in ("", "file")]
    return _of_path(local[0]) if local and local[0].exists() else None


def _of_path(path: Path) -> str | None:
    """Of a file or folder: by the manifest beside or in it, or by the metadata of a Parquet file, the first of a folder."""
    for folder in (path, path.parent):
        if (folder / "manifest.json").exists() and (folder / "privacy.json").exists():
            return _run_of_manifest(folder / "manifest.json")
    import pyarrow.parquet as pq

    try:
        file = files_of(path)[0]
        return _of_metadata(pq.read_schema(file).metadata) if file.name.lower().endswith(PARQUET) else None
    except (SchemaError, OSError, pa.ArrowException):  # reading it will say what is wrong
        return None


def _run_of_manifest(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN


def _of_metadata(metadata: Mapping[bytes, bytes] | None) -> str | None:
    """From the metadata of an Arrow schema: the mark itself, or pandas' attributes among it."""
    own = (metadata or {}).get(MARK.encode())
    if own is not None:
        return own.decode("utf-8", "replace")
    for text in (metadata or {}).values():
        if MARK.encode() in text:
            return _of_attributes(text)
    return None


def _of_attributes(text: bytes) -> str:
    try:
        body = json.loads(text)
        return str(body.get("attributes", body)[MARK])
    except (ValueError, KeyError, TypeError, AttributeError):
        return UNKNOWN
