"""The registry's steps, read without SQLModel: what a worker needs, in some milliseconds and a MiB.

Contract: reading never makes or migrates anything. A database without the table has no steps. PostgreSQL's driver
(23 MiB) is imported only where a URL asks for it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from governance.errors import StoreError

REVISION = "0003"
"""The newest one of `migrations/versions`; a test compares them."""
_QUERY = "SELECT entry FROM registry_step WHERE id > {} ORDER BY id"
_LATEST = "SELECT COUNT(*), COALESCE(MAX(id), 0) FROM registry_step"
_BUSY_S = 2.0
_CONNECT_S = 2
_STATEMENT_MS = 2000


def sqlite_path(state_dir: Path) -> Path:
    """Where the database lies when no URL names another."""
    return state_dir / "store" / "tidegate.db"


class Reader(Protocol):
    """Of one database, for one thread."""

    def latest(self) -> tuple[int, int]:
        """What changes with each step: how many there are, and the number of the last. Raises StoreError."""

    def entries(self) -> list[str]:
        """Every step, in the order of their writing. Raises StoreError."""

    def close(self) -> None:
        """Let go of the connection."""


def reader(url: str, state_dir: Path) -> Reader:
    """Of the database that the settings name. Connects when it is first asked."""
    return PostgresReader(url) if url else SqliteReader(sqlite_path(state_dir))


class SqliteReader:
    """A connection for each question: the file may be replaced by a restored one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def latest(self) -> tuple[int, int]:
        """See `Reader`."""
        found = self._ask(_LATEST)
        return (int(found[0][0]), int(found[0][1])) if found else (0, 0)

    def entries(self) -> list[str]:
        """See `Reader`."""
        return [str(row[0]) for row in self._ask(_QUERY.format(0))]

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        if not self._path.exists():
            return []
        try:
            # Not read-only: a reader of a write-ahead log has to make its index when nobody else has.
            with closing(sqlite3.connect(f"file:{self._path}?mode=rw", timeout=_BUSY_S, uri=True)) as db:
                return db.execute(query).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):
                return []
            raise StoreError(f"{self._path}: {error}") from None

    def close(self) -> None:
        """Nothing is held."""


class PostgresReader:
    """One connection, made again when it broke."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def latest(self) -> tuple[int, int]:
        """See `Reader`."""
        found = self._ask(_LATEST)
        return (int(found[0][0]), int(found[0][1])) if found else (0, 0)

    def entries(self) -> list[str]:
        """See `Reader`."""
        return [str(row[0]) for row in self._ask(_QUERY.format(0))]

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        try:
            import psycopg  # noqa: PLC0415 - an extra, and 23 MiB
        except ModuleNotFoundError:
            raise StoreError("store.url: needs PostgreSQL's driver: pip install 'tidegate[postgres]'") from None
        try:
            connection = self._connection
            if connection is None:
                # Neither start-up options nor prepared statements: PgBouncer may stand between.
                connection = self._connection = psycopg.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_S, prepare_threshold=None
                )
                connection.execute(f"SET statement_timeout = {_STATEMENT_MS}")
            return list(connection.execute(query).fetchall())
        except psycopg.errors.UndefinedTable:
            return []
        except psycopg.Error as error:
            self.close()
            said = str(error).strip().splitlines()
            raise StoreError(f"store.url: {said[0] if said else type(error).__name__}") from None

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
