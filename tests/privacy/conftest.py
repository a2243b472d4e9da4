"""Ledgers to test with: SQLite always, PostgreSQL where a server can be started."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privacy import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    if (reason := postgres.why_not()) is not None:
        pytest.skip(reason)
    with postgres.serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new, empty ledger's URL; its key lies in the test's own folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.db'}"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    name = f"t{secrets.token_hex(6)}"
    server.run(f"CREATE DATABASE {name}")
    return server.url(name)
