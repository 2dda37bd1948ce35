"""A TCP server that does what a test tells it, byte for byte, to see how the client takes it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    line: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Peer:
    """One accepted connection; `number` counts from 0."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def request(self) -> Request:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(b":") for text in lines)}
        return Request(line, headers, await self.reader.readexactly(int(headers.get(b"content-length", 0))))

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():  # where uvloop's write says RuntimeError
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> bool:
        """Wait until the client has closed; what it still sends is dropped."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class RawServer:
    host: str
    port: int
    peers: list[Peer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


Script = Callable[[Peer, RawServer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[RawServer]:
    """Run `script` for each connection; the connection is closed when it returns."""
    state = RawServer(host, 0)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer, len(state.peers))
        state.peers.append(peer)
        try:
            await script(peer, state)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - a broken script must fail the test, not vanish in a task
            state.failures.append(error)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, host, port)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports close in the loop's next turn
    assert state.failures == []


def answering(response: bytes) -> Script:
    """Answer every request with these bytes and keep the connection."""

    async def script(peer: Peer, state: RawServer) -> None:
        while True:
            state.requests.append(await peer.request())
            await peer.send(response)

    return script


def once(response: bytes) -> Script:
    """Answer one request a connection, then close it."""

    async def script(peer: Peer, state: RawServer) -> None:
        state.requests.append(await peer.request())
        await peer.send(response)

    return script
