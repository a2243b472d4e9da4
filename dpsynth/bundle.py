"""The release: a folder that a partner team may have, written whole or not at all.

    data.parquet data.csv   the synthetic table
    schema.json             its columns, as declared or learned under DP
    metadata.json           the same as SDV Metadata V2
    croissant.json          the same for machines that look for data sets (Croissant 1.0)
    privacy.json            the privacy statement, with every event, and where the ledger has it
    gate.json               the fidelity gate's report
    report.html             all of it, for reading
    README.md               the data card
    TERMS.md                terms of use: by whom, what for, until when
    manifest.json           SHA-256 of each file, and of itself (and manifest.sig, an Ed25519 signature, where a key was given)

Nothing here reads a private row: the gate was measured during the fit. The manifest is written last, after its signature, and in one
step; the folder gets its name after that. A release that was cut off leaves a hidden folder without a manifest, which does not verify.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpsynth.adapters import croissant
from dpsynth.artefacts import require_clean
from dpsynth.gate import GateReport, judge
from dpsynth.outputs import why_not
from dpsynth.privacy.durable import to_disk
from dpsynth.privacy.errors import GateFailed, SchemaError
from dpsynth.privacy.keys import public_half, sign
from dpsynth.report.card import data_card, terms
from dpsynth.sources import read
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
    ledger: also books the release there, and what its rows are known by.
    Raises GateFailed where the verdict is "fail", or "inconclusive" and that is not accepted. Before a row is drawn: SchemaError where
    `out` is not a new or empty folder, or cannot be made; VerificationError where `sign_with` is no such key. In each case nothing is
    written.
    """
    folder = Path(out)
    _require_place(folder)
    if sign_with is not None:
        public_half(sign_with)  # refuses what is no key
    expiry = _expiry(expires)
    table, reference = synth.measured() if n is None else (synth.sample_typed(n), None)
    gate = judge(synth, table, reference)
    _require_pass(gate, accept_inconclusive)
    gate = replace(gate, accepted=gate.verdict == "inconclusive")
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir(parents=True)
        about = {"recipient": recipient, "purpose": purpose, "expires": expiry}
        _write_files(partial, synth, table, gate, about)
        require_clean(partial, synth.schema.names)
        _write_manifest(partial, synth, len(table), about, sign_with)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise SchemaError(f"the release cannot be written to {folder.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if ledger is not None:
        # The rows, too, so that a fit on them is noticed wherever they come back from.
        rows = {"rows": ledger.fingerprint(read(table).contents)} if len(table) else {}
        ledger.note(synth.privacy.run, "release", {k: v for k, v in about.items() if v} | {"verdict": gate.said} | rows)
    return Release(path=folder, gate=gate, rows=len(table), files=tuple(sorted(p.name for p in folder.iterdir())))


def _require_place(folder: Path) -> None:
    """Refuse a folder that cannot be written, before texts are, which may take hours."""
    if (why := why_not(folder)) is not None:
        raise SchemaError(f"the release cannot be written to {folder.parent}: {why}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SchemaError(f"{folder} exists and is not an empty folder; choose a new one")


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
    _write_json(folder / "metadata.json", synth.schema.to_sdv("data"))
    data = {name: digest(folder / name) for name in ("data.parquet", "data.csv")}
    _write_json(folder / "croissant.json", croissant.describe(synth.schema, data, synth.privacy))
    synth.privacy.save(folder / "privacy.json")
    _write_json(folder / "gate.json", gate.to_json())
    html = render(synth, table, gate, recipient=about["recipient"], purpose=about["purpose"])
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "README.md").write_text(data_card(synth, table, gate, about), encoding="utf-8")
    (folder / "TERMS.md").write_text(terms(about), encoding="utf-8")


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
        "signed_by": public_half(sign_with) if sign_with is not None else None,
        "files": files,
    }
    text = manifest_text(body)
    if sign_with is not None:
        (folder / SIGNATURE).write_bytes(sign(text.encode(), sign_with))
    for path in folder.iterdir():
        to_disk(path)
    unfinished = folder / f"{MANIFEST}.unfinished"
    unfinished.write_text(text, encoding="utf-8")
    to_disk(unfinished)
    unfinished.rename(folder / MANIFEST)
    to_disk(folder)


def manifest_text(body: dict[str, Any]) -> str:
    """A manifest as it is written: its fields and the hash of these, so that a changed byte shows without a signature, too."""
    body = {key: value for key, value in body.items() if key != "self"}
    own = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    return json.dumps(body | {"self": own}, indent=1) + "\n"


def _write_json(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
