"""What the client makes of a response, however it is cut into pieces: one table, read whole, byte by byte, split
at random, and once more when its head is known already."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadGateway, Unreachable
from gateway.upstream import http_response
from gateway.upstream.http_client import MAX_HEAD, Connection

# name, bytes, HEAD?, expected (status, body, kept alive)
GOOD = [
    ("length", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, (200, b"hello", True)),
    ("empty", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, (200, b"", True)),
    ("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", False,
     (200, b"abcde", True)),
    ("trailers", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nStatus: 500\r\n\r\n", False,
     (200, b"abc", True)),
    ("no content", b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b"", True)),
    ("not modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", False, (304, b"", True)),
    ("head", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True, (200, b"", True)),
    ("interim", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False, (200, b"ok", True)),
    ("close", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", False, (200, b"ok", False)),
    ("http/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, (200, b"ok", False)),
    ("error", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", False, (404, b"no", True)),
    ("no reason", b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx", False, (200, b"x", True)),
    ("body like a head", b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\nHTTP/1.1 500 NO\r\n\r\n\r\n\r\n", False,
     (200, b"HTTP/1.1 500 NO\r\n\r\n\r\n\r\n", True)),
]  # fmt: skip

GARBAGE = [
    ("no http", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("another version", b"HTTP/9.9 200 OK\r\n\r\n"),
    ("status", b"HTTP/1.1 OK\r\n\r\n"),
    ("upgrade", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("length no number", b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"),
    ("negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    ("length and chunked", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunk size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    ("header without colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"),
    ("endless head", b"HTTP/1.1 200 OK\r\n" + b"x-filler: " + b"y" * MAX_HEAD),
    ("a request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
]  # fmt: skip


class FakeTransport(asyncio.Transport):
    """Takes everything; knows whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False

    def write(self, data):
        pass

    def writelines(self, list_of_data):
        pass

    def get_write_buffer_size(self):
        return 0

    def abort(self):
        self.cut = True


class Loop:
    """As much of an event loop as a connection needs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_future = loop.create_future
        self.time = loop.time
        self.call_later = loop.call_later


def converse(pieces: list[bytes], *, head: bool, eof: bool = False, requests: int = 1):
    """The answer to the last of `requests`, each answered by the same pieces; (response or error, reusable)."""
    loop = asyncio.new_event_loop()
    try:
        idle: list[Connection] = []
        connection = Connection(Loop(loop), "test", idle.append, lambda _: None)
        transport = FakeTransport()
        connection.connection_made(transport)
        for _ in range(requests):
            idle.clear()
            future = connection.request(b"x", (), 1, 60, without_body=head)
            for piece in pieces:
                connection.data_received(piece)
            if eof:
                connection.eof_received()
                connection.connection_lost(None)
        assert future.done(), "a whole response must not leave its caller waiting"
        error = future.exception()
        assert eof or bool(idle) is not transport.cut
        return (error if error is not None else future.result()), bool(idle)
    finally:
        loop.close()


@pytest.fixture(autouse=True)
def nothing_known():
    http_response.known_heads.clear()


def check(pieces, head, expected, **more):
    response, kept = converse(pieces, head=head, **more)
    assert (response.status, response.body, kept) == expected
    assert type(response.body) is bytes
    return response


@pytest.mark.parametrize("name, data, head, expected", GOOD, ids=[row[0] for row in GOOD])
def test_whole_bytewise_and_cut_in_two(name, data, head, expected):
    check([data], head, expected)
    check([data[i : i + 1] for i in range(len(data))], head, expected)
    for cut in range(1, len(data)):
        check([data[:cut], data[cut:]], head, expected)


@pytest.mark.parametrize("name, data, head, expected", [row for row in GOOD if row[3][2]],
                         ids=[row[0] for row in GOOD if row[3][2]])  # fmt: skip
def test_the_same_again_on_the_same_connection_and_with_a_known_head(name, data, head, expected):
    first = check([data], head, expected)
    again = check([data], head, expected, requests=3)
    assert again.headers == first.headers
    for cut in range(1, len(data)):
        check([data[:cut], data[cut:]], head, expected, requests=2)


@given(data=st.data(), row=st.sampled_from(GOOD))
@settings(max_examples=300, deadline=None)
def test_any_split_gives_the_same_answer(data, row):
    _, wire, head, expected = row
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    check(pieces, head, expected, requests=2 if expected[2] else 1)


@given(
    body=st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    known=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_bodies_of_any_content_come_whole(body, sizes, known):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    pieces, rest = [head + body[:7]], body[7:]
    for size in sizes:
        if rest:
            pieces.append(rest[:size])
            rest = rest[size:]
    if rest:
        pieces.append(rest)
    check(pieces, False, (200, body, True), requests=2 if known else 1)


def test_until_close():
    data = b"HTTP/1.1 200 OK\r\nX-A:\r\nX-B: 1\r\n\r\nall of it"
    response, kept = converse([data[:30], data[30:]], head=False, eof=True)
    assert (response.status, response.body, kept) == (200, b"all of it", False)
    assert response.headers == ((b"x-a", b""), (b"x-b", b"1"))


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_broken_before_the_end_is_unreachable(cut):
    error, kept = converse([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"[:cut]], head=False, eof=True)
    assert isinstance(error, Unreachable)
    assert not kept


@pytest.mark.parametrize("name, data", GARBAGE, ids=[row[0] for row in GARBAGE])
def test_garbage_is_bad_gateway_and_ends_the_connection(name, data):
    for pieces in (
        [data],
        [data[i : i + 1] for i in range(len(data))] if len(data) < 1000 else [data[:50], data[50:]],
    ):
        error, kept = converse(pieces, head=False)
        assert isinstance(error, BadGateway), error
        assert error.message == "the model server's answer could not be understood"
        assert not kept


@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"])
@pytest.mark.parametrize("name, data, head, expected", GOOD, ids=[row[0] for row in GOOD])
def test_more_than_was_asked_for_ends_the_connection_not_the_answer(name, data, head, expected, surplus):
    status, body, _ = expected
    if not head:
        check([data], head, expected)  # makes the head known
    check([data + surplus], head, (status, body, False))


def test_unasked_bytes_on_an_idle_connection_end_it():
    loop = asyncio.new_event_loop()
    connection = Connection(Loop(loop), "test", lambda _: None, lambda _: None)
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert transport.cut
    assert connection.closed
    loop.close()


def test_known_heads_are_bounded():
    for n in range(http_response.MAX_KNOWN_HEADS + 20):
        wire = b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: 1\r\n\r\nx" % n
        check([wire], False, (200, b"x", True))
    assert 0 < len(http_response.known_heads) <= http_response.MAX_KNOWN_HEADS
