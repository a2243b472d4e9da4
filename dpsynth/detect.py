"""PII at the owner's desk: what a fit would drop, scrub or keep, and scrubbing by hand.

`scan` looks at the rows themselves and books nothing: its report is for the owner, and no part of a release. A fit does
not use it; there the same votes are bought with noise (see `learn`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.console import Progress, make_progress
from dpsynth.declared import BY_SCHEMA, is_declared, may_be_numbered, needs_votes
from dpsynth.encode.questions import Classifier, IdentifierIn, RangeOf
from dpsynth.privacy.errors import PIIError
from dpsynth.privacy.source import Cells, IntArray, Numbers, Strings
from dpsynth.schema import Schema
from dpsynth.sources import Rows, SourceColumn, read

if TYPE_CHECKING:
    from dpsynth.privacy.pii import ColumnFinding, CopyReport, Decision, Detector, Holds, PIIReport


def scan(
    data: Any, schema: Schema | str | Path | None = None, *, patterns_only: bool = False, progress: bool = True
) -> PIIReport:
    """What a fit would do with each column, and why. For the owner's eyes: nothing of it is noisy.

    schema: what is declared decides, as in a fit.  patterns_only: as in a fit.  progress: bars on stderr, if that is a terminal.
    Raises SchemaError for a table that cannot be read, PIIError where the detector is missing or cannot read a column.
    """
    from dpsynth.privacy.pii import LOOKED_AT, PIIReport, load_detector, require_clean_names

    with make_progress(progress) as steps:
        steps.stage("reading the table")
        rows = read(data)
        require_clean_names([c.name for c in rows.columns])
        declared = None if schema is None else Schema.of(schema)
        steps.stage("loading the detector")
        detector = load_detector("patterns" if patterns_only else "full")
        voted_on = [c.name for c in rows.columns if needs_votes(c, declared)]
        # About so many cells: which ones are looked at is a matter of their hashes.
        steps.stage("looking for identifiers", sum(min(_different(rows.cells[name]), LOOKED_AT) for name in voted_on))
        watched = _Watched(detector, steps)
        findings = tuple(_finding(c, rows.cells[c.name], declared, watched) for c in rows.columns)
    return PIIReport(findings=findings, detector=detector.described())


@dataclass(frozen=True, slots=True)
class _Watched:
    """The detector, saying how far it is."""

    detector: Detector
    steps: Progress

    def classify(self, cells: Sequence[str], header: str) -> IntArray:
        self.steps.note(f"column {header}")
        return self.detector.classify(cells, header, self.steps.advance)


def _finding(source: SourceColumn, cells: Cells, schema: Schema | None, detector: Classifier) -> ColumnFinding:
    from dpsynth.privacy.pii import LOOKED_AT, NUMBERS_LOOKED_AT, ColumnFinding, Decision, NumberForms

    if schema is not None and is_declared(source, schema):
        column = schema[source.name]
        dropped = column.role == "identifier" or column.kind == "id"
        action = "drop" if dropped else "scrub" if column.kind == "text" else "keep"
        what = {"kind": column.kind or source.type, "entity": column.entity, "reason": BY_SCHEMA}
        return ColumnFinding(column=source.name, action=action, declared=True, **what)  # type: ignore[arg-type]
    if needs_votes(source, schema):
        decision = _voted(source.name, cells, detector, LOOKED_AT)
    elif isinstance(cells, Numbers) and may_be_numbered(source, schema) and _are_long(cells):
        decision = _voted(source.name, cells, NumberForms(), NUMBERS_LOOKED_AT)
    else:
        decision = Decision(action="keep", entity=None, reason=_why_not(source, schema))
    return ColumnFinding(
        column=source.name,
        kind=source.type,
        entity=decision.entity,
        action=decision.action,
        reason=decision.reason,
    )


def _why_not(source: SourceColumn, schema: Schema | None) -> str:
    """Why a column's cells need no look."""
    if source.type not in ("number", "integer"):
        return f"a {source.type} column holds no identifiers"
    return (
        "its numbers are too short for identifiers"
        if may_be_numbered(source, schema)
        else "what the schema declares of it"
    )


def _voted(name: str, cells: Cells, detector: Classifier, looked_at: int) -> Decision:
    from dpsynth.privacy.pii import CELL_CLASSES, decide, repeats

    different = _different(cells)
    # The key only picks which cells are looked at; a scan may as well look at the same ones each time.
    coding = IdentifierIn(
        name, detector, len(CELL_CLASSES), min(1.0, looked_at / max(different, 1)), "dpsynth.scan.key"
    )
    votes = np.bincount(coding.encode(cells), minlength=coding.size).tolist()
    labels = repeats(different, sum(votes))
    holds: Holds = "numbers" if isinstance(cells, Numbers) else "labels" if labels else "texts"
    return decide(name, dict(zip(CELL_CLASSES, votes, strict=False)), 0.0, holds=holds)


def _different(cells: Cells) -> int:
    return len(cells.uniques) if isinstance(cells, Strings) else len(np.unique(cells.data))


def _are_long(cells: Numbers) -> bool:
    from dpsynth.privacy.pii import are_long

    edges = RangeOf("", "number").edges
    return are_long(edges, np.histogram(cells.data[~np.isnan(cells.data)], edges)[0].astype(np.float64))


def copies(real: Any, synthetic: Any, schema: Schema | str | Path | None = None) -> CopyReport:
    """What of the real strings stands in a synthetic table. Reads real rows, exactly: for the owner's eyes.

    schema: its categories are public, so that they are no copies.
    """
    from dpsynth.privacy.pii import find_copies

    declared = None if schema is None else Schema.of(schema)
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

    texts = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in texts):
        raise PIIError("scrub takes strings; leave missing ones out")
    return load_detector().scrub(texts)
