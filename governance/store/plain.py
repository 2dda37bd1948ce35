"""Transactions without SQLAlchemy, on either database: for workers, that start without it.

Contract: parameters are written `?`. A transaction commits at its end and is rolled back by any exception. Every
transaction has a connection of its own: a hundred gateways that each write once a minute hold none in between, and a
SQLite file may be replaced by a restored one. The schema is made by `migrated`, in a process of its own.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from governance.errors import StoreError
from governance.store.reading import REVISION, sqlite_path

_BUSY_S = 2.0
_CONNECT_S = 2
_STATEMENT_MS = 5000
_MIGRATE_S = 120

Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Runs one statement; its rows, none of one that returns none."""


class Plain:
    """One database.

    Args:
        url: `postgresql://...`; empty: SQLite in the state directory.
        state_dir: the folder.
    """

    def __init__(self, url: str, state_dir: Path) -> None:
        self._url = url
        self._state_dir = state_dir
        self._path = sqlite_path(state_dir)
        self.shared = bool(url)
        """Whether other gateways may be writing to it."""

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Execute]:
        """One transaction: all of it sees the database as it was at one time, or it is the only one that writes it.

        On PostgreSQL one that writes sees what others commit meanwhile; it has to lock rows (`FOR UPDATE`). Raises
        StoreError.
        """
        with self._postgres(write=write) if self._url else self._sqlite(write=write) as execute:
            yield execute

    def ready(self) -> None:
        """Make the schema what this version's is, where it is not yet. Raises StoreError."""
        if self._revision() != REVISION:
            migrated(self._url, self._state_dir)

    def _revision(self) -> str | None:
        if not self._url and not self._path.exists():
            return None
        try:
            with self.transaction(write=False) as execute:
                found = execute("SELECT version_num FROM alembic_version", ())
        except _NoTableError:
            return None
        return str(found[0][0]) if found else None

    @contextmanager
    def _sqlite(self, *, write: bool) -> Iterator[Execute]:
        try:
            # Not read-only: a reader of a write-ahead log has to make its index when nobody else has.
            opened = sqlite3.connect(f"file:{self._path}?mode=rw", _BUSY_S, isolation_level=None, uri=True)
            with closing(opened) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield lambda query, values: connection.execute(query.replace(" FOR UPDATE", ""), values).fetchall()
                connection.execute("COMMIT")  # closing rolls back whatever has not come so far
        except sqlite3.Error as error:
            kind = _NoTableError if "no such table" in str(error) else StoreError
            raise kind(f"{self._path}: {error}") from None

    @contextmanager
    def _postgres(self, *, write: bool) -> Iterator[Execute]:
        try:
            import psycopg  # noqa: PLC0415 - an extra, and 23 MiB
        except ModuleNotFoundError:
            raise StoreError("store.url: needs PostgreSQL's driver: pip install 'tidegate[postgres]'") from None
        try:
            # Neither start-up options nor prepared statements: PgBouncer may stand between.
            with psycopg.connect(self._url, connect_timeout=_CONNECT_S, prepare_threshold=None) as connection:
                if not write:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute(f"SET LOCAL statement_timeout = {_STATEMENT_MS}")

                def execute(query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
                    done = connection.execute(query.replace("?", "%s").encode(), values, binary=True)
                    return [] if done.description is None else done.fetchall()

                yield execute
        except psycopg.errors.UndefinedTable as error:
            raise _NoTableError(_said(error)) from None
        except psycopg.Error as error:
            raise StoreError(_said(error)) from None


class _NoTableError(StoreError):
    """The schema is not there."""


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"store.url: {lines[0] if lines else type(error).__name__}"


def migrated(url: str, state_dir: Path) -> None:
    """Make or migrate the database, in a process of its own: SQLAlchemy and Alembic are 40 MiB. Raises StoreError."""
    # The URL may hold a password, which has no place among a process's arguments.
    asked = json.dumps({"url": url, "state_dir": str(state_dir)})
    command = [sys.executable, "-m", "governance.store.migrate"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and no shell
            command, input=asked, capture_output=True, text=True, timeout=_MIGRATE_S, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"store: cannot be made or migrated: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise StoreError(said[-1] if said else "store: cannot be made or migrated")
