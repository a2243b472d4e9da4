"""What a scan found, as a table for the owner and as an audit log that holds no value."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsynth.privacy.pii.columns import DIRECT_IN_WORDS

if TYPE_CHECKING:
    from rich.table import Table

WHAT_HAPPENS = {
    "drop": "no model sees it; the output has made-up values instead",
    "scrub": "identifiers in its texts become placeholders such as <PERSON_1> before a model reads them, and made-up ones in the output",
    "keep": "learned from, under differential privacy",
}

OVERRIDE = (
    "You decide by a schema: kind='categorical' keeps a column, kind='text' scrubs it, role='identifier' with an entity drops it. "
    "Declare what is public knowledge, not what you see here."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFinding:
    """One column: what it holds, what a fit would do with it (drop, scrub, keep), and why. Shares are in steps of 5%.

    declared: by the user's schema, which always decides.
    """

    column: str
    kind: str
    entity: str | None
    action: str
    reason: str
    declared: bool = False

    @property
    def holds(self) -> str:
        """The same in words."""
        entity = self.entity
        return self.kind if entity is None else f"{DIRECT_IN_WORDS.get(entity, 'identifiers')} ({entity})"


@dataclass(frozen=True, kw_only=True, slots=True)
class PIIReport:
    """Findings for each column of a table, in its order. detector: what looked (see `Detector.described`)."""

    findings: tuple[ColumnFinding, ...]
    detector: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"findings": [asdict(f) for f in self.findings], "detector": dict(self.detector)}

    def audit(self, path: str | Path) -> None:
        """Append what was decided and by what to a log, a JSON line for each column: no value of a cell stands in it."""
        looked = {**self.detector, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        with open(path, "a", encoding="utf-8") as log:
            log.writelines(json.dumps({**asdict(f), **looked}) + "\n" for f in self.findings)

    def __rich__(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="What a fit would do with each column", caption=OVERRIDE)
        for name in ("column", "holds", "what happens", "why"):
            table.add_column(name, overflow="fold")
        colour = {"drop": "red", "scrub": "yellow", "keep": "green"}
        for f in self.findings:
            action = f"[{colour.get(f.action, 'white')}]{f.action}[/]: {WHAT_HAPPENS.get(f.action, '')}"
            table.add_row(escape(f.column), f.holds, action, escape(f.reason))
        return table

    def _repr_html_(self) -> str:
        cells = (
            "<tr>"
            + "".join(f"<td>{html.escape(str(v))}</td>" for v in (f.column, f.holds, f.action, f.reason))
            + "</tr>"
            for f in self.findings
        )
        return (
            "<table><tr><th>column</th><th>holds</th><th>what happens</th><th>why</th></tr>"
            + "".join(cells)
            + "</table>"
        )
