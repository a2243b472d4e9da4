"""What a scan found, as a table for the owner."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WHAT_HAPPENS = {
    "drop": "never modelled; fakes from reserved ranges instead",
    "scrub": "each cell scrubbed by itself, fakes put back afterwards",
    "keep": "modelled",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFinding:
    """One column: what it holds, what a fit would do with it (drop, scrub, keep), and why."""

    column: str
    kind: str
    entity: str | None
    action: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PIIReport:
    """Findings for each column of a table, in its order."""

    findings: tuple[ColumnFinding, ...]

    def to_json(self) -> dict[str, Any]:
        return {"findings": [asdict(f) for f in self.findings]}

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(
            title="What a fit would do with each column", caption="Override in the schema: kind=, role=, entity=."
        )
        for name in ("column", "holds", "action", "why"):
            table.add_column(name, overflow="fold")
        colour = {"drop": "red", "scrub": "yellow", "keep": "green"}
        for f in self.findings:
            action = f"[{colour.get(f.action, 'white')}]{f.action}[/]: {WHAT_HAPPENS.get(f.action, '')}"
            table.add_row(f.column, f.entity or f.kind, action, f.reason)
        return table

    def _repr_html_(self) -> str:
        cells = (
            "<tr>"
            + "".join(f"<td>{html.escape(str(v))}</td>" for v in (f.column, f.entity or f.kind, f.action, f.reason))
            + "</tr>"
            for f in self.findings
        )
        return "<table><tr><th>column</th><th>holds</th><th>action</th><th>why</th></tr>" + "".join(cells) + "</table>"
