"""What goes with a released table as text: the data card (the folder's README) and the terms of use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dpsynth.gate import GateReport
    from dpsynth.synthesizer import Synthesizer


def data_card(synth: Synthesizer, table: pd.DataFrame, gate: GateReport, about: Mapping[str, str | None]) -> str:
    """The bundle's README: what the table is, how it was made, what it promises and what not."""
    head = [f"- {key}: {value}" for key, value in about.items() if value]
    rows = [
        f"| {_cell(name)} | {fact.column.kind or 'identifier'} | {fact.treatment} | {_cell(_facts(fact.column))} |"
        for name, fact in synth.facts.items()
    ]
    checks = [f"| {_cell(c.name)} | {c.verdict} | {_cell(c.detail)} |" for c in gate.checks]
    return "\n".join(
        [
            "# A synthetic table",
            "",
            f"{len(table):,} rows, {table.shape[1]} columns, made by dpsynth {synth.privacy.version}. No row stands for a person.",
            *head,
            "",
            "## Privacy",
            "",
            f"({synth.privacy.epsilon:g}, {synth.privacy.delta:g})-differential privacy (epsilon, delta), all included.",
            synth.privacy.sentence(),
            "",
            *(f"- **Mind:** {_cell(text)}" for text in synth.privacy.warnings.values()),
            "",
            "Taken as public, and not paid for: " + "; ".join(synth.privacy.public) + ".",
            "",
            f"## Fidelity gate: {gate.said}",
            "",
            "| check | verdict | detail |",
            "| --- | --- | --- |",
            *checks,
            "",
            "## Columns",
            "",
            "| column | kind | made by | facts (declared, or learned under differential privacy) |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "## Limits",
            "",
            *(f"- {note}" for note in synth.notes),
            "- Use it for exploration, development and training of staff; confirm conclusions on the source.",
            "",
            "Terms of use are in TERMS.md. Check this folder with `dpsynth verify`.",
            "",
        ]
    )


def _facts(column: Any) -> str:
    facts = []
    if column.bounds is not None:
        facts.append(f"{column.bounds[0]} to {column.bounds[1]}")
    if column.categories is not None:
        facts.append(f"{len(column.categories)} categories")
    if column.integer:
        facts.append("whole numbers")
    if column.decimals:
        facts.append(f"{column.decimals} decimals")
    if column.nullable:
        facts.append("may be missing")
    return ", ".join(facts) or (column.entity or "")


def _cell(text: str) -> str:
    """Text in a Markdown table's cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def terms(about: Mapping[str, str | None]) -> str:
    """Terms of use, as far as recipient, purpose and end were given."""
    recipient, purpose, expires = (about.get(key) for key in ("recipient", "purpose", "expires"))
    may = f"{recipient} may use this folder" if recipient else "Who received this folder from its maker may use it"
    return "\n".join(
        [
            "# Terms of use",
            "",
            f"1. {may}{f' for: {purpose}' if purpose else ''}.",
            f"2. {f'Use ends on {expires}; copies are deleted by then' if expires else 'No end of use was set'}.",
            "3. It is not passed on without the consent of who made it; what is, goes with these terms and the privacy statement.",
            "4. Nobody tries to find out from it who was in the source, or anything about a person. Differential privacy bounds what",
            "   that could bring; the bound is in privacy.json, and holds for this folder together with what else it lists as spent.",
            "5. Figures drawn from it say that they come from synthetic data. It comes without warranty.",
            "",
        ]
    )
