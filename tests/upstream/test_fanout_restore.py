"""Asking every replica, and bringing one that came back to what was asked: decided on replicas that do as told."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest

from gateway.errors import BadGateway, DeadlineExceeded, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream import fanout, restore
from gateway.upstream.desired import Wanted
from gateway.upstream.http_response import Response
from gateway.upstream.journal import pending
from gateway.upstream.restore import TRIES, Desired

LOAD = Wanted("model", "m", "load", {"parameters": {"config": "{}"}})


def in_a_loop(test):
    """Runs a coroutine test."""

    @functools.wraps(test)
    def run(*args, **named):
        asyncio.run(test(*args, **named))

    return run


class Told:
    """Counts events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_event(self, event: str, **_) -> None:
        self.events.append(event)


class Server:
    """A replica that answers pages as it is told; its faults are those that a real one cannot be made to have."""

    def __init__(self, number: int = 0, upstream: str = "fleet") -> None:
        self.name, self.number, self.label = upstream, number, f"{upstream}[{number}]"
        self.life_key, self.life, self.usable = number + 1, 1, True
        self.asked: list[str] = []
        self.faults: list[TidegateError | int] = []
        """Of the next requests, one each: raised, or the status."""
        self.delay = 0.0

    async def control(self, _method, page, _headers=(), _body=b"", _timeout=0.0) -> Response:
        await asyncio.sleep(self.delay)
        if page.endswith("/index"):
            return Response(200, (), b"[]")
        self.asked.append(page)
        fault = self.faults.pop(0) if self.faults else 200
        if isinstance(fault, int):
            text = b"" if fault == 200 else json.dumps({"error": "not so"}).encode()
            return Response(fault, ((b"content-type", b"application/json"),), text)
        raise fault

    def forget_model(self, _name) -> None:
        pass


class Upstream:
    """A name and its replicas."""

    def __init__(self, name: str, *replicas: Server) -> None:
        self.name, self.replicas = name, replicas


def fleet(count: int, name: str = "fleet") -> Upstream:
    return Upstream(name, *(Server(number, name) for number in range(count)))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(restore, "_FIRST_PAUSE", 0.01)


# -- asking ------------------------------------------------------------------------------------------------------


def test_who_is_asked():
    assert [one.label for one in fanout.targets([fleet(1), fleet(2, "b"), Upstream("none")])] == [
        "fleet",
        "b[0]",
        "b[1]",
        "none",
    ]
    some = fleet(3)
    some.replicas[1].usable = False
    assert [one.label for one in fanout.serving(some)] == ["fleet[0]", "fleet[2]"]
    for one in some.replicas:
        one.usable = False
    assert len(fanout.serving(some)) == 3, "all, when none serves"
    assert fanout.read_timeout(some.replicas[0], 30) == fanout.DOWN_TIMEOUT
    assert fanout.read_timeout(fleet(1).replicas[0], 30) == 30
    down = fanout.targets([some])[0]
    assert fanout.change_timeout(down, some.replicas[0], 30) == 30, "nobody else is up"
    some.replicas[1].usable = True
    assert fanout.change_timeout(down, some.replicas[0], 30) == fanout.DOWN_TIMEOUT
    assert fanout.change_timeout(down, some.replicas[1], 30) == 30


def answered(status: int) -> UpstreamAnswered:
    return UpstreamAnswered("its own words", status=status)


AWAY = Unreachable("not reached", detail="127.0.0.1:9", sent=False)
LATE = DeadlineExceeded("too late", detail="127.0.0.1:9")


@pytest.mark.parametrize(
    ("done", "failed", "kind", "status", "text"),
    [
        (0, [answered(400), answered(400)], UpstreamAnswered, 400, "its own words"),
        (0, [answered(400), answered(404)], BadGateway, 502, "0 of 2 replicas did it; f[0] did not: its own words"),
        (0, [AWAY, AWAY], Unreachable, 503, "not reached"),
        (0, [AWAY, LATE], Unreachable, 503, "0 of 2 replicas did it; f[0] did not: not reached; f[1] did not: too"),
        (0, [AWAY, answered(400)], UpstreamAnswered, 400, "its own words"),
        (0, [AWAY, answered(500)], BadGateway, 502, "0 of 2"),
        (1, [answered(400)], BadGateway, 502, "1 of 2 replicas did it; f[0] did not: its own words"),
        (2, [AWAY], Unreachable, 503, "2 of 3 replicas did it; f[0] did not: not reached"),
        (1, [AWAY, answered(500)], BadGateway, 502, "1 of 3"),
    ],
)
def test_what_is_said_of_failures(done, failed, kind, status, text):
    told: fanout.Told[int] = fanout.Told()
    told.done = {f"g[{at}]": at for at in range(done)}
    told.failed = {f"f[{at}]": error for at, error in enumerate(failed)}
    error = told.failure()
    assert type(error) is kind
    assert error.status == status
    assert error.message.startswith(text)
    assert "127.0.0.1" not in error.message
    told.differs = ["g[0]", "g[0]"]
    refused = [label for label, each in told.failed.items() if isinstance(each, UpstreamAnswered) and each.status < 500]
    partial = [label for label in told.failed if label not in refused]
    said = told.said()
    assert said.get(fanout.PARTIAL, "") == ", ".join(partial)
    assert said[fanout.DIFFERS] == ", ".join(["g[0]", *refused])


@in_a_loop
async def test_all_answers_are_awaited_also_beside_a_defect():
    answers = []

    async def ask(target, replica):
        if replica.number == 0:
            raise ZeroDivisionError
        await asyncio.sleep(0.02)
        if replica.number == 1:
            raise AWAY
        answers.append(target.label)
        return target.label

    several = fleet(3)
    with pytest.raises(ZeroDivisionError):
        await fanout.ask_each(fanout.targets([several]), ask)
    assert answers == ["fleet[2]"]
    told = await fanout.read([*fanout.targets([several])[1:], *fanout.targets([Upstream("none")])], ask)
    assert told.done == {"fleet[2]": "fleet[2]"}
    assert list(told.failed) == ["fleet[1]", "none"]
    with pytest.raises(Unreachable):
        await fanout.read(fanout.targets([Upstream("none")]), ask)


def test_which_upstreams_have_a_model():
    a, b = fleet(2, "a"), fleet(1, "b")
    asked = fanout.targets([a, b])
    told: fanout.Told[list] = fanout.Told()
    told.done = {"a[0]": [], "b": [{"name": "m"}]}
    told.failed = {"a[1]": AWAY}
    assert fanout.having([a, b], asked, told, "m") == [b]
    assert fanout.having([a, b], asked, told, "unknown") == [a], "Triton says so in its words"
    told.done.pop("a[0]")
    told.failed["a[0]"] = AWAY
    with pytest.raises(Unreachable):
        fanout.having([a, b], asked, told, "m")


# -- changes are recorded -----------------------------------------------------------------------------------------


async def change(desired, upstreams, *, wanted=LOAD, delay=0.0, failing=()):
    async def ask(target, replica):
        await asyncio.sleep(delay)
        if replica.number in failing:
            raise AWAY
        replica.asked.append(target.label)

    return await fanout.change(fanout.targets(upstreams), ask, desired=desired, wanted=lambda: wanted)


def waits(desired: Desired, replica: Server) -> list[str]:
    journal = desired.journal
    return [one.verb for one in pending(journal.entries(replica.name), journal.mark(replica.life_key, replica.life))]


@in_a_loop
async def test_what_some_did_is_recorded_for_those_that_did(tmp_path):
    told = Told()
    desired = Desired(tmp_path / "d", told)
    one, single = fleet(3), Upstream("single", Server(9, "single"))
    with pytest.raises(Unreachable, match=r"3 of 4 replicas did it; fleet\[1\] did not"):
        await change(desired, [one, single], failing={1})
    assert told.events == ["fanout_partial"]
    assert [waits(desired, replica) for replica in one.replicas] == [[], ["load"], []]
    assert waits(desired, single.replicas[0]) == []
    with pytest.raises(Unreachable):
        await change(desired, [one], wanted=Wanted("model", "n", "load", {}), failing={0, 1, 2})
    assert len(desired.journal.entries("fleet")) == 1, "what none did is not wanted"


@in_a_loop
async def test_what_none_did_is_not_recorded(tmp_path):
    desired = Desired(tmp_path / "d")
    with pytest.raises(Unreachable):
        await change(desired, [fleet(2)], failing={0, 1})
    assert desired.journal.empty


@in_a_loop
async def test_a_change_goes_on_when_its_client_leaves(tmp_path):
    desired = Desired(tmp_path / "d")
    one = fleet(2)
    client = asyncio.create_task(change(desired, [one], delay=0.05))
    await asyncio.sleep(0.01)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    await asyncio.gather(*desired._tasks)
    assert [replica.asked for replica in one.replicas] == [["fleet[0]"], ["fleet[1]"]]
    assert [waits(desired, replica) for replica in one.replicas] == [[], []]


@in_a_loop
async def test_changes_of_one_thing_come_one_after_another_over_workers(tmp_path):
    """Each replica must have seen them in one order: else the last one that was recorded is not what is there."""
    a, b = Desired(tmp_path / "d"), Desired(tmp_path / "d")
    order: list[tuple[str, str]] = []
    one = fleet(2)

    async def by(desired: Desired, verb: str) -> None:
        async def ask(target, replica):
            await asyncio.sleep(0.01 * (replica.number if verb == "load" else 1 - replica.number))
            order.append((target.label, verb))

        wanted = Wanted("model", "m", verb, {})
        await fanout.change(fanout.targets([one]), ask, desired=desired, wanted=lambda: wanted)

    await asyncio.gather(*(by((a, b)[at % 2], ("load", "unload")[at % 2]) for at in range(6)))
    for label in ("fleet[0]", "fleet[1]"):
        assert [verb for who, verb in order if who == label] == [verb for who, verb in order if who == "fleet[0]"]
    assert order[-1][1] == a.journal.entries("fleet")[0].verb


# -- restoring ----------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_life_is_brought_to_it_once(tmp_path):
    told = Told()
    a, b = Desired(tmp_path / "d", told), Desired(tmp_path / "d", told)
    one = fleet(2)
    await change(a, [one])
    replica = one.replicas[1]
    replica.asked.clear()
    await a.restore(replica)
    assert replica.asked == [], "it did it in this life"
    replica.life += 1
    replica.delay = 0.02
    await asyncio.gather(a.restore(replica), b.restore(replica), b.restore(replica))
    assert replica.asked == [LOAD.target]
    assert told.events == ["restored"]
    replica.life += 1
    await b.restore(replica)
    assert replica.asked == [LOAD.target] * 2


@in_a_loop
async def test_what_is_asked_during_a_restore_is_done_by_its_end(tmp_path):
    desired = Desired(tmp_path / "d")
    one = fleet(2)
    await change(desired, [one])
    replica = one.replicas[1]
    replica.life += 1
    replica.asked.clear()
    replica.delay = 0.05
    restoring = asyncio.create_task(desired.restore(replica))
    await asyncio.sleep(0.02)
    other = Wanted("model", "n", "load", {})
    with pytest.raises(Unreachable):
        await change(desired, [one], wanted=other, failing={1})
    await restoring
    assert replica.asked == [LOAD.target, other.target]
    assert waits(desired, replica) == []


@in_a_loop
async def test_what_is_refused_is_tried_and_told_and_left(tmp_path):
    told = Told()
    desired = Desired(tmp_path / "d", told)
    one = fleet(2)
    await change(desired, [one])
    replica = one.replicas[1]
    replica.life += 1
    replica.asked.clear()
    replica.faults = [400] * TRIES
    await desired.restore(replica)
    assert len(replica.asked) == TRIES
    assert told.events == ["restore_refused"]
    assert desired.unrestored(replica) == {"model m": "not so"}
    await desired.restore(replica)
    assert len(replica.asked) == TRIES, "once in a life"
    await change(desired, [one])
    assert desired.unrestored(replica) == {}, "asked anew and done"


@pytest.mark.parametrize("fault", [AWAY, 503])
@in_a_loop
async def test_what_cannot_be_done_now_keeps_it_away_and_is_tried_again_later(tmp_path, fault):
    told = Told()
    desired = Desired(tmp_path / "d", told)
    one = fleet(2)
    await change(desired, [one])
    replica = one.replicas[1]
    replica.life += 1
    replica.asked.clear()
    replica.faults = [fault]
    with pytest.raises(TidegateError) as first:
        await desired.restore(replica)
    with pytest.raises(TidegateError) as second:
        await desired.restore(replica)
    assert second.value is first.value
    assert len(replica.asked) == 1, "not again before its pause is over"
    await asyncio.sleep(0.02)
    await desired.restore(replica)
    assert len(replica.asked) == 2
    assert told.events == ["restore_failed", "restored"]


@in_a_loop
async def test_one_refusal_amid_the_tries_is_no_refusal(tmp_path):
    desired = Desired(tmp_path / "d")
    one = fleet(2)
    await change(desired, [one])
    replica = one.replicas[1]
    replica.life += 1
    replica.faults = [500]
    await desired.restore(replica)
    assert desired.unrestored(replica) == {}
    assert waits(desired, replica) == []
