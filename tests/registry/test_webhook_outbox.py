"""The outbox on SQLite and on a real PostgreSQL: put in once, with its step or not at all; tried by one at a time."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from test_store import step

from governance.errors import StoreError
from governance.registry.desk import Overtaken
from governance.store import steps as steps_module
from governance.store.database import open_database
from governance.store.outbox import LEASE_S, Outbox
from governance.store.steps import Steps
from governance.webhooks.messages import FILTERS, TYPES, Message, Subscriber

ALL = Subscriber("all", ("*",))
LIVE = Subscriber("live", ("registry.promoted", "policy.*"))
WHEN = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)


def message(name: str, kind: str = "registry.promoted") -> Message:
    return Message(name, kind, WHEN, b'{"type":"x"}')


@pytest.fixture
def outbox(store_url, tmp_path):
    found = Outbox(open_database(store_url, tmp_path))
    yield found
    found.close()


def test_everybody_is_told_what_they_want_and_once(outbox):
    for _ in range(2):
        outbox.put([ALL, LIVE], [message("a"), message("b", "registry.retired"), message("c", "policy.approved")], 1.0)
    found = [(one.endpoint, one.message) for one in outbox.due(["all", "live"], 1.0, 100)]
    assert found == [("all", "a"), ("live", "a"), ("all", "b"), ("all", "c"), ("live", "c")]
    assert outbox.due(["live"], 0.5, 100) == []
    assert [one.endpoint for one in outbox.due(["live"], 1.0, 1)] == ["live"]
    assert outbox.due([], 1.0, 100) == []


def test_a_filter_is_a_type_or_the_beginning_of_some():
    assert all(Subscriber("x", ("*",)).wants(kind) for kind in TYPES)
    assert [kind for kind in TYPES if Subscriber("x", ("registry.*",)).wants(kind)] == [
        kind for kind in TYPES if kind.startswith("registry.")
    ]
    assert [kind for kind in TYPES if Subscriber("x", ("policy.approved",)).wants(kind)] == ["policy.approved"]
    assert set(TYPES) < set(FILTERS)


def test_of_those_who_claim_an_attempt_one_gets_it(outbox, store_url, tmp_path):
    outbox.put([ALL], [message("a")], 1.0)
    (one,) = outbox.due(["all"], 1.0, 9)
    gate, won = threading.Barrier(4), []

    def race() -> None:
        own = Outbox(open_database(store_url, tmp_path))
        gate.wait()
        won.append(own.claim(one, 2.0))
        own.close()

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]
    assert outbox.due(["all"], 2.0 + LEASE_S - 1, 9) == []
    (again,) = outbox.due(["all"], 2.0 + LEASE_S, 9)  # who had it has died
    assert (again.attempts, again.tried) == (1, 2.0)
    assert outbox.claim(again, 70.0)
    outbox.delivered(one, "late")  # of the one that has not died after all
    assert outbox.due(["all"], 1e9, 9)[0].state == "waiting"
    outbox.again(again, "answered 500", 80.0)
    (third,) = outbox.due(["all"], 80.0, 9)
    assert (third.attempts, third.status, third.due) == (2, "answered 500", 80.0)
    assert outbox.claim(third, 81.0)
    outbox.delivered(third, "answered 204")
    assert outbox.due(["all"], 1e9, 9) == []


def test_what_failed_is_tried_again_when_somebody_asks(outbox):
    outbox.put([ALL, LIVE], [message("a"), message("b")], 1.0)
    for one in outbox.due(["all", "live"], 1.0, 9):
        outbox.claim(one, 2.0)
        (outbox.delivered if one.message == "b" else outbox.failed)(one, "x")
    assert outbox.due(["all", "live"], 1e9, 9) == []
    assert outbox.retry(5.0, endpoint="all") == 1
    assert [(one.endpoint, one.attempts) for one in outbox.due(["all", "live"], 5.0, 9)] == [("all", 0)]
    assert outbox.retry(6.0, message="b") == 0
    assert outbox.retry(6.0, message="a") == 2
    assert [one.message for one in outbox.log(endpoint="live", state=None, message=None, most=9)] == ["b", "a"]
    assert len(outbox.log(endpoint=None, state="delivered", message=None, most=9)) == 2
    assert len(outbox.log(endpoint=None, state=None, message="a", most=1)) == 1


def test_a_step_and_its_message_are_there_together_or_not_at_all(outbox, store_url, tmp_path, monkeypatch):
    steps = Steps(open_database(store_url, tmp_path), [ALL])
    steps.append(step("m", "1", 0))
    with pytest.raises(Overtaken):
        steps.append(step("m", "1", 0, reason="another"))
    (told,) = outbox.due(["all"], 1e12, 9)
    assert told.type == "registry.registered"
    put = steps_module.put

    def dies(*words):
        put(*words)
        raise StoreError("cut")

    monkeypatch.setattr(steps_module, "put", dies)
    with pytest.raises(StoreError):
        steps.append(step("n", "1", 0))
    assert steps.of("n", "1") == []
    assert len(outbox.due(["all"], 1e12, 9)) == 1
    steps.close()
