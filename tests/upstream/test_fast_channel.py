"""Streams to a model server on nghttp2, against servers that do as they are told: sockets are real, Triton is not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import zlib

import pytest
from h2_frames import DATA, GOAWAY, RST, frame, message
from h2_server import HELLO, OK, answer_head, apart, echo, h2_server, trailers
from hypothesis import given
from hypothesis import strategies as st
from raw_server import serving

from gateway.doors._fast_grpc_c import Rpc, Session
from gateway.errors import BadGateway, DeadlineExceeded, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream import fast_channel, fast_connection
from gateway.upstream._grpc_client_c import ClientRpc, ClientSession
from gateway.upstream.fast_channel import FastChannel
from gateway.wire._http2_c import CALL, CLOSED, HALF_CLOSED, MESSAGE, STREAM_WINDOW, load

load()
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


def opened(address: str, *metadata: tuple[str, str]):
    channel = FastChannel(address, tls=None, server_name=None)
    return channel, channel.open_stream(PATH, metadata)


async def until(condition, seconds=30.0):
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "did not come about in time"
        await asyncio.sleep(0.005)


async def rest_of(stream) -> list[bytes]:
    found = []
    while (each := await stream.read()) is not None:
        found.append(each)
    return found


# -- the session, without sockets ----------------------------------------------------------------------------


def joined(pieces) -> bytes:
    return b"" if pieces is None else pieces if isinstance(pieces, bytes) else b"".join(pieces)


@given(st.lists(st.binary(max_size=70_000), max_size=5), st.lists(st.binary(max_size=70_000), max_size=5), st.data())
def test_messages_come_as_they_were_sent_however_the_bytes_are_cut(asked, answered, data):
    client = ClientSession(64 * 1024)
    server = Session(Rpc, most_metadata=64 * 1024, most_message=1 << 20, streams=10)
    call = ClientRpc()
    client.open(call, "http", "triton:8001", PATH, [("x-request-id", "r"), ("x-b", "2")])
    for each in asked:
        client.write(call, each)
    client.half_close(call)
    got: dict[int, list[bytes]] = {0: [], 1: []}
    heard: list[tuple[str, str, dict[str, str]]] = []
    ends: list[int] = []
    for _ in range(200):
        moved = False
        for number, (source, target) in enumerate(((client, server), (server, client))):
            wire = joined(source.take())
            moved = moved or bool(wire)
            events = source.late_events()
            cut = data.draw(st.integers(0, len(wire)))
            for piece in (wire[:cut], wire[cut:]):
                events += apart(target.receive(piece))
            for kind, one, what in events:
                if kind == CALL and target is server:
                    heard.append((one.path, one.method, dict(one.headers)))
                    server.begin(one, ())
                    for each in answered:
                        server.write(one, each)
                    server.finish(one, OK)
                elif kind == MESSAGE:
                    got[number].append(what[0])
                    target.taken(one, len(what[0]))
                elif kind == CLOSED and one is call:
                    ends.append(what)
        if not moved:
            break
    assert heard == [(PATH, "POST", {"x-request-id": "r", "x-b": "2", "user-agent": "tidegate"})]
    assert got[1] == answered
    # A server that has said its last may refuse the rest (RFC 9113, 8.1).
    assert got[0] == asked[: len(got[0])]
    assert (call.grpc_status, call.http_status, call.content_type) == ("0", "200", "application/grpc")
    assert call.opened
    assert ends == [0]
    assert call.gone


# -- against a server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [0, 1, 70_000], [3 * STREAM_WINDOW, 5, 17 << 20]])
def test_messages_go_and_come_in_their_order(run, sizes):
    async def main():
        async with h2_server(echo) as (address, peers):
            channel, stream = opened(address, ("x-b", "2"))
            sent = [os.urandom(size) for size in sizes]

            async def send():
                for each in sent:
                    await stream.write(each)
                stream.half_close()

            _, got = await asyncio.gather(send(), rest_of(stream))
            assert got == sent
            assert await stream.read() is None, "an end is an end"
            await channel.close(0)
            await until(lambda: all(peer.closed for peer in peers))
            assert len(peers) == 1

    run(main())


def test_statuses_are_told_with_their_words(run_once):
    def script(peer, kind, call, _):
        if kind == CALL:
            peer.session.begin(call, ())
        elif kind == MESSAGE:
            peer.session.write(call, b"before it")
            peer.session.finish(call, [("grpc-status", call.headers["code"]), ("grpc-message", "100%25 gr%C3%BCn")])

    async def main():
        async with h2_server(script) as (address, _):
            for code, kind, name in (
                ("3", UpstreamAnswered, "INVALID_ARGUMENT"),
                ("14", UpstreamAnswered, "UNAVAILABLE"),
                ("99", UpstreamAnswered, "UNKNOWN"),
                ("4", DeadlineExceeded, "DEADLINE_EXCEEDED"),
            ):
                channel, stream = opened(address, ("code", code))
                await stream.write(b"x")
                assert await stream.read() == b"before it"
                with pytest.raises(kind) as caught:
                    await stream.read()
                assert caught.value.code == name
                if kind is UpstreamAnswered:
                    assert caught.value.message == "100% grün"
                await stream.write(b"too late")
                await channel.close(0)

    run_once(main())


def raw(*pieces: bytes):
    """A server of frames by hand, said after its hello when the client's first bytes have come."""

    async def script(peer, _):
        await peer.reader.read(65536)
        await peer.send(HELLO)
        await asyncio.sleep(0.05)  # until the stream has come
        for piece in pieces:
            await peer.send(piece)
        await peer.gone()

    return script


ZIPPED = message(gzip.compress(b"plain"), 1)
ENDS = {
    "gzip": (answer_head(("grpc-encoding", "gzip")) + frame(DATA, 0, 1, ZIPPED) + trailers(*OK), [b"plain"], None),
    "deflate": (
        answer_head(("grpc-encoding", "deflate")) + frame(DATA, 0, 1, message(zlib.compress(b"p"), 1)) + trailers(*OK),
        [b"p"],
        None,
    ),
    "interim": (answer_head(status="103") + answer_head() + trailers(*OK), [], None),
    "trailers only": (answer_head(("grpc-status", "5"), ("grpc-message", "no"), end=True), [], UpstreamAnswered),
    "a coding that there is not": (answer_head(("grpc-encoding", "x")) + frame(DATA, 0, 1, ZIPPED), [], BadGateway),
    "a coding that was not said": (answer_head() + frame(DATA, 0, 1, ZIPPED), [], BadGateway),
    "gzip that is none": (
        answer_head(("grpc-encoding", "gzip")) + frame(DATA, 0, 1, message(b"no", 1)), [], BadGateway,
    ),
    "a flag that there is not": (answer_head() + frame(DATA, 0, 1, message(b"no", 2)), [], BadGateway),
    "cut short": (answer_head() + frame(DATA, 1, 1, message(b"yes") + message(b"no")[:6]), [b"yes"], BadGateway),
    "no status": (answer_head() + frame(DATA, 1, 1, message(b"yes")), [b"yes"], BadGateway),
    "a page": (answer_head(status="404", end=True), [], BadGateway),
    "reset": (answer_head() + frame(RST, 0, 1, b"\0\0\0\2"), [], UpstreamAnswered),
    "refused": (frame(RST, 0, 1, b"\0\0\0\7"), [], Unreachable),
    "not taken any more": (frame(GOAWAY, 0, 0, bytes(8)), [], Unreachable),
    "no frames": (answer_head() + frame(DATA, 0, 0, b"x"), [], BadGateway),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_ends(run_once, name):
    said, messages, kind = ENDS[name]

    async def main():
        async with serving(raw(said)) as server:
            channel, stream = opened(f"127.0.0.1:{server.port}")
            await stream.write(b"x")
            for each in messages:
                assert await stream.read() == each
            if kind is None:
                assert await stream.read() is None
            else:
                with pytest.raises(kind) as caught:
                    await stream.read()
                assert type(caught.value) is kind
                assert "127.0.0.1" not in caught.value.message
                assert getattr(caught.value, "sent", False) is False, "safe to send elsewhere"
            await channel.close(0)

    run_once(main())


def test_a_connection_that_breaks(run):
    def script(peer, kind, call, what):
        echo(peer, kind, call, what)
        if kind == MESSAGE:
            peer.flush()
            asyncio.get_running_loop().call_later(0.05, peer.transport.abort)

    async def main():
        async with h2_server(script) as (address, peers):
            channel, stream = opened(address)
            await stream.write(b"one")
            assert await stream.read() == b"one"
            with pytest.raises(Unreachable) as caught:
                await stream.read()
            assert caught.value.sent
            again = channel.open_stream(PATH, ())
            await again.write(b"two")
            assert await again.read() == b"two", "the next has a connection of its own"
            assert len(peers) == 2
            await channel.close(0)

    run(main())


def test_after_goaway_streams_go_on_and_the_next_goes_elsewhere(run_once):
    async def main():
        async with h2_server(echo) as (address, peers):
            channel, stream = opened(address)
            await stream.write(b"one")
            assert await stream.read() == b"one"
            peers[0].session.farewell()
            peers[0].flush()
            await asyncio.sleep(0.05)
            other = channel.open_stream(PATH, ())
            for one in (stream, other):
                await one.write(b"two")
                assert await one.read() == b"two"
                one.half_close()
                assert await one.read() is None
            assert len(peers) == 2
            await until(lambda: peers[0].closed)
            assert not peers[1].closed
            await channel.close(0)

    run_once(main())


def test_no_more_streams_on_a_connection_than_the_server_allows(run_once):
    async def main():
        async with h2_server(echo, streams=2) as (address, peers):
            channel, first = opened(address)
            streams = [first, *(channel.open_stream(PATH, ()) for _ in range(4))]
            for one in streams:
                await one.write(b"x")
            for one in streams:
                assert await one.read() == b"x"
            assert [len(peer.session.calls) for peer in peers] == [2, 2, 1]
            for one in streams:
                one.half_close()
                assert await one.read() is None
            await channel.close(0)

    run_once(main())


def test_whoever_does_not_read_is_not_sent_more(run_once):
    """Both ways: only windows are full, and nothing is lost."""
    lazy: list = []

    def script(peer, kind, call, what):
        if kind == CALL:
            peer.session.begin(call, ())
            for _ in range(40):
                peer.session.write(call, bytes(64 * 1024))
        elif kind == MESSAGE:
            lazy.append((peer, call, len(what[0])))
        elif kind == HALF_CLOSED:
            peer.session.finish(call, OK)

    async def main():
        async with h2_server(script) as (address, peers):
            channel, stream = opened(address)
            await until(lambda: peers and peers[0].session.greeted)
            sending = asyncio.create_task(_send_all(stream, 40))
            await asyncio.sleep(0.3)
            assert not sending.done(), "the server has not taken them"
            (call,) = peers[0].session.calls.values()
            assert 0 < call.waiting < 40 * 64 * 1024
            taken = 0
            while taken < 40:
                while len(lazy) > taken:
                    peer, call, size = lazy[taken]
                    peer.session.taken(call, size)
                    peer.flush()
                    taken += 1
                await asyncio.sleep(0.005)
            await sending
            assert [len(each) for each in await rest_of(stream)] == [64 * 1024] * 40
            await channel.close(0)

    async def _send_all(stream, count):
        for _ in range(count):
            await stream.write(bytes(64 * 1024))
        stream.half_close()

    run_once(main())


def test_a_writer_that_is_cancelled_leaves_the_stream_alone(run_once):
    async def main():
        async with h2_server(lambda *_: None) as (address, peers):
            channel, stream = opened(address)
            await stream.write(b"x")
            await until(lambda: peers and any(kind == MESSAGE for kind, *_ in peers[0].events))
            writers = [asyncio.create_task(stream.write(bytes(STREAM_WINDOW))) for _ in range(4)]
            await asyncio.sleep(0.1)
            writers[1].cancel()
            await asyncio.sleep(0)
            assert not writers[3].done()
            stream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writers[1]
            for each in (writers[0], *writers[2:]):
                await each  # nothing will be sent any more
            with pytest.raises(Unreachable):
                await stream.read()
            await until(lambda: (CLOSED, 8) in [(kind, what) for kind, _, what in peers[0].events])
            await channel.close(0)

    run_once(main())


def test_a_stream_that_is_cancelled_before_there_is_a_connection_is_never_seen(run_once):
    async def main():
        async with h2_server(echo) as (address, peers):
            channel, stream = opened(address)
            other = channel.open_stream(PATH, ())
            await stream.write(b"x")
            stream.cancel()
            other.half_close()
            assert await other.read() is None
            assert len([kind for kind, *_ in peers[0].events if kind == CALL]) == 1
            with pytest.raises(Unreachable):
                await stream.read()
            await channel.close(0)

    run_once(main())


@pytest.mark.parametrize("answers", [True, False])
def test_silence_is_asked_about(run_once, monkeypatch, answers):
    monkeypatch.setattr(fast_connection, "PING_AFTER_S", 0.1)
    monkeypatch.setattr(fast_connection, "PING_WITHIN_S", 0.3)

    def script(peer, kind, *_):
        if kind == CALL and not answers:
            peer.transport.pause_reading()

    async def main():
        async with h2_server(script) as (address, _):
            channel, stream = opened(address)
            await stream.write(b"x")
            reading = asyncio.create_task(stream.read())
            if answers:
                await asyncio.sleep(1)
                assert not reading.done()
                reading.cancel()
            else:
                with pytest.raises(Unreachable):
                    await reading
            await channel.close(0)

    run_once(main())


def test_who_is_not_there(run_once, monkeypatch):
    monkeypatch.setattr(fast_channel, "CONNECT_SECONDS", 0.3)

    async def silent(peer, _):
        await peer.gone()

    async def gone(_, __):
        pass

    async def http1(peer, _):
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async def told(address) -> TidegateError:
        channel, stream = opened(address)
        other = channel.open_stream(PATH, ())
        await stream.write(b"x")
        stream.half_close()
        with pytest.raises(TidegateError) as caught:
            await stream.read()
        with pytest.raises(type(caught.value)):
            await other.read()
        await channel.close(0)
        late = channel.open_stream(PATH, ())
        with pytest.raises(Unreachable):
            await late.read()
        return caught.value

    async def main():
        error = await told("127.0.0.1:9")
        assert isinstance(error, Unreachable)
        assert not error.sent
        for script, kind in ((silent, Unreachable), (gone, Unreachable), (http1, BadGateway)):
            async with serving(script) as server:
                error = await told(f"127.0.0.1:{server.port}")
                assert type(error) is kind
                assert not getattr(error, "sent", False)

    run_once(main())


def test_closing_lets_streams_finish_within_the_grace(run_once):
    def script(peer, kind, call, what):
        if kind == HALF_CLOSED:
            asyncio.get_running_loop().call_later(0.2, _end, peer, call)

    def _end(peer, call):
        peer.session.begin(call, ())
        peer.session.finish(call, OK)
        peer.flush()

    async def main():
        async with h2_server(script) as (address, _):
            channel, stream = opened(address)
            stream.half_close()
            endless = channel.open_stream(PATH, ())
            await endless.write(b"x")
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(channel.close(0.6))
            assert await stream.read() is None
            with pytest.raises(Unreachable):
                await endless.read()
            await closing

    run_once(main())
