"""The usual call without a coroutine against the coroutine that is its specification: whatever the server does, the
caller is told the same, and breaker, ejection and counts are left the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
import uvloop
from raw_server import Peer, RawServer, Request, serving

from gateway import settings
from gateway.driven import Driven
from gateway.errors import TidegateError
from gateway.upstream import Upstream, attempts
from gateway.upstream.http_client import NotSent
from gateway.upstream.plan import CallPlan, Sending
from gateway.upstream.straight import Calls
from gateway.wire import by_heart
from gateway.wire.types import MAX_TENSORS

SERVER = b'{"name":"triton","version":"2.51.0","extensions":["binary_tensor_data"]}'
TENSOR = np.arange(3, dtype=np.float32).tobytes()
_ASKED = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
ASKED = json.dumps({"inputs": [_ASKED]}).encode()
_TOLD = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
TOLD = json.dumps({"model_name": "m", "model_version": "1", "outputs": [_TOLD]}).encode()
OTHER = TOLD.replace(b'"1"', b'"2"')


def page(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, more, len(body), body)


def answer(head: bytes = TOLD, more: bytes = b"") -> bytes:
    return page(head + TENSOR, more=b"inference-header-content-length: %d\r\n%b" % (len(head), more))


def error(message: bytes) -> bytes:
    return b'{"error":"%b"}' % message


GOOD = answer()
UNAVAILABLE = page(error(b"not now"), b"503 Service Unavailable")
SAYS: dict[str, list[bytes | None]] = {
    # What the server sends in turn; b"" closes the connection, None sends nothing.
    "good": [GOOD],
    "another HTTP head": [answer(more=b"date: today\r\n")],
    "another JSON head": [answer(OTHER)],
    "JSON head beyond the body": [page(TOLD, more=b"inference-header-content-length: 9999\r\n")],
    "length of the JSON head is no number": [page(TOLD, more=b"inference-header-content-length: x\r\n")],
    "JSON alone": [page(b'{"model_name":"m","outputs":[{"name":"O","datatype":"FP32","shape":[1],"data":[1]}]}')],
    "no OIP": [page(b"hello")],
    "cut": [GOOD[:50], GOOD[50:]],
    "cut in the body": [GOOD[:-5], GOOD[-5:]],
    "chunked": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    "surplus": [GOOD + b"x"],
    "connection: close": [answer(more=b"connection: close\r\n")],
    "bad request": [page(error(b"not so"), b"400 Bad Request")],
    "unknown model": [page(error(b"Request for unknown model: 'm' is not found"), b"404 Not Found")],
    "failed": [page(error(b"raised"), b"500 Internal Server Error")],
    "process ended": [page(error(b"Stub process 'm_0' is not healthy."), b"500 Internal Server Error")],
    "unavailable": [UNAVAILABLE],
    "queue full": [page(error(b"Exceeds maximum queue size"), b"503 Service Unavailable")],
    "no HTTP": [b"SSH-2.0\r\n"],
    "closed": [b""],
    "closed in the midst": [GOOD[:-5], b""],
    "silence": [None],
}


class Site:
    """A server; the next inference requests are answered by `script`, the rest well."""

    def __init__(self) -> None:
        self.script: list[list[bytes | None]] = []
        self.asked: list[Request] = []
        self.arrived = asyncio.Event()

    async def __call__(self, peer: Peer, state: RawServer) -> None:
        while True:
            request = await peer.request()
            if b"/infer " not in request.line:
                await peer.send(page(SERVER if request.line.startswith(b"GET /v2 ") else b"{}"))
                continue
            self.asked.append(request)
            says = self.script.pop(0) if self.script else [GOOD]
            self.arrived.set()
            for part in says:
                if part == b"":
                    return
                if part is None:
                    await peer.gone()
                    return
                await peer.send(part)
                await asyncio.sleep(0.01)


class Told:
    """The events that are counted."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_event(self, name: str, **labels: str) -> None:
        self.names.append(name)


def call(known: bool):
    """A call with a head that is known by heart, or of another door's."""
    made = by_heart.decode_request(ASKED + TENSOR, len(ASKED), "m", "", MAX_TENSORS)
    if not known:
        made.known, made.tail = None, b""
    return made


def straight(up: Upstream, plan: CallPlan, timeout: float, known: bool):
    return up.infer(call(known), model="m", version="", headers=[("x-request-id", "r")], timeout=timeout, plan=plan)


def coroutine(up: Upstream, plan: CallPlan, timeout: float, known: bool):
    return attempts.run(up, Sending(call(known), "m", "", [("x-request-id", "r")], plan), timeout)


class Task:
    """The call in a task."""

    def __init__(self, asking) -> None:
        async def run():
            return await asking

        self._task = asyncio.get_running_loop().create_task(run())
        self.cancel = self._task.cancel

    async def outcome(self):
        (found,) = await asyncio.gather(self._task, return_exceptions=True)
        return found


class Drive:
    """The call in a `Driven`, as the doors run it."""

    def __init__(self, asking) -> None:
        async def run():
            return await asking

        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._driven = Driven(
            loop, run(), lambda result, error: self._done.set_result(result if error is None else error)
        )
        loop.call_soon(self._driven.start)
        self.cancel = self._driven.cancel

    async def outcome(self):
        return await self._done


def plain(found):
    if isinstance(found, TidegateError):
        return type(found), found.message, found.status
    if isinstance(found, BaseException):
        return type(found)
    outputs = [(t.name, t.shape, bytes(t.data) if t.data is not None else t.json) for t in found.outputs]
    return found.model_name, found.model_version, outputs


@asynccontextmanager
async def started(site: Site, told: Told):
    async with serving(site) as server:
        up = Upstream("up", settings.Upstream(http=f"{server.host}:{server.port}"), counters=told)
        await up.start()
        try:
            yield up
        finally:
            await up.close()


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.002)


def what_happens(ask, runner, says, ends, *, known: bool, idempotent: bool):
    """All that can be seen of one call, after some good ones."""

    async def main():
        site, told = Site(), Told()
        async with started(site, told) as up:
            (replica,) = up.replicas
            for _ in range(3):
                await runner(ask(up, CallPlan(), 60, known)).outcome()
            served = replica.traffic.of("m")
            served.breaker.failures = replica.outlier.consecutive = 2  # that a success is told can be seen
            replica.outlier.requests = 0
            site.asked.clear()
            site.arrived.clear()
            told.names.clear()
            site.script = [says]
            plan = CallPlan(idempotent=idempotent)
            running = runner(ask(up, plan, 1.2 if says == [None] and not ends else 60, known))
            if ends:
                await until(site.arrived.is_set)
            if ends == "cancelled":
                running.cancel()
            elif ends in {"not sent", "broken"}:
                (connection,) = (one for one in replica._pool._connections if one._future is not None)
                if ends == "not sent":
                    connection._settle(NotSent())
                else:
                    connection._transport.abort()
            found = plain(await running.outcome())
            assert replica.in_flight == served.in_flight == 0
            after = (served.breaker.failures, served.breaker.closed, served.breaker.epoch)
            outlier = replica.outlier
            counted = (outlier.requests, outlier.consecutive, outlier.failed, outlier.out)
            seen = (plan.retries, plan.broken, plan.replica is replica, plan.hedge)
            sent = [
                (one.line, sorted(one.headers.keys() - {b"host"}), one.headers[b"content-length"], one.body)
                for one in site.asked
            ]
            events = sorted(name for name in told.names if name not in {"replica_up", "up"})
            again = plain(await runner(ask(up, CallPlan(), 60, known)).outcome())
            return found, after, counted, seen, [line[0] for line in sent], sent[:1], events, again

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(main())


@pytest.mark.parametrize("runner", [Task, Drive])
@pytest.mark.parametrize("says", SAYS)
def test_the_caller_is_told_the_same_whatever_the_server_says(says, runner):
    options = {"known": runner is Drive, "idempotent": True}
    expected = what_happens(coroutine, runner, SAYS[says], "", **options)
    assert what_happens(straight, runner, SAYS[says], "", **options) == expected


@pytest.mark.parametrize("says", ["unavailable", "closed", "process ended"])
def test_what_must_not_run_twice_does_not(says):
    expected = what_happens(coroutine, Drive, SAYS[says], "", known=True, idempotent=False)
    assert what_happens(straight, Drive, SAYS[says], "", known=True, idempotent=False) == expected


@pytest.mark.parametrize("runner", [Task, Drive])
@pytest.mark.parametrize("ends", ["cancelled", "not sent", "broken"])
def test_it_ends_the_same_when_it_is_ended(ends, runner):
    expected = what_happens(coroutine, runner, [None], ends, known=True, idempotent=True)
    assert what_happens(straight, runner, [None], ends, known=True, idempotent=True) == expected


def test_a_usual_call_runs_no_coroutine(monkeypatch):
    """Else all that is above would hold for nothing."""
    compiled = pytest.importorskip("gateway.upstream._straight_c")
    if Calls is not compiled.Calls:
        pytest.skip("TIDEGATE_NO_EXTENSIONS is set")
    runs = []

    def run(*arguments):
        runs.append(arguments)
        return attempts.run(*arguments)

    monkeypatch.setattr(compiled, "run", run)

    async def main():
        site = Site()
        async with started(site, Told()) as up:
            for known in (True, False):
                for _ in range(5):
                    await straight(up, CallPlan(), 60, known)
                runs.clear()
                for _ in range(5):
                    await straight(up, CallPlan(), 60, known)
                assert runs == []
            await straight(up, CallPlan(), 0.9, True)  # it needs a timer
            await straight(up, CallPlan(heeds_timeout=True), 60, True)
            site.script = [[answer(more=b"x-new: 1\r\n")]]
            await straight(up, CallPlan(), 60, True)
            assert len(runs) == 3

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


def test_a_call_that_is_never_awaited_sends_nothing():
    async def main():
        site = Site()
        async with started(site, Told()) as up:
            for _ in range(3):
                await straight(up, CallPlan(), 60, True)
            straight(up, CallPlan(), 60, True).close()
            await asyncio.sleep(0.01)
            assert len(site.asked) == 3
            assert up.replicas[0].in_flight == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


def test_many_at_a_time_get_their_own_answers():
    async def main():
        site = Site()
        async with started(site, Told()) as up:
            for _ in range(3):
                await straight(up, CallPlan(), 60, True)
            found = await asyncio.gather(*(straight(up, CallPlan(), 60, at % 2 == 0) for at in range(300)))
            assert {plain(one)[0] for one in found} == {"m"}
            (replica,) = up.replicas
            assert replica.in_flight == 0
            assert replica.outlier.requests >= 300

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())
