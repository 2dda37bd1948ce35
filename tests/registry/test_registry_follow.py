"""The follower: what the store says is in the file within a look, and the file stays when the store is away or lost."""

from __future__ import annotations

import datetime as dt
import logging

import pytest

from gateway.approvals import view_file
from gateway.registry_follow import Follower
from gateway.settings import Registry, Settings, Store
from governance.registry.events import Binding, Event, Sources, encode, text_digest
from governance.registry.view import Known, View, decode
from governance.store.database import open_database, transaction
from governance.store.reading import sqlite_path
from governance.store.steps import Steps
from governance.store.tables import RegistryStep

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
FIRST = Event(
    model="m", version="1", number=0, time=NOW, kind="registered", by="user:ann", binding=Binding("f", "c"),
    sources=Sources("m/1", "card.yaml"),
)  # fmt: skip
GONE = Event(
    model="m", version="1", number=1, time=NOW, kind="retired", by="user:dee", reason="x",
    previous=text_digest(encode(FIRST)),
)  # fmt: skip


@pytest.fixture
def settings(store_url, tmp_path) -> Settings:
    return Settings(upstreams={}, state_dir=tmp_path / "state", registry=Registry(), store=Store(url=store_url or None))


@pytest.fixture
def steps(settings):
    found = Steps(open_database(settings.store.url or "", settings.state_dir))
    yield found
    found.close()


@pytest.fixture
def follower(settings, steps):
    found = Follower(settings)
    yield found
    found.close()


def view(settings) -> View:
    return decode(view_file(settings.state_dir).read_bytes())


def test_what_the_store_says_is_in_the_file(settings, steps, follower):
    follower.look()
    assert view(settings) == View()
    steps.append(FIRST)
    follower.look()
    assert view(settings) == View((Known("m", "1", "draft"),))
    file = view_file(settings.state_dir)
    written = file.stat().st_mtime_ns
    follower.look()
    another = Follower(settings)
    another.look()
    another.close()
    assert file.stat().st_mtime_ns == written  # nothing changed, so that workers do not read it again
    steps.append(GONE)
    follower.look()
    assert view(settings).versions[0].state == "retired"


def test_a_bent_or_lost_store_changes_nothing(settings, steps, follower, store_url, caplog):
    steps.append(FIRST)
    follower.look()
    before = view(settings)
    steps.append(Event(model="m", version="1", number=1, time=NOW, kind="promoted", by="user:eve"))
    with caplog.at_level(logging.ERROR, "tidegate.registry"):
        follower.look()
        follower.look()
    assert view(settings) == before
    assert [record.getMessage().count("the store was changed") for record in caplog.records] == [1]
    caplog.clear()
    engine = open_database(store_url, settings.state_dir)
    with transaction(engine) as connection:
        connection.execute(RegistryStep.__table__.delete())
    engine.dispose()
    with caplog.at_level(logging.INFO, "tidegate.registry"):
        follower.look()
        assert view(settings) == before
        assert "the store is empty and was not" in caplog.text
        steps.append(FIRST)
        follower.look()
    assert "followed again" in caplog.text


def test_a_server_that_is_away_changes_nothing(tmp_path, caplog):
    away = Store(url="postgresql://tide:s3cret@127.0.0.1:9/x")
    settings = Settings(upstreams={}, state_dir=tmp_path, registry=Registry(), store=away)
    file = view_file(tmp_path)
    file.parent.mkdir()
    file.write_bytes(b"as it was")
    Follower(settings).look()
    assert file.read_bytes() == b"as it was"
    assert "what was known last holds" in caplog.text
    assert "s3cret" not in caplog.text
    assert not sqlite_path(tmp_path).exists()
