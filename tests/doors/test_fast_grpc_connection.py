"""Connections of the nghttp2 engine on real sockets, with handlers of the test's own: what clients are cut for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

from h2_frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HELLO,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    frame,
    frames,
    head,
    message,
    window,
)

from gateway.doors.fast_grpc_connection import Connection
from gateway.doors.grpc_call import Call, Method
from gateway.settings import Limits
from gateway.wire._http2_c import load

load()
QUICK = Limits(header_timeout=0.3, send_timeout=0.3)


async def echo(call: Call, request: bytes) -> bytes:
    await call.begin((("x-request-id", "r"),))
    return request


async def pour(call: Call) -> None:
    """Answers without end."""
    await call.begin(())
    while True:
        await call.write(bytes(10_000))


METHODS = {"/s/Echo": Method(unary=echo), "/s/Pour": Method(streaming=pour)}


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.data = b""

    async def until(self, kind: int, stream: int = 0) -> bytes:
        """The payload of the next frame of a kind."""
        while True:
            size = int.from_bytes(self.data[:3])
            while len(self.data) < 9 or len(self.data) < 9 + size:
                piece = await self.reader.read(65536)
                assert piece, "the connection ended before"
                self.data += piece
                size = int.from_bytes(self.data[:3])
            one, self.data = self.data[: 9 + size], self.data[9 + size :]
            ((found, _, at, payload),) = frames(one)
            if (found, at) == (kind, stream):
                return payload

    async def end(self) -> None:
        """The server closes the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is looked at sets no event
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def connected(
    limits: Limits = QUICK, hello: bytes = HELLO, receive: int = 0
) -> AsyncIterator[tuple[Client, set[Connection]]]:
    """A client, with a receive buffer of so many bytes, and the connections that are there."""
    there: set[Connection] = set()
    door = SimpleNamespace(
        limits=limits, age=0, methods=METHODS, admit=lambda one: there.add(one) is None, forget=there.discard
    )
    server = await asyncio.get_running_loop().create_server(lambda: Connection(door), "127.0.0.1", 0)
    made = socket.socket()
    if receive:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, server.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=made)
    writer.write(hello)
    try:
        yield Client(reader, writer), there
    finally:
        writer.close()
        server.close()
        await until(lambda: not there)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def test_a_call():
    async def scenario():
        async with connected() as (client, _):
            client.writer.write(head(1, path="/s/Echo") + frame(DATA, END_STREAM, 1, message(b"hello")))
            assert await client.until(DATA, 1) == message(b"hello")

    run(scenario)


def test_a_call_whose_window_stays_shut_is_cut_and_others_are_served():
    async def scenario():
        async with connected() as (client, _):
            client.writer.write(head(1, path="/s/Pour"))
            assert await client.until(RST, 1) == b"\0\0\0\x08"
            client.writer.write(frame(8, 0, 0, (1 << 20).to_bytes(4)))
            client.writer.write(head(3, path="/s/Echo") + frame(DATA, END_STREAM, 3, message(b"still")))
            assert await client.until(DATA, 3) == message(b"still")

    run(scenario)


def test_a_call_whose_window_opens_by_a_little_at_a_time_is_cut_and_others_are_served():
    async def scenario():
        async with connected() as (client, there):
            client.writer.write(head(1, path="/s/Pour") + window(0, 1 << 20))
            await until(lambda: there)
            (connection,) = there
            await until(lambda: 1 in connection.session.calls)
            while 1 in connection.session.calls:
                client.writer.write(window(1, 1))
                await asyncio.sleep(0.01)
            assert await client.until(RST, 1) == b"\0\0\0\x08"
            client.writer.write(head(3, path="/s/Echo") + frame(DATA, END_STREAM, 3, message(b"still")))
            assert await client.until(DATA, 3) == message(b"still")

    run(scenario)


def test_calls_that_wait_are_judged_however_often_the_transport_was_full_meanwhile():
    async def scenario():
        async with connected() as (client, there):
            client.writer.write(head(1, path="/s/Pour") + window(0, 1 << 20))
            await until(lambda: there)
            (connection,) = there
            await until(lambda: 1 in connection.session.calls)
            while 1 in connection.session.calls:
                connection.pause_writing()
                await asyncio.sleep(0.01)
                connection.resume_writing()
            assert await client.until(RST, 1) == b"\0\0\0\x08"

    run(scenario)


def test_a_call_whose_client_takes_enough_goes_on():
    limits = Limits(header_timeout=10, send_timeout=0.5)

    async def scenario():
        async with connected(limits) as (client, there):
            client.writer.write(head(1, path="/s/Pour"))
            over = asyncio.get_running_loop().time() + 4 * limits.send_timeout
            while asyncio.get_running_loop().time() < over:
                taken = len(await client.until(DATA, 1))
                client.writer.write(window(0, taken) + window(1, taken))
                await asyncio.sleep(0.01)
            (connection,) = there
            assert 1 in connection.session.calls

    run(scenario)


def test_a_client_that_reads_too_slowly_is_cut_and_one_that_reads_on_is_not():
    """What counts is what its kernel took: this side sees room again only when megabytes have gone."""
    wide = PREFACE + frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(SETTINGS, ACK)
    wide += window(0, 0x7FFF0000 - 65535)

    async def scenario(nbytes: int) -> bool:
        limits = Limits(header_timeout=60, send_timeout=1.0)
        async with connected(limits, wide, receive=4096) as (client, there):
            raw = client.writer.transport.get_extra_info("socket")
            client.writer.transport.pause_reading()
            client.writer.write(head(1, path="/s/Pour"))
            await until(lambda: there)
            over = asyncio.get_running_loop().time() + 4 * limits.send_timeout
            with contextlib.suppress(ConnectionError), socket.fromfd(raw.fileno(), raw.family, raw.type) as taking:
                taking.setblocking(False)
                while there and asyncio.get_running_loop().time() < over:
                    with contextlib.suppress(BlockingIOError):
                        taking.recv(nbytes)
                    await asyncio.sleep(0.01)
            if not there:
                error = raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                assert error == errno.ECONNRESET, "else the kernel goes on sending what waits"
            return bool(there)

    async def both() -> None:
        assert not await scenario(50)
        assert await scenario(65536)

    run(both)


def test_a_client_that_does_not_read_is_cut():
    async def scenario():
        wide = PREFACE + frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(SETTINGS, ACK)
        async with connected(hello=wide + frame(8, 0, 0, (0x7FFF0000 - 65535).to_bytes(4))) as (client, there):
            client.writer.write(head(1, path="/s/Pour"))
            await until(lambda: there)
            client.writer.transport.pause_reading()
            await until(lambda: not there)

    run(scenario)


def test_a_client_that_stops_reading_while_its_connection_closes_is_cut():
    """The transport says that it has room again before all is gone: the clock goes on."""

    async def scenario():
        wide = PREFACE + frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(SETTINGS, ACK)
        limits = Limits(header_timeout=60, send_timeout=1.0)
        async with connected(limits, wide + window(0, 0x7FFF0000 - 65535), receive=4096) as (client, there):
            client.writer.transport.pause_reading()
            client.writer.write(head(1, path="/s/Pour"))
            await until(lambda: there)
            (connection,) = there
            await until(lambda: connection._paused)
            connection.close()
            connection.resume_writing()
            await until(lambda: not there)

    run(scenario)


def test_a_client_that_never_says_what_it_is_is_cut():
    async def scenario():
        for hello in (b"", PREFACE, HELLO + head(1, path="/s/Echo", flags=0)):
            async with connected(hello=hello) as (client, _):
                await client.end()

    run(scenario)


def test_pings_of_an_idle_client_are_a_flood_and_those_after_answers_are_not():
    async def scenario():
        async with connected(Limits()) as (client, _):
            for stream in range(1, 21, 2):
                call = head(stream, path="/s/Echo") + frame(DATA, END_STREAM, stream, message(b"x"))
                client.writer.write(call)
                await client.until(DATA, stream)
                client.writer.write(frame(PING, 0, 0, bytes(8)))
                await client.until(PING)
            client.writer.write(frame(PING, 0, 0, bytes(8)) * 4)
            assert (await client.until(GOAWAY)).endswith(b"too_many_pings")
            await client.end()

    run(scenario)


def test_a_farewell_waits_for_the_calls():
    async def scenario():
        async with connected(Limits()) as (client, there):
            client.writer.write(head(1, path="/s/Echo"))
            await client.until(SETTINGS)
            await until(lambda: there)
            (one,) = there
            one.farewell()
            assert await client.until(GOAWAY) == b"\x7f\xff\xff\xff\0\0\0\0"
            client.writer.write(head(3, path="/s/Echo"))
            client.writer.write(frame(PING, 1, 0, await client.until(PING)))
            assert (await client.until(GOAWAY))[:4] == b"\0\0\0\x03"
            for stream in (1, 3):
                client.writer.write(frame(DATA, END_STREAM, stream, message(b"late")))
                assert await client.until(DATA, stream) == message(b"late")
            await client.end()

    run(scenario)
