"""The release: a folder that a partner team may have, written whole or not at all.

    data.parquet data.csv   the synthetic table
    schema.json             its columns, as declared or learned under DP
    privacy.json            the privacy statement, with every event
    gate.json               the fidelity gate's report
    report.html             all of it, for reading
    README.md               the data card
    manifest.json           SHA-256 of each file (and manifest.sig, an Ed25519 signature of it, where a key was given)

Nothing here reads a private row: the gate was measured during the fit.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpsynth.gate import GateReport, judge
from dpsynth.privacy.errors import GateFailed, SchemaError
from dpsynth.synthesizer import Synthesizer

if TYPE_CHECKING:
    from dpsynth.privacy.ledger import Ledger

FORMAT = "dpsynth-release/1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A written release: its folder, the gate's report, the number of rows and the files' names."""

    path: Path
    gate: GateReport
    rows: int
    files: tuple[str, ...]


def release(
    synth: Synthesizer,
    out: str | Path,
    n: int | None = None,
    *,
    recipient: str | None = None,
    purpose: str | None = None,
    expires: date | str | None = None,
    sign_with: str | Path | None = None,
    accept_inconclusive: bool = False,
    ledger: Ledger | None = None,
) -> Release:
    """Draw a table, let the gate judge it, and write the release folder.

    n: number of rows; None = the very table that the gate measured.  recipient, purpose, expires: go into the certificate.
    sign_with: path of an Ed25519 private key (PEM).  accept_inconclusive: release although the gate cannot
    decide, which the certificate then says.
    ledger: also books the release there.
    Raises GateFailed where the verdict is "fail", or "inconclusive" and that is not accepted; SchemaError where `out` is
    not a new or empty folder. In each case nothing is written.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SchemaError(f"{folder} exists and is not an empty folder; choose a new one")
    expiry = _expiry(expires)
    table = synth.sample_typed(n)
    gate = judge(synth, table)
    _require_pass(gate, accept_inconclusive)
    gate = replace(gate, accepted=gate.verdict == "inconclusive")
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir(parents=True)
        about = {"recipient": recipient, "purpose": purpose, "expires": expiry}
        _write_files(partial, synth, table, gate, about)
        _write_manifest(partial, synth, len(table), about, sign_with)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise SchemaError(f"the release cannot be written to {folder.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if ledger is not None:
        ledger.note(synth.privacy.run, "release", {k: v for k, v in about.items() if v} | {"verdict": gate.said})
    return Release(path=folder, gate=gate, rows=len(table), files=tuple(sorted(p.name for p in folder.iterdir())))


def _expiry(expires: date | str | None) -> str | None:
    if expires is None:
        return None
    try:
        return (expires if isinstance(expires, date) else date.fromisoformat(expires)).isoformat()
    except ValueError:
        raise SchemaError("expires must be a date such as 2027-01-31") from None


def _require_pass(gate: GateReport, accept_inconclusive: bool) -> None:
    if gate.verdict == "pass" or (gate.verdict == "inconclusive" and accept_inconclusive):
        return
    missed = "; ".join(f"{c.name}: {c.detail}" for c in gate.checks if c.verdict != "pass")
    hint = (
        "more rows or a larger epsilon would decide it, or pass accept_inconclusive=True"
        if gate.verdict == "inconclusive"
        else "fit again with a larger epsilon, fewer columns or declared facts"
    )
    raise GateFailed(f"the fidelity gate says {gate.verdict}: {missed}. Nothing was written; {hint}.")


def _write_files(
    folder: Path, synth: Synthesizer, table: pd.DataFrame, gate: GateReport, about: dict[str, str | None]
) -> None:
    from dpsynth.report.shareable import render

    synth = replace(synth, privacy=synth.privacy.under(**about, gate=gate.said))
    table.to_parquet(folder / "data.parquet", index=False, coerce_timestamps="us", allow_truncated_timestamps=True)
    table.to_csv(folder / "data.csv", index=False, date_format="%Y-%m-%dT%H:%M:%S.%f")
    synth.schema.save(folder / "schema.json")
    synth.privacy.save(folder / "privacy.json")
    _write_json(folder / "gate.json", gate.to_json())
    html = render(synth, table, gate, recipient=about["recipient"], purpose=about["purpose"])
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "README.md").write_text(_data_card(synth, table, gate, about), encoding="utf-8")


def _write_manifest(
    folder: Path, synth: Synthesizer, rows: int, about: dict[str, str | None], sign_with: str | Path | None
) -> None:
    """Last of all: a folder without it does not verify."""
    files = {p.name: {"sha256": digest(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    body = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dpsynth": synth.privacy.version,
        "run": synth.privacy.run,
        "rows": rows,
        **about,
        "files": files,
    }
    _write_json(folder / MANIFEST, body)
    if sign_with is not None:
        from dpsynth.privacy.keys import sign

        (folder / SIGNATURE).write_bytes(sign((folder / MANIFEST).read_bytes(), sign_with))
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _write_json(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_card(synth: Synthesizer, table: pd.DataFrame, gate: GateReport, about: dict[str, str | None]) -> str:
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
            "Check this folder with `dpsynth verify`.",
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
