"""Streams of requests, cut anywhere: the door answers the same statuses in the same order as it does to single bytes.

A request that comes whole is served on the connection, one that comes in pieces by ASGI, and what comes behind either
waits for its turn. The pipeline is one that takes its time and says how long the body was.
"""

from __future__ import annotations

import asyncio
import logging
import re
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.fast_http import FastHttpProtocol
from gateway.doors.http_body import ClientWatch, read_body
from gateway.doors.http_large import Inlet
from gateway.doors.http_server import HttpServer
from gateway.doors.reply import Reply, error_reply, send_reply
from gateway.errors import TidegateError
from gateway.headers import from_asgi
from gateway.settings import Limits

LIMITS = Limits(body=200)


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.closed = self.paused = False

    def get_extra_info(self, name, default=None):
        return default

    def write(self, data):
        assert not self.closed
        self.out += data

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class Pipeline:
    """Waits some turns, by the length of the body."""

    served = 0

    async def infer(self, x):
        self.served += 1
        for _ in range(len(x.body) % 3):
            await asyncio.sleep(0)
        return Reply(200, [], b"%d" % len(x.body))


async def app(scope, receive, send):
    watch = ClientWatch(scope, receive)
    try:
        body = await read_body(receive, from_asgi(scope["headers"]), LIMITS, complete=watch.whole_body_here(scope))
        reply = Reply(200, [], b"%d" % len(body))
    except TidegateError as error:
        reply = error_reply(error)
    finally:
        watch.done()
    await send_reply(scope, send, reply, {"x-request-id": "r"})


class Serving(FastHttpProtocol):
    core = SimpleNamespace(
        snapshot=SimpleNamespace(settings=SimpleNamespace(identity=None)),
        observer=SimpleNamespace(started=lambda _: None),
        pipeline=Pipeline(),
    )


def read(inlet: Inlet, data: bytes) -> None:
    """What the event loop does with what it has read."""
    left = memoryview(data)
    while left:
        buffer = inlet.get_buffer(-1)
        count = min(len(buffer), len(left))
        buffer[:count] = left[:count]
        inlet.buffer_updated(count)
        left = left[count:]


def answers(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Status and body of each answer, and whether the connection was closed."""

    async def main():
        loop = asyncio.get_running_loop()
        server = HttpServer(app, LIMITS, protocol=Serving)
        server.config.load()
        inlet = server.config.http_protocol_class(config=server.config, server_state=server.server_state, app_state={})
        wire = Wire()
        inlet.connection_made(wire)
        for piece in pieces:
            for _ in range(400):
                if not wire.paused or wire.closed:
                    break
                await asyncio.sleep(0)
            if wire.closed:
                break
            loop.call_soon(read, inlet, piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        closed = wire.closed
        inlet.connection_lost(None)
        await asyncio.sleep(0)
        return bytes(wire.out), closed

    out, closed = asyncio.run(main())
    found = []
    while out:
        head, _, out = out.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            continue
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        found.append((head[9:12], out[:size]))
        out = out[size:]
    return found, closed


@st.composite
def streams(draw) -> bytes:
    stream = b""
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([0, 1, 2, 3, 50, 199, 200, 201]))
        path = draw(st.sampled_from([b"/v2/models/m/infer"] * 5 + [b"/v2/models/m/ready", b"/v2/models/m/infer?x"]))
        method = draw(st.sampled_from([b"POST"] * 9 + [b"GET"]))
        lines = [b"Host: g"]
        body = b"x" * size
        kind = draw(st.sampled_from(["length"] * 6 + ["chunked", "none", "broken"]))
        if kind == "length":
            lines.append(b"Content-Length: %d" % size)
        elif kind == "chunked":
            lines.append(b"Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
        elif kind == "none":
            body = b""
        else:
            lines += draw(
                st.sampled_from(
                    [
                        [b"Content-Length: x"],
                        [b"Host: h"],
                        [b"bad header"],
                        [b"Content-Length: 1", b"Content-Length: 2"],
                    ]
                )
            )
        lines += draw(st.sampled_from([[], [], [], [b"Expect: 100-continue"], [b"Connection: close"], [b"X-A: b"]]))
        stream += b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, path, b"\r\n".join(lines), body)
    return stream


@given(streams(), st.lists(st.integers(0, 1500), max_size=4))
def test_cut_anywhere(stream, cuts):
    logging.getLogger("uvicorn.error").disabled = True
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[one:other] for one, other in zip(at, at[1:], strict=False)]
    single = [stream[number : number + 1] for number in range(len(stream))]
    expected, got = answers(single), answers(pieces)
    # A body that is too long is refused as soon as that is known, and what is cut off behind it is a matter of time.
    if any(status == b"413" for status, _ in expected[0] + got[0]):
        number = min(
            [status for status, _ in seen].index(b"413") for seen in (expected[0], got[0]) if b"413" in dict(seen)
        )
        assert expected[0][:number] == got[0][:number]
    else:
        assert expected == got, pieces


def test_what_comes_whole_is_served_on_the_connection():
    request = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\nab"
    special = request.replace(b"Host: g", b"Host: g\r\nConnection: keep-alive")  # for the parser
    before = Serving.core.pipeline.served
    assert answers([request, special, request, special])[0] == [(b"200", b"2")] * 4
    assert Serving.core.pipeline.served == before + 4
    assert answers([request[:-1], b"b"])[0] == [(b"200", b"2")]
    assert Serving.core.pipeline.served == before + 4
