"""The ledger's key: 32 random bytes that every MAC and fingerprint is made with, kept outside the database.

Who can write the database but has no key can change nothing unnoticed; who can read it learns nothing about rows from it.

A SQLite ledger's key lies beside the file (`budget.db.key`), a PostgreSQL ledger's in the user's data directory
(`ledger.key`). A team shares one key: give each member the key's 64 hexadecimal digits in $DPSYNTH_LEDGER_KEY, or a copy of
the key file. Its loss makes the ledger useless; back it up apart from the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpsynth.privacy.durable import to_disk
from dpsynth.privacy.errors import LedgerError

SIZE = 32
VARIABLE = "DPSYNTH_LEDGER_KEY"


class Keys:
    """Keyed hashes for each purpose, each under a key of its own derived from one."""

    def __init__(self, key: bytes) -> None:
        self._chain, self._rows, self._columns = (_mac(key, purpose) for purpose in (b"chain", b"rows", b"columns"))

    def __repr__(self) -> str:
        return "Keys(secret)"

    def sign(self, *parts: Any) -> str:
        """MAC of a tuple of JSON values; the first says what kind of thing it is."""
        return _mac(self._chain, json.dumps(parts).encode()).hex()

    def fits(self, mac: str, *parts: Any) -> bool:
        """Whether `mac` is that of the parts. Takes equally long however much of it is right."""
        return hmac.compare_digest(mac.encode(), self.sign(*parts).encode())

    def fingerprint(self, contents: bytes) -> str:
        """MAC of what rows hash to."""
        return _mac(self._rows, contents).hex()

    def columns(self, names: Iterable[str]) -> frozenset[str]:
        """Keyed hashes of column names."""
        return frozenset(_mac(self._columns, name.encode("utf-8", "surrogatepass")).hex()[:16] for name in names)


def load_key(path: Path, *, in_use: bool) -> bytes:
    """The key from $DPSYNTH_LEDGER_KEY or the file; a new one where there is none and no ledger is in use yet.

    Raises LedgerError where the key is missing, damaged or cannot be read or written.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return _from_hex(given)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        if in_use:
            raise LedgerError(
                f"the ledger's key {path} is missing; put it back from a backup, or give it in ${VARIABLE}"
            ) from None
        return _create(path)
    except OSError as error:
        raise LedgerError(f"the ledger's key {path} cannot be read: {error.strerror}") from None
    return _require_size(key, path)


def _from_hex(text: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) < SIZE:
        raise LedgerError(
            f"${VARIABLE} must hold {2 * SIZE} hexadecimal digits; make them with: openssl rand -hex {SIZE}"
        )
    return key


def _require_size(key: bytes, path: Path) -> bytes:
    if len(key) != SIZE:
        raise LedgerError(f"the ledger's key {path} is damaged (not {SIZE} bytes); put it back from a backup")
    return key


def _create(path: Path) -> bytes:
    """A new key, on disk before it is used. It appears whole or not at all; of two processes, both use the one that came first."""
    key = secrets.token_bytes(SIZE)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            key = _require_size(path.read_bytes(), path)
        to_disk(path.parent)
    except OSError as error:
        raise LedgerError(f"the ledger's key {path} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return key


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)
