"""Where rows come from: any table that users hold becomes columns of cells behind the counting protocol.

`read` holds a table in memory, for what looks at the owner's rows (`evaluate`, `scan`). `hold` is what a fit takes: a snapshot,
in memory where that is small and otherwise in nameless files on disk, so that memory does not grow with rows. Both read the source
to its end at once: what cannot be read fails before anything is reserved, and a source that changes later changes nothing.
"""

from dpsynth.sources.arrow import SourceColumn, SourceType
from dpsynth.sources.databases import SQL, DuckDB
from dpsynth.sources.layout import Layout
from dpsynth.sources.rows import HeldRows, Rows, Snapshot, hold, read, to_pandas

__all__ = [
    "SQL",
    "DuckDB",
    "HeldRows",
    "Layout",
    "Rows",
    "Snapshot",
    "SourceColumn",
    "SourceType",
    "hold",
    "read",
    "to_pandas",
]
