"""Heads that are read without the parser against the parser: what is taken means the same to both."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.doors import http_heads
from gateway.doors.fast_http import FastHttpProtocol
from gateway.doors.http_heads import MOST_HEADS, RequestHead, known_heads, read, remember
from gateway.doors.http_server import HttpServer
from gateway.settings import Limits


class Wire(asyncio.Transport):
    closed = False

    def get_extra_info(self, name, default=None):
        return default

    def write(self, data):
        pass

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True


class Reading(FastHttpProtocol):
    """Keeps the head that the parser and the connection found good, and serves nothing."""

    found: RequestHead | None = None

    def _serve(self, head, body):
        self.found = head

    def _start_asgi_task(self, cycle, app):
        pass


async def app(scope, receive, send):
    pass


def parsed(head: bytes, body: bytes) -> RequestHead | None:
    """What the connection makes of it by the parser alone; None: it is not one of those that are served there."""

    async def main():
        server = HttpServer(app, Limits(), protocol=Reading)
        server.config.load()
        connection = server.config.http_protocol_class(
            config=server.config, server_state=server.server_state, app_state={}
        )._connection
        connection.connection_made(Wire())
        connection._parse(head + b"\r\n\r\n" + body, len(head), len(body))
        connection._stop_header_timer()
        connection._unset_keepalive_if_required()
        return connection.found

    return asyncio.run(main())


NAMES = st.sampled_from(
    ["Host", "host", "Content-Length", "content-length", "X-API-Key", "authorization", "Inference-Header-Content-Length",
     "Accept", "accept-encoding", "Content-Encoding", "traceparent", "x-request-id", "X-Forwarded-For", "Connection",
     "Transfer-Encoding", "Upgrade", "Expect", "Proxy-Connection", "Keep-Alive", "x_y", "X-\u00e9", "bad name", "", "x!#$%&'*+.^`|~"]
)  # fmt: skip
VALUES = st.sampled_from(
    ["g", "g:80", "[::1]", "a/b", "4", "04", "+4", "4 ", "4, 4", "x", "", " ", "  two  words", "tab\tin", "\u00e9", "chunked", "close",
     "keep-alive", "h2c", "100-continue", "gzip", "text/event-stream", "*/*", "0", "99", "a\x00b", "x" * 600]
)  # fmt: skip
LINES = st.tuples(NAMES, st.sampled_from([":", ": ", ":  ", " :", ":\t"]), VALUES).map("".join)
STARTS = st.sampled_from(
    ["POST /v2/models/m/infer HTTP/1.1"] * 8
    + ["POST /v2/models/m/versions/3/infer HTTP/1.1", "POST /v2/models/m/infer HTTP/1.0", "POST /v2/models/m/infer?x HTTP/1.1",
       "POST /v2/models/%C3%A9/infer HTTP/1.1", "POST /v2/models/%FF/infer HTTP/1.1", "POST /v2/models//infer HTTP/1.1",
       "GET /v2/models/m/infer HTTP/1.1", "POST  /v2/models/m/infer HTTP/1.1", "POST /v2/models/m/infer HTTP/1.1 ",
       "POST /v2/models/\u00e9/infer HTTP/1.1", "POST /v2/models/a/b/infer HTTP/1.1", "POST http://h/v2/models/m/infer HTTP/1.1"]
)  # fmt: skip


@given(STARTS, st.lists(LINES, max_size=5), st.integers(0, 5), st.booleans(), st.sampled_from(["\r\n"] * 9 + ["\n"]))
@example("POST /v2/models/m/infer HTTP/1.1", ["X: a\r\n folded"], 0, True, "\r\n")
def test_what_is_read_means_the_same_to_the_parser(start, lines, at, good, ending):
    lines = lines[:]
    if good:  # else hardly any would be read
        lines.insert(min(at, len(lines)), "Host: g")
        lines.insert(0, "Content-Length: 4")
    head = ending.join([start, *lines]).encode("latin-1")
    if b"\r\n\r\n" in head:
        return
    known_heads.clear()
    http_heads._older.clear()
    mine = read(head, 4)
    known_heads.clear()
    theirs = parsed(head, b"body")
    if mine is not None:
        assert theirs is not None, head
        for name in RequestHead.__struct_fields__:
            assert getattr(mine, name) == getattr(theirs, name), (name, head)
        assert mine.headers.spelling == theirs.headers.spelling


PLAIN = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nX-API-Key: k\r\nContent-Length: %d"


def test_plain_heads_are_read():
    head = read(PLAIN % 7, 7)
    assert head is not None
    assert (head.address.model, head.length, head.headers["x-api-key"]) == ("m", 7, "k")
    assert head.headers.spelling["x-api-key"] == "X-API-Key"
    assert "'k'" not in repr(head)
    assert read(PLAIN % 8, 7) is None


def test_heads_that_are_asked_for_again_stay_known():
    again = PLAIN % 3
    meaning = read(again, 3)
    for number in range(2 * MOST_HEADS):
        assert read(PLAIN % 3 + b"\r\nx-request-id: %d" % number, 3) is not None
        if again not in known_heads:
            assert read(again, 3) is meaning
    assert len(known_heads) <= MOST_HEADS


@pytest.mark.parametrize(
    "head", [b"POST /v2/models/m/infer HTTP/1.1\nHost: g", b"POST /x HTTP/1.1\r\nX: " + b"x" * 3000]
)
def test_lenient_and_long_heads_are_not_kept(head):
    meaning = read(PLAIN % 3, 3)
    assert meaning is not None
    remember(head, meaning)
    assert head not in known_heads
