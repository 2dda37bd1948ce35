"""The store on SQLite and on a real PostgreSQL: the same steps, the same errors, the schema of the classes."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import SQLModel

from governance.errors import RegistryBroken, StoreError
from governance.registry.desk import Overtaken
from governance.registry.events import Binding, Event, Sources, encode
from governance.store import database
from governance.store.database import open_database
from governance.store.reading import reader, sqlite_path
from governance.store.steps import Steps

NOW = dt.datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=dt.UTC)


def step(model: str, version: str, number: int, **more) -> Event:
    bound = {"binding": Binding("aa", "bb", {"scan": "cc"}), "sources": Sources("m/1", "card.yaml", {"scan": "s"})}
    return Event(model=model, version=version, number=number, time=NOW, kind="registered", by="user:é", **bound, **more)


@pytest.fixture
def steps(store_url, tmp_path):
    found = Steps(open_database(store_url, tmp_path))
    yield found
    found.close()


def test_steps_come_back_as_they_were_written(steps, store_url, tmp_path):
    written = [step("m", "1", 0, reason="\U0001f600 'quoted' \\ \n"), step("n", "1", 0), step("m", "1", 1)]
    for one in written:
        steps.append(one)
    assert steps.all() == written
    assert steps.of("m", "1") == [written[0], written[2]]
    assert steps.of("m", "2") == []
    plain = reader(store_url, tmp_path)
    assert plain.entries() == [encode(one).decode() for one in written]
    assert plain.latest() == (3, 3)
    plain.close()


def test_of_two_that_make_one_step_one_is_told(steps, store_url, tmp_path):
    steps.append(step("m", "1", 0))
    with pytest.raises(Overtaken):
        steps.append(step("m", "1", 0, reason="another"))
    assert len(steps.all()) == 1
    won, lost = [], []

    def race(name: str) -> None:
        own = Steps(open_database(store_url, tmp_path))
        try:
            own.append(step("m", "1", 1, reason=name))
            won.append(name)
        except Overtaken:
            lost.append(name)
        finally:
            own.close()

    threads = [threading.Thread(target=race, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert steps.of("m", "1")[1].reason == won[0]


def test_what_is_not_recorded_stays_on_the_list(steps):
    for number in range(3):
        steps.append(step("m", "1", number))
    left = steps.unrecorded()
    assert [one.number for _, one in left] == [0, 1, 2]
    steps.recorded([row for row, one in left if one.number != 1])
    assert [one.number for _, one in steps.unrecorded()] == [1]


def test_the_migrations_make_the_tables_of_the_classes(store_url, tmp_path):
    engine = open_database(store_url, tmp_path)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_that_is_looked_for():
    scripts = ScriptDirectory(str(Path(database.__file__).parent / "migrations"))
    assert scripts.get_current_head() == database.REVISION


def test_processes_that_open_a_new_store_at_once_all_do(store_url, tmp_path):
    forked = multiprocessing.get_context("fork")  # with what is imported: to import it takes seconds
    gate = forked.Barrier(3)

    def opens() -> None:
        gate.wait()
        open_database(store_url, tmp_path).dispose()

    running = [forked.Process(target=opens) for _ in range(3)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert [one.exitcode for one in running] == [0, 0, 0]


def test_a_store_of_a_newer_version_is_refused(store_url, tmp_path):
    engine = open_database(store_url, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer version of Tidegate"):
        open_database(store_url, tmp_path)


def test_a_migration_is_done_whole_or_not_at_all(store_url, tmp_path, monkeypatch):
    def dies(connection) -> None:
        migrate(connection)
        raise StoreError("cut")

    migrate = database._migrate
    monkeypatch.setattr(database, "_migrate", dies)
    with pytest.raises(StoreError, match="cut"):
        open_database(store_url, tmp_path)
    plain = reader(store_url, tmp_path)
    assert plain.latest() == (0, 0)
    plain.close()
    if not store_url:
        assert sqlite3.connect(sqlite_path(tmp_path)).execute("SELECT name FROM sqlite_master").fetchall() == []


def test_reading_makes_nothing_and_an_empty_store_has_no_steps(store_url, tmp_path):
    plain = reader(store_url, tmp_path)
    assert plain.entries() == []
    assert plain.latest() == (0, 0)
    plain.close()
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_was_bent_in_the_database_is_found(steps, store_url, tmp_path):
    steps.append(step("m", "1", 0))
    engine = open_database(store_url, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("UPDATE registry_step SET entry = '{\"model\": 3}'"))
    engine.dispose()
    with pytest.raises(RegistryBroken, match="restore it from a backup"):
        steps.all()


def test_a_server_that_is_away_is_said_without_the_password(tmp_path):
    url = "postgresql://tide:s3cret@127.0.0.1:9/x"
    with pytest.raises(StoreError) as error:
        open_database(url, tmp_path)
    assert "s3cret" not in str(error.value)
    assert "127.0.0.1" in str(error.value)
    with pytest.raises(StoreError) as error:
        reader(url, tmp_path).latest()
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("url", ["mysql://a@b/c", "sqlite:///x.db", "no url", "postgresql://a:b:c@d:e:f/g"])
def test_other_databases_are_refused(url, tmp_path):
    with pytest.raises(StoreError, match="write postgresql://"):
        open_database(url, tmp_path)


def test_a_damaged_file_is_an_error_of_one_line(tmp_path):
    path = sqlite_path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"tidegate\.db: file is not a database"):
        open_database("", tmp_path)
    with pytest.raises(StoreError, match=r"tidegate\.db"):
        reader("", tmp_path).latest()


def test_workers_read_without_sqlmodel(tmp_path):
    code = (
        "import sys; from pathlib import Path; from governance.store.reading import reader; "
        "assert reader('', Path(sys.argv[1])).latest() == (1, 1); "
        "sys.exit(any(name in sys.modules for name in ('sqlmodel', 'sqlalchemy', 'alembic', 'psycopg')))"
    )
    Steps(open_database("", tmp_path)).append(step("m", "1", 0))
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
