"""Ledgers to test with: SQLite always, PostgreSQL where a server can be started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new, empty ledger's URL; its key lies in the test's own folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.db'}"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.database()
