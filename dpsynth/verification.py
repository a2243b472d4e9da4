"""Is a release folder what its manifest says? Offline, and without trusting who wrote it further than the manifest goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dpsynth.artefacts import FILES, problems_in
from dpsynth.bundle import FORMAT, MANIFEST, SIGNATURE, digest, manifest_text
from dpsynth.privacy.errors import DpsynthError, VerificationError
from dpsynth.privacy.keys import is_signed, public_hex
from dpsynth.privacy.statement import PrivacyStatement
from dpsynth.schema import Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found. ok: nothing is wrong.  problems: each names its file.  epsilon: recomputed from the events.

    signed: by the public key that was given; None where none was.
    """

    ok: bool
    problems: tuple[str, ...]
    epsilon: float | None
    delta: float | None
    signed: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def require(self) -> None:
        """Raise VerificationError unless all is well."""
        if not self.ok:
            raise VerificationError("; ".join(self.problems))


def verify(out: str | Path, *, public_key: str | Path | None = None) -> Verification:
    """Check a release folder: every file's hash, no file more or less, the statement's epsilon from its events, the
    schema against the data, the expiry, and the signature where a public key is given.

    Raises VerificationError only where the public key cannot be read; what is wrong with the folder stands in `problems`.
    """
    folder = Path(out)
    manifest = _load(folder / MANIFEST)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        return Verification(
            ok=False, problems=(f"{MANIFEST}: missing or not a manifest",), epsilon=None, delta=None, signed=None
        )
    problems = list(_file_problems(folder, manifest["files"]))
    if (folder / MANIFEST).read_bytes() != manifest_text(manifest).encode():
        problems.append(f"{MANIFEST}: changed since the release was written")
    statement = _statement(folder, problems)
    problems += _content_problems(folder, manifest, statement)
    signed = None if public_key is None else manifest.get("signed_by") == public_hex(public_key)
    if signed is False:
        problems.append(f"{SIGNATURE}: signed by {_short(manifest.get('signed_by'))}, not by the key that was given")
    broken = _signature_problem(folder, manifest.get("signed_by"))
    problems += [broken] if broken else []
    signed = signed if signed is None else signed and not broken
    return Verification(
        ok=not problems,
        problems=tuple(problems),
        epsilon=statement.recomputed_epsilon if statement else None,
        delta=statement.delta if statement else None,
        signed=signed,
    )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _file_problems(folder: Path, listed: dict[str, Any]) -> Iterator[str]:
    for name in sorted(set(FILES) - set(listed)):
        yield f"{name}: not in the manifest"
    for name, entry in sorted(listed.items()):
        path = folder / name
        if path.parent != folder or not path.is_file():
            yield f"{name}: missing"
        elif not isinstance(entry, dict) or digest(path) != entry.get("sha256"):
            yield f"{name}: changed since the release was written"
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.name not in (MANIFEST, SIGNATURE):
            yield f"{path.name}: not part of the release"


def _statement(folder: Path, problems: list[str]) -> PrivacyStatement | None:
    try:
        return PrivacyStatement.from_json(_load(folder / "privacy.json"))
    except DpsynthError as error:
        problems.append(f"privacy.json: {error}")
        return None


def _content_problems(folder: Path, manifest: dict[str, Any], statement: PrivacyStatement | None) -> Iterator[str]:
    """Do the parts speak of the same release?"""
    if statement is not None:
        if statement.run != manifest.get("run"):
            yield "privacy.json: belongs to another run than the manifest"
        for key in ("recipient", "purpose", "expires"):
            if getattr(statement.terms, key) != manifest.get(key):
                yield f"privacy.json: its {key} is not that of the manifest"
        if statement.insecure:
            yield "privacy.json: NOT PRIVATE, an insecure test seed was used"
    gate = _load(folder / "gate.json")
    if not isinstance(gate, dict) or gate.get("verdict") not in ("pass", "inconclusive"):
        yield "gate.json: the gate did not pass"
    elif gate["verdict"] == "inconclusive" and gate.get("accepted") is not True:
        yield "gate.json: the gate could not decide, and nobody accepted that"
    if (expires := manifest.get("expires")) is not None and _expired(str(expires)):
        yield f"{MANIFEST}: the release expired on {expires}"
    yield from problems_in(folder)
    try:
        columns = Schema.load(folder / "schema.json").names
        data = _columns(folder)
    except (DpsynthError, OSError, ValueError):
        yield "schema.json or data.parquet: cannot be read"
        return
    if columns != data[0]:
        yield "schema.json: its columns are not those of data.parquet"
    if manifest.get("rows") != data[1]:
        yield "data.parquet: not the number of rows that the manifest says"


def _expired(day: str) -> bool:
    """A day that cannot be read is over."""
    try:
        return date.fromisoformat(day) < datetime.now(UTC).date()
    except ValueError:
        return True


def _columns(folder: Path) -> tuple[tuple[str, ...], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(folder / "data.parquet") as file:
            return tuple(file.schema_arrow.names), file.metadata.num_rows
    except pa.ArrowException:  # of which not all are OSErrors or ValueErrors
        raise VerificationError("data.parquet cannot be read") from None


def _signature_problem(folder: Path, signed_by: Any) -> str | None:
    """Whether the signature is what the manifest says it is. Whose key that is, only a public key from elsewhere shows."""
    path = folder / SIGNATURE
    if signed_by is None:
        return f"{SIGNATURE}: not part of the release, which says it is unsigned" if path.exists() else None
    if not path.is_file():
        return f"{SIGNATURE}: missing"
    fits = isinstance(signed_by, str) and is_signed((folder / MANIFEST).read_bytes(), path.read_bytes(), signed_by)
    return None if fits else f"{SIGNATURE}: not the signature of {MANIFEST} by the key that it names"


def _short(key: Any) -> str:
    return "no key" if key is None else f"key {str(key)[:16]}..."
