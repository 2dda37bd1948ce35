"""The pool against servers that close, hang, answer early or lie, over real sockets and on both event loops."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from contextlib import suppress

import pytest
from raw_server import answering, once, serving

from gateway.errors import BadGateway, DeadlineExceeded, Unreachable
from gateway.upstream import pool as pool_module
from gateway.upstream.http_head import header_block
from gateway.upstream.pool import Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def pool_of(server, events=None, connections=4):
    return Pool(server.host, server.port, connections=connections, name="up", counters=events)


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.005)


def test_what_is_written_and_read(run, events):
    async def main():
        async with serving(answering(OK)) as server:
            pool = pool_of(server, events)
            big = bytes(range(256)) * 40_000
            response = await pool.request(
                "POST", "/v2/models/m/infer", [("x-a", "1")], [b"{}", memoryview(big)[5:]], timeout=5
            )
            assert (response.status, response.body) == (200, b"ok")
            assert response.header(b"content-type") == b"text/plain"
            assert response.header(b"x-none") is None
            await pool.request("GET", "/v2", header_block([("x-b", "2")]), timeout=60)
            await pool.request("POST", "/v2", b"", timeout=60)
            post, get, empty = server.requests
            assert post.line == b"POST /v2/models/m/infer HTTP/1.1"
            assert post.headers == {
                b"host": b"127.0.0.1:%d" % server.port, b"x-a": b"1", b"content-length": b"%d" % (len(big) - 3)
            }  # fmt: skip
            assert post.body == b"{}" + big[5:]
            assert get.headers == {b"host": b"127.0.0.1:%d" % server.port, b"x-b": b"2"}
            assert empty.headers[b"content-length"] == b"0"
            assert len(server.peers) == 1, "a kept-alive connection is used again"
            await pool.close()
            assert pool.open == 0
        assert events.names == ["connect"]

    run(main())


def test_large_responses(run):
    body = random.Random(1).randbytes(9_000_000)

    async def main():
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with serving(answering(head + body)) as server:
            pool = pool_of(server)
            for _ in range(3):  # the head is new, then known
                assert (await pool.request("GET", "/", b"", timeout=60)).body == body
            assert len(server.peers) == 1
            await pool.close()

    run(main())


def test_ipv6_and_names(run):
    async def main():
        async with serving(answering(OK), "::1") as server:
            pool = pool_of(server)
            assert (await pool.request("GET", "/", b"", timeout=60)).status == 200
            assert server.requests[0].headers[b"host"] == b"[::1]:%d" % server.port
            await pool.close()
        async with serving(answering(OK)) as server:
            pool = Pool("localhost", server.port, connections=1)
            assert (await pool.request("GET", "/", b"", timeout=60)).status == 200
            await pool.close()

    run(main())


def test_nobody_listens(run, events):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    async def main():
        pool = Pool("127.0.0.1", port, connections=1, counters=events)
        for _ in range(3):
            with pytest.raises(Unreachable) as caught:
                await pool.request("GET", "/", b"", timeout=60)
            assert str(port) not in caught.value.message
            assert str(port) in caught.value.detail
        assert pool.open == 0
        pool = Pool("no-such-host.invalid", 80, connections=1, counters=events)
        with pytest.raises((Unreachable, DeadlineExceeded)):
            await pool.request("GET", "/", b"", timeout=60)
        pool = Pool("x" * 70 + ".invalid", 80, connections=1, counters=events)
        with pytest.raises(Unreachable):
            await pool.request("GET", "/", b"", timeout=60)

    run(main())
    assert events["connect_failed"] == 5


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
                                  b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"])  # fmt: skip
def test_a_server_that_breaks_off_is_unreachable_and_asked_once(run, sent):
    async def main():
        async with serving(once(sent)) as server:
            pool = pool_of(server)
            with pytest.raises(Unreachable):
                await pool.request("POST", "/", b"", [b"x"], timeout=60)
            assert len(server.requests) == 1
            assert pool.open == 0
            await pool.close()

    run(main())


def test_garbage_and_then_a_good_answer(run):
    async def script(peer, state):
        await peer.request()
        await peer.send(b"\x16\x03\x01\x02\x00" if peer.number == 0 else OK)
        await peer.gone()

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, connections=1)
            with pytest.raises(BadGateway):
                await pool.request("GET", "/", b"", timeout=60)
            assert (await pool.request("GET", "/", b"", timeout=60)).body == b"ok"
            await pool.close()

    run(main())


# -- connections that the server closes between two requests -------------------------------------------------


def test_a_connection_closed_while_idle_is_not_used(run, events):
    async def main():
        async with serving(once(OK)) as server:
            pool = pool_of(server, events)
            for _ in range(3):
                assert (await pool.request("POST", "/", b"", [b"x"], timeout=60)).status == 200
                await until(lambda: pool.idle == 0)
            assert len(server.requests) == 3
            assert pool.open == 0
            await pool.close()
        assert events["resend"] == 0

    run(main())


@pytest.mark.parametrize("how, probe", [("fin", True), ("fin", False), ("reset", True)])
def test_a_connection_closed_in_the_same_moment_is_resent_once(run, events, monkeypatch, probe, how):
    """The server closes; the client's loop has not seen that. Nothing can have run: it is served on a fresh one.

    With the probe the close is seen before anything is written; without it the request is written and lost.
    """
    monkeypatch.setattr(pool_module, "PROBE_AFTER", -1.0 if probe else 1e9)
    left: list[socket.socket] = []

    async def main():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(5)
        loop = asyncio.get_running_loop()
        pool = Pool("127.0.0.1", listener.getsockname()[1], connections=2, counters=events)

        def serve_one():
            conn, _ = listener.accept()
            conn.settimeout(5)
            got = b""
            while b"body" not in got:
                got += conn.recv(65536)
            conn.sendall(OK)
            return conn

        async def one():
            return await pool.request("POST", "/", b"", [b"body"], timeout=60)

        first, conn = await asyncio.gather(one(), loop.run_in_executor(None, serve_one))
        assert first.status == 200
        assert pool.idle == 1
        if how == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        conn.close()
        server = loop.run_in_executor(None, serve_one)
        time.sleep(0.05)  # noqa: ASYNC251 - the close must be there and this loop must not have seen it
        second = await one()
        left.append(await server)
        assert second.status == 200
        await pool.close()
        listener.close()

    run(main())
    left[0].close()
    assert events["resend"] == (0 if probe else 1)
    assert events["connect"] == 2


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_request_that_the_server_took_is_never_resent(run, events, how):
    async def script(peer, state):
        state.requests.append(await peer.request())
        await peer.send(OK)
        state.requests.append(await peer.request())
        if how == "reset":
            peer.reset()

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, events)
            assert (await pool.request("POST", "/", b"", [b"1"], timeout=60)).status == 200
            with pytest.raises(Unreachable):
                await pool.request("POST", "/", b"", [b"2"], timeout=60)
            assert [r.body for r in server.requests] == [b"1", b"2"]
            await pool.close()
        assert events["resend"] == 0

    run(main())


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.15, 1.1])
def test_timeouts_close_the_connection(run, timeout):
    closed = []

    async def script(peer, state):
        await peer.request()
        closed.append(await peer.gone())

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await pool.request("GET", "/", b"", timeout=timeout)
            assert time.monotonic() - began >= timeout - 0.01  # uvloop's timers have whole ms
            await until(lambda: closed)
            assert pool.open == 0
            await pool.close()

    run(main())


def test_a_slow_trickle_does_not_extend_the_time(run):
    async def script(peer, state):
        await peer.request()
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.01)

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await pool.request("GET", "/", b"", timeout=0.3)
            assert time.monotonic() - began < 8, "the trickle lasts for ten seconds"
            await pool.close()

    run(main())


def test_waiting_for_a_connection_counts_and_is_fair(run):
    release: list[asyncio.Event] = []

    async def script(peer, state):
        while True:
            state.requests.append(await peer.request())
            await release[0].wait()
            await peer.send(OK)

    async def main():
        release.append(asyncio.Event())
        async with serving(script) as server:
            pool = pool_of(server, connections=1)
            order: list[int] = []

            async def one(n):
                await pool.request("GET", f"/{n}", b"", timeout=60)
                order.append(n)

            tasks = []
            for n in range(6):
                tasks.append(asyncio.create_task(one(n)))
                await asyncio.sleep(0)
            with pytest.raises(DeadlineExceeded):
                await pool.request("GET", "/late", b"", timeout=0.05)
            tasks[2].cancel()  # a waiter that goes away does not keep its turn
            await asyncio.sleep(0)
            assert pool.waiting == 4
            release[0].set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert order == [0, 1, 3, 4, 5]
            assert [r.line.split()[1] for r in server.requests] == [b"/0", b"/1", b"/3", b"/4", b"/5"]
            assert len(server.peers) == 1
            await pool.close()

    run(main())
    release.clear()


def test_cancelling_closes_the_connection_and_gives_the_place_on(run, events):
    closed = []

    async def script(peer, state):
        state.requests.append(await peer.request())
        if peer.number == 0:
            closed.append(await peer.gone())
        else:
            await peer.send(OK)
            await peer.gone()

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, events, connections=1)
            task = asyncio.create_task(pool.request("GET", "/", b"", timeout=60))
            await until(lambda: server.requests)
            waiting = asyncio.create_task(pool.request("GET", "/", b"", timeout=60))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await waiting).status == 200
            await until(lambda: closed)
            await pool.close()
        assert events["abandon"] == 1

    run(main())


def test_nothing_leaks_however_callers_end(run):
    """Random answers, breaks, timeouts and cancellations; afterwards all places are free and the pool works."""
    dice = random.Random(7)

    async def script(peer, state):
        while True:
            state.requests.append(await peer.request())
            fate = dice.random()
            if fate < 0.1:
                return
            if fate < 0.15:
                peer.reset()
                return
            if fate < 0.2:
                await peer.send(b"garbage\r\n\r\n")
                return
            if fate < 0.3:
                await asyncio.sleep(dice.random() * 0.1)
            await peer.send(OK if fate < 0.9 else OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, connections=5)
            outcomes: dict[str, int] = {}

            async def caller():
                for _ in range(25):
                    task = asyncio.create_task(pool.request("POST", "/", b"", [b"x"], timeout=dice.choice([0.03, 2])))
                    if dice.random() < 0.2:
                        await asyncio.sleep(dice.random() * 0.02)
                        task.cancel()
                    try:
                        outcome = str((await task).status)
                    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every end is counted
                        outcome = type(error).__name__
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

            await asyncio.gather(*(caller() for _ in range(20)))
            assert sum(outcomes.values()) == 500
            assert set(outcomes) == {"200", "Unreachable", "BadGateway", "DeadlineExceeded", "CancelledError"}
            assert pool.waiting == 0
            await until(lambda: pool.open == pool.idle <= 5)
            for _ in range(20):
                with suppress(Unreachable, BadGateway):
                    await pool.request("GET", "/", b"", timeout=2)
            await pool.close()
            assert pool.open == 0

    run(main())


# -- ends ----------------------------------------------------------------------------------------------------


def test_an_early_answer_ends_the_connection(run):
    async def script(peer, state):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.sleep(0.2)

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            response = await pool.request("POST", "/", b"", [bytes(30_000_000)], timeout=60)
            assert (response.status, response.body) == (413, b"big")
            assert pool.idle == 0
            await until(lambda: pool.open == 0)
            await pool.close()

    run(main())


def test_idle_connections_are_closed_after_a_while(run, monkeypatch):
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.2)

    async def main():
        async with serving(answering(OK)) as server:
            pool = pool_of(server)
            await asyncio.gather(*(pool.request("GET", "/", b"", timeout=60) for _ in range(3)))
            assert pool.idle == 3
            for _ in range(6):  # last in, first out: one stays in use, the others age
                await asyncio.sleep(0.06)
                await pool.request("GET", "/", b"", timeout=60)
            assert pool.open == 1
            await until(lambda: pool.open == 0)
            assert len(server.peers) == 3
            await pool.close()

    run(main())


def test_close_drains_then_cuts(run):
    async def script(peer, state):
        request = await peer.request()
        await asyncio.sleep(0.2 if request.line.startswith(b"GET /quick") else 30)
        await peer.send(OK)

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, connections=2)
            quick = asyncio.create_task(pool.request("GET", "/quick", b"", timeout=60))
            slow = asyncio.create_task(pool.request("GET", "/slow", b"", timeout=60))
            queued = asyncio.create_task(pool.request("GET", "/quick/queued", b"", timeout=60))
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(pool.close(drain=3.0))
            await asyncio.sleep(0.05)
            with pytest.raises(Unreachable, match="shutting down"):
                await pool.request("GET", "/", b"", timeout=60)
            assert (await quick).status == 200
            assert (await queued).status == 200
            began = time.monotonic()
            with pytest.raises(Unreachable, match="shutting down"):
                await slow
            assert time.monotonic() - began < 20, "the answer comes after thirty seconds"
            await closing
            assert pool.open == 0

    run(main())
