"""PII at the owner's desk: what a fit would drop, scrub or keep, and scrubbing by hand.

`scan` looks at the rows themselves and books nothing: its report is for the owner, and no part of a release. A fit does
not use it; there the same votes are bought with noise (see `learn`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.encode.questions import IdentifierIn
from dpsynth.learn import LOOKED_AT
from dpsynth.privacy.source import Strings
from dpsynth.sources import read

if TYPE_CHECKING:
    from dpsynth.privacy.pii import PIIReport


def scan(data: Any) -> PIIReport:
    """What a fit would do with each column, and why. For the owner's eyes: nothing of it is noisy.

    Raises SchemaError for a table that cannot be read, PIIError where the detector is missing.
    """
    from dpsynth.privacy.pii import CELL_CLASSES, ColumnFinding, PIIReport, decide, load_detector

    rows = read(data)
    findings = []
    for column in rows.columns:
        cells = rows.cells[column.name]
        if not isinstance(cells, Strings) or column.type == "boolean":
            reason = f"a {column.type} column is not searched for identifiers"
            findings.append(
                ColumnFinding(column=column.name, kind=column.type, entity=None, action="keep", reason=reason)
            )
            continue
        rate = min(1.0, LOOKED_AT / max(len(cells.uniques), 1))
        # The key only picks which cells are looked at; a scan may as well look at the same ones each time.
        coding = IdentifierIn(column.name, load_detector(), len(CELL_CLASSES), rate, "dpsynth.scan.key")
        votes = np.bincount(coding.encode(cells), minlength=coding.size)[: len(CELL_CLASSES)]
        decision = decide(column.name, dict(zip(CELL_CLASSES, votes.tolist(), strict=True)), 0.0)
        findings.append(
            ColumnFinding(
                column=column.name,
                kind="string",
                entity=decision.entity,
                action=decision.action,
                reason=decision.reason,
            )
        )
    return PIIReport(findings=tuple(findings))


def scrub(texts: Sequence[str]) -> list[str]:
    """The texts with identifiers replaced by placeholders such as <PERSON>, as before training."""
    from dpsynth.privacy.pii import load_detector

    return load_detector().scrub(list(texts))
