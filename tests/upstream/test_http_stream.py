"""Streamed responses: order, back-pressure, and every way to leave."""

from __future__ import annotations

import asyncio
import time

import pytest
from raw_server import serving

from gateway.errors import BadGateway, DeadlineExceeded, TooLarge, Unreachable
from gateway.upstream.http_stream import HIGH_WATER
from gateway.upstream.pool import Pool

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def events_of(count: int, pause: float, sent: list[int], *, size: int = 0):
    """Serve `count` events with pauses; `sent` takes what got out."""

    async def script(peer, state):
        while True:
            state.requests.append(await peer.request())
            await peer.send(HEAD)
            for n in range(count):
                await peer.send(chunk(b"data: %d\n\n" % n + b"x" * size))
                sent.append(n)
                if pause:
                    await asyncio.sleep(pause)
            await peer.send(END)

    return script


def pool_of(server, events=None):
    return Pool(server.host, server.port, connections=2, name="up", counters=events)


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.01)


def test_events_come_as_they_are_sent_and_the_connection_is_used_again(run):
    async def main():
        async with serving(events_of(5, 0.02, [])) as server:
            pool = pool_of(server)
            for _ in range(2):
                stream = await pool.stream("POST", "/generate_stream", b"", [b"{}"], timeout=60)
                assert stream.status == 200
                assert stream.header(b"content-type") == b"text/event-stream"
                times = []
                got = b""
                async with stream:
                    async for data in stream:
                        times.append(time.monotonic())
                        got += data
                assert got == b"".join(b"data: %d\n\n" % n for n in range(5))
                assert times[-1] - times[0] > 0.05, "not all at once at the end"
            assert len(server.peers) == 1
            assert pool.idle == 1
            await pool.close()

    run(main())


def test_a_slow_reader_holds_the_server_back(run):
    sent: list[int] = []

    async def main():
        async with serving(events_of(2000, 0, sent, size=32_768)) as server:
            pool = pool_of(server)
            stream = await pool.stream("GET", "/", b"", timeout=60)
            await anext(stream)
            await asyncio.sleep(0.4)
            assert stream._waiting_bytes < HIGH_WATER + 2 * 1024 * 1024
            assert len(sent) < 1000, "the server must not have got rid of all"
            total = 0
            async for data in stream:
                total += len(data)
            assert total > 1900 * 32_768
            assert (await pool.stream("GET", "/", b"", timeout=60)).status == 200
            await pool.close()

    run(main())


def test_closing_reaches_the_server_and_gives_the_place_on(run, events):
    sent: list[int] = []

    async def main():
        async with serving(events_of(1000, 0.01, sent)) as server:
            pool = pool_of(server, events)
            async with await pool.stream("GET", "/", b"", timeout=60) as stream:
                await anext(stream)
            await until(lambda: pool.open == 0)
            count = len(sent)
            await asyncio.sleep(0.1)
            assert len(sent) <= count + 2
            await pool.close()
        assert events["abandon"] == 1

    run(main())


def test_detached_is_read_to_the_end(run, events):
    sent: list[int] = []

    async def main():
        async with serving(events_of(30, 0.01, sent)) as server:
            pool = pool_of(server, events)
            async with await pool.stream("GET", "/", b"", timeout=60) as stream:
                await anext(stream)
                stream.detach()
            assert pool.open == 1
            await until(lambda: pool.idle == 1)
            assert len(sent) == 30
            assert len(server.peers) == 1
            await pool.close()
        assert events.names == ["connect", "detach", "drained"]

    run(main())


def test_detached_while_held_back(run, events):
    sent: list[int] = []

    async def main():
        async with serving(events_of(300, 0, sent, size=32_768)) as server:
            pool = pool_of(server, events)
            stream = await pool.stream("GET", "/", b"", timeout=60)
            await asyncio.sleep(0.2)
            stream.detach()
            await until(lambda: pool.idle == 1)
            assert len(sent) == 300
            await pool.close()
        assert events["drained"] == 1

    run(main())


@pytest.mark.parametrize("limits", [{"limit": 100, "seconds": 60}, {"limit": 10**9, "seconds": 0.1}])
def test_detached_is_cut_at_its_limit(run, events, limits):
    sent: list[int] = []

    async def main():
        async with serving(events_of(1000, 0.01, sent, size=30)) as server:
            pool = pool_of(server, events)
            stream = await pool.stream("GET", "/", b"", timeout=60)
            stream.detach(**limits)
            await until(lambda: pool.open == 0)
            assert len(sent) < 900
            await pool.close()
        assert events.names == ["connect", "detach", "drain_cut"]

    run(main())


def test_time_between_two_chunks(run):
    async def script(peer, state):
        await peer.request()
        await peer.send(HEAD + chunk(b"one"))
        await peer.gone()

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            stream = await pool.stream("GET", "/", b"", timeout=0.2)
            assert await anext(stream) == b"one"
            await asyncio.sleep(0.3)  # time in which nobody waits does not count
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await anext(stream)
            assert time.monotonic() - began > 0.15
            await stream.aclose()
            await until(lambda: pool.open == 0)
            await pool.close()

    run(main())


@pytest.mark.parametrize("rest, error", [(b"", Unreachable), (b"zz\r\n", BadGateway), (b"5\r\nab", Unreachable)])
def test_broken_in_the_middle(run, rest, error):
    async def script(peer, state):
        await peer.request()
        await peer.send(HEAD + chunk(b"one"))
        await asyncio.sleep(0.05)
        await peer.send(rest)

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            stream = await pool.stream("GET", "/", b"", timeout=60)
            got = [await anext(stream)]
            with pytest.raises(error):
                while True:
                    got.append(await anext(stream))
            assert b"".join(got).startswith(b"one")
            await stream.aclose()
            await until(lambda: pool.open == 0)
            await pool.close()

    run(main())


def test_broken_before_the_head(run):
    async def script(peer, state):
        await peer.request()

    async def main():
        async with serving(script) as server:
            pool = pool_of(server)
            with pytest.raises(Unreachable):
                await pool.stream("GET", "/", b"", timeout=60)
            assert pool.open == 0
            await pool.close()

    run(main())


def test_cancelled_before_the_head(run, events):
    closed = []

    async def script(peer, state):
        state.requests.append(await peer.request())
        closed.append(await peer.gone())

    async def main():
        async with serving(script) as server:
            pool = pool_of(server, events)
            task = asyncio.create_task(pool.stream("GET", "/", b"", timeout=60))
            await until(lambda: server.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: closed)
            assert pool.open == 0
            await pool.close()

    run(main())


def test_reading_whole_with_a_limit(run):
    async def main():
        async with serving(events_of(10, 0, [])) as server:
            pool = pool_of(server)
            stream = await pool.stream("GET", "/", b"", timeout=60)
            assert len(await stream.read(1000)) == 90
            stream = await pool.stream("GET", "/", b"", timeout=60)
            with pytest.raises(TooLarge):
                await stream.read(20)
            await pool.close()

    run(main())
