"""What may be in a release folder, and nothing else: names of files, fields of JSON, pages that ask for nothing.

`release` looks at the finished folder before it gets its name; `verify` looks again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpsynth.privacy.errors import SchemaError

# Fields that each JSON file may have at its top; None = any JSON object. Statement and schema are checked by their own readers.
FILES: dict[str, frozenset[str] | None] = {
    "README.md": None,
    "TERMS.md": None,
    "croissant.json": frozenset(
        "@context @type name description conformsTo datePublished license distribution recordSet rai:dataCollection "
        "rai:dataLimitations rai:personalSensitiveInformation".split()
    ),
    "data.csv": None,
    "data.parquet": None,
    "gate.json": frozenset("verdict checks columns accepted".split()),
    "metadata.json": frozenset("tables relationships METADATA_SPEC_VERSION".split()),
    "privacy.json": frozenset("format guarantee unit release public accounting implementation trust history".split()),
    "report.html": None,
    "schema.json": frozenset("format columns constraints".split()),
}
# What Parquet keeps beside the columns; pandas' entry is JSON.
_PARQUET = {"ARROW:schema", "pandas", "PANDAS_ATTRS"}
_ASKS = re.compile(
    r"""<(?:script|iframe|link)|<[^>]*\s(?:on\w+\s*=|(?:src|href)\s*=\s*["']?(?:[a-z]+:)?//)""", re.IGNORECASE
)


def require_clean(folder: Path, columns: Sequence[str]) -> None:
    """Raise SchemaError where the folder's contents are not those of a release of these columns."""
    found = [
        *problems_in(folder),
        *(f"{p.name}: not part of a release" for p in folder.iterdir() if p.name not in FILES),
    ]
    if _header(folder) != list(columns):
        found.append("data.csv: its columns are not those of the schema")
    if found:
        raise SchemaError(f"the release would hold what it should not: {'; '.join(found)}")


def problems_in(folder: Path) -> Iterator[str]:
    """What stands in a release's files that should not, by file. Files that are missing or no JSON are not its matter."""
    for name, allowed in FILES.items():
        if allowed is not None and isinstance(body := _json(folder / name), dict):
            for field in sorted(body.keys() - allowed):
                yield f"{name}: has a field {field!r} that no release has"
    if (folder / "report.html").is_file() and _ASKS.search((folder / "report.html").read_text("utf-8", "replace")):
        yield "report.html: holds a script or asks for something outside itself"
    yield from _parquet_problems(folder / "data.parquet")


def _parquet_problems(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        kept = pq.read_metadata(path).metadata or {}
    except (OSError, ValueError, pa.ArrowException):
        return
    for key in sorted(key.decode("utf-8", "replace") for key in kept):
        if key not in _PARQUET:
            yield f"data.parquet: has metadata {key!r} that no release has"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _header(folder: Path) -> list[str]:
    import csv

    with (folder / "data.csv").open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])
