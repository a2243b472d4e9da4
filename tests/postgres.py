"""A PostgreSQL server of its own for tests: in a temporary folder, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

USER = "dpsynth"


def binary(name: str) -> str | None:
    """A program of the server's, from PATH or where Debian keeps it."""
    there = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return shutil.which(name) or (str(there[-1]) if there else None)


def why_not() -> str | None:
    """Why no server can be started here; None where it can."""
    for name in ("initdb", "postgres"):
        if binary(name) is None:
            return (
                f"PostgreSQL's {name} is neither in PATH nor in /usr/lib/postgresql/*/bin; apt-get install postgresql"
            )
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses to run as root, and setpriv is missing"
    return None


def _as_user(folder: Path) -> list[str]:
    """What to put before a command so that it does not run as root, which the server refuses."""
    if os.getuid() != 0:
        return []
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


class Server:
    """url(database): a URL for SQLAlchemy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={quote(str(self.folder), safe='')}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def run(self, sql: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user=USER, dbname=database, autocommit=True) as connection:
            connection.execute(sql.encode())


@contextmanager
def serving() -> Iterator[Server]:
    """A server with its usual durability (fsync on)."""
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="dpsynth-pg-", dir="/tmp"))  # a socket's path must be short
    before = _as_user(folder)
    data = str(folder / "data")
    init = [*before, str(binary("initdb")), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(init, check=True, capture_output=True, cwd="/")
    command = [*before, str(binary("postgres")), "-D", data, "-k", str(folder), "-h", "", "-c", "max_connections=40"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    server = Server(folder)
    try:
        for attempt in range(300):
            try:
                server.run("SELECT 1")
                break
            except psycopg.OperationalError:
                if attempt == 299 or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
