"""An HTTP/2 gRPC server that does what a test tells it: the door's own session, or frames by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from h2_frames import END_HEADERS, END_STREAM, HEADERS, SETTINGS, block, frame

from gateway.doors._fast_grpc_c import Rpc, Session
from gateway.wire._http2_c import CALL, HALF_CLOSED, MESSAGE, WHOLE, load

load()
OK = [("grpc-status", "0")]
Script = Callable[["Peer", int, Any, Any], None]


class Peer(asyncio.Protocol):
    """One connection; `script` is called with each event, as `Session.receive` gives them."""

    def __init__(self, script: Script, peers: list[Peer], streams: int) -> None:
        self.script = script
        self.session = Session(Rpc, most_metadata=64 * 1024, most_message=1 << 26, streams=streams)
        self.events: list[tuple[int, Any]] = []
        self.closed = False
        peers.append(self)

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.events += (events := apart(self.session.receive(data)))
        for event in events:
            self.script(self, *event)
        self.flush()

    def connection_lost(self, exc) -> None:
        self.closed = True

    def flush(self) -> None:
        pieces = self.session.take()
        if pieces is not None and not self.closed:
            self.transport.writelines([pieces] if isinstance(pieces, bytes) else pieces)
        self.events += self.session.late_events()
        if self.session.over:
            self.transport.close()


def apart(events: list) -> list:
    """Events one by one, also of calls that came at once."""
    found = []
    for kind, call, what in events:
        if kind == WHOLE:
            found += [(CALL, call, None), (MESSAGE, call, what), (HALF_CLOSED, call, None)]
        else:
            found.append((kind, call, what))
    return found


@asynccontextmanager
async def h2_server(script: Script, streams: int = 100) -> AsyncIterator[tuple[str, list[Peer]]]:
    """Its address, and its connections as they come."""
    peers: list[Peer] = []
    server = await asyncio.get_running_loop().create_server(lambda: Peer(script, peers, streams), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", peers
    finally:
        server.close()
        for peer in peers:
            peer.transport.abort()
        await asyncio.sleep(0.01)  # the transports close in the loop's next turn


def echo(peer: Peer, kind: int, call: Any, what: Any) -> None:
    """Every message as it came; the server's end follows the client's."""
    if kind == CALL:
        peer.session.begin(call, ())
    elif kind == MESSAGE:
        peer.session.write(call, what[0])
        peer.session.taken(call, len(what[0]))
    elif kind == HALF_CLOSED:
        peer.session.finish(call, OK)


def answer_head(*more: tuple[str, str], status: str = "200", end: bool = False) -> bytes:
    """The header block of an answer on the first stream."""
    pairs = ((":status", status), ("content-type", "application/grpc"), *more)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), 1, block(*pairs))


def trailers(*pairs: tuple[str, str]) -> bytes:
    """The end of an answer on the first stream."""
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*pairs))


HELLO = frame(SETTINGS) + frame(SETTINGS, 1)
"""What a server says first, our settings acknowledged."""
