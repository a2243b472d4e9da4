"""PII at the owner's desk: what a fit would drop, scrub or keep, and scrubbing by hand.

`scan` looks at the rows themselves and books nothing: its report is for the owner, and no part of a release. A fit does
not use it; there the same votes are bought with noise (see `learn`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.encode.questions import IdentifierIn
from dpsynth.learn import needs_votes
from dpsynth.privacy.source import Cells, Strings
from dpsynth.schema import Schema
from dpsynth.sources import Rows, SourceColumn, read

if TYPE_CHECKING:
    from dpsynth.privacy.pii import ColumnFinding, CopyReport, Detector, PIIReport


def scan(data: Any, schema: Schema | str | Path | None = None, *, patterns_only: bool = False) -> PIIReport:
    """What a fit would do with each column, and why. For the owner's eyes: nothing of it is noisy.

    schema: what is declared decides, as in a fit.  patterns_only: as in a fit.
    Raises SchemaError for a table that cannot be read, PIIError where the detector is missing or cannot read a column.
    """
    from dpsynth.privacy.pii import PIIReport, load_detector, require_clean_names

    rows = read(data)
    require_clean_names([c.name for c in rows.columns])
    declared = Schema.load(schema) if isinstance(schema, str | Path) else schema
    detector = load_detector("patterns" if patterns_only else "full")
    findings = tuple(_finding(c, rows.cells[c.name], declared, detector) for c in rows.columns)
    return PIIReport(findings=findings, detector=detector.described())


def _finding(source: SourceColumn, cells: Cells, schema: Schema | None, detector: Detector) -> ColumnFinding:
    from dpsynth.privacy.pii import CELL_CLASSES, LOOKED_AT, ColumnFinding, decide, repeats

    column = schema[source.name] if schema is not None and source.name in schema else None
    if column is not None and (column.kind is not None or column.role == "identifier"):
        dropped = column.role == "identifier" or column.kind == "id"
        action = "drop" if dropped else "scrub" if column.kind == "text" else "keep"
        what = {"kind": column.kind or source.type, "entity": column.entity, "reason": "declared in the schema"}
        return ColumnFinding(column=source.name, action=action, declared=True, **what)  # type: ignore[arg-type]
    if not needs_votes(source, schema):
        reason = f"a {source.type} column is not searched for identifiers"
        return ColumnFinding(column=source.name, kind=source.type, entity=None, action="keep", reason=reason)
    different = len(cells.uniques) if isinstance(cells, Strings) else len(np.unique(cells.data))
    # The key only picks which cells are looked at; a scan may as well look at the same ones each time.
    coding = IdentifierIn(
        source.name, detector, len(CELL_CLASSES), min(1.0, LOOKED_AT / max(different, 1)), "dpsynth.scan.key"
    )
    votes = np.bincount(coding.encode(cells), minlength=coding.size).tolist()
    labels = repeats(different, sum(votes))
    decision = decide(source.name, dict(zip(CELL_CLASSES, votes, strict=False)), 0.0, repeated=labels)
    return ColumnFinding(
        column=source.name,
        kind=source.type,
        entity=decision.entity,
        action=decision.action,
        reason=decision.reason,
    )


def copies(real: Any, synthetic: Any, schema: Schema | str | Path | None = None) -> CopyReport:
    """What of the real strings stands in a synthetic table. Reads real rows, exactly: for the owner's eyes.

    schema: its categories are public, so that they are no copies.
    """
    from dpsynth.privacy.pii import find_copies

    declared = Schema.load(schema) if isinstance(schema, str | Path) else schema
    public = [str(v) for c in (declared.columns if declared is not None else ()) for v in c.categories or ()]
    return find_copies(_strings(read(real)), _strings(read(synthetic)), public=public)


def _strings(rows: Rows) -> dict[str, list[str]]:
    """The cells of the string columns, missing ones left out."""
    return {
        name: cells.uniques[cells.codes[cells.codes >= 0]].tolist()
        for name, cells in rows.cells.items()
        if isinstance(cells, Strings)
    }


def scrub(texts: Sequence[str]) -> list[str]:
    """The texts with identifiers replaced by placeholders, as before training: <PERSON_1>, <PERSON_2>, ...

    Within one text the same entity has the same number; numbers say nothing across texts.

    Raises PIIError where the detector is missing, fails, or does not read a text's language.
    """
    from dpsynth.privacy.pii import load_detector

    return load_detector().scrub(list(texts))
