"""Opening the database: one engine, at the newest migration.

Contract: SQLite runs with a write-ahead log and `synchronous = FULL`, so that a commit that returned is on the disk,
and with transactions that take the write lock at their beginning. A migration is one transaction on both databases,
done by one process at a time. A database that a newer version has migrated is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from governance.errors import StoreError
from governance.store.reading import sqlite_path

REVISION = "0002"
"""The newest one of `migrations/versions`; a test compares them."""
_BUSY_S = 10
"""How long a writer waits for another one."""
_CONNECT_S = 5
_ADVISORY = 0x7469_6465
"""`tide`: PostgreSQL's advisory lock of the migration."""


def open_database(url: str, state_dir: Path) -> Engine:
    """The database, made and migrated when it has to be.

    Args:
        url: `postgresql://...`; empty: SQLite in the state directory.
        state_dir: the folder.

    Raises:
        StoreError: it cannot be used.
    """
    try:
        engine = _postgres(url) if url else _sqlite(sqlite_path(state_dir))
    except (ArgumentError, ValueError):
        raise StoreError("store.url: not a database's URL: write postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
    except ModuleNotFoundError:
        raise StoreError("store.url: needs PostgreSQL's driver: pip install 'tidegate[postgres]'") from None
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}: check the path and its rights") from None
    try:
        with transaction(engine) as connection:
            _migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def named(engine: Engine) -> str:
    """The database as messages name it: without a password."""
    url = engine.url
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that commits at its end. Raises StoreError in place of the database's errors."""
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        said = str(error.orig).strip().splitlines()
        raise StoreError(f"{named(engine)}: {said[0] if said else type(error.orig).__name__}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"{named(engine)}: {str(error).splitlines()[0]}") from error


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own transactions leave DDL outside and take the write lock late; ours are written out.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgres(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise ValueError(url)
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"connect_timeout": _CONNECT_S, "prepare_threshold": None},  # PgBouncer may stand between
        pool_size=1,
        max_overflow=0,
    )


def _migrate(connection: Connection) -> None:
    """Bring the schema to the newest revision, in the connection's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY})
    current = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if current == REVISION:
        return
    from alembic import command  # noqa: PLC0415 - a third of a second of CPU, and hardly ever needed
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise StoreError(
            f"{named(connection.engine)}: of a newer version of Tidegate (revision {current}): use that one"
        ) from None
