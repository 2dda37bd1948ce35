"""A call on the nghttp2 engine: what `grpc_call.Call` asks for, over a stream of `_fast_grpc_c.Session`."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote_from_bytes

from gateway.doors._fast_grpc_c import Rpc
from gateway.doors.grpc_call import Ended, Gone, Metadata, Method
from gateway.errors import GRPC_CODES

if TYPE_CHECKING:
    from gateway.doors.fast_grpc_connection import Connection
    from gateway.driven import Driven
    from gateway.tls import PeerCertificate

OK: Final = [("grpc-status", "0")]
_CODES: Final = {name: str(number) for number, name in enumerate(GRPC_CODES)}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# gRPC over HTTP2, "Status-Message": what may stand there unencoded. `%` may not.
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)
_MOST_MESSAGE: Final = 4096
"""Characters of a status message; C-core's clients take 16 KiB of trailers, percent-encoded, in all."""
# A stream's writer waits while so many bytes of its messages wait to be sent.
_HIGH: Final = 64 * 1024


class FastCall(Rpc):
    """One call."""

    __slots__ = ()

    connection: Connection
    method_of: Method
    """What serves it."""
    deadline: float | None
    task: asyncio.Task[None] | Driven | None
    """Its handler, until it has said all."""
    timer: asyncio.TimerHandle | None
    goal: int
    """Bytes that it is to have sent when its connection next looks at the calls that wait."""
    initial: Metadata
    """What is to be sent with its answer."""
    queue: deque[bytes] | None
    """Messages of a stream that were not taken."""
    wake: asyncio.Future[None] | None
    room: asyncio.Future[None] | None

    def client(self) -> tuple[str, PeerCertificate | None]:
        """Of the connection."""
        return self.connection.peer, self.connection.certificate

    # --- what comes -------------------------------------------------------------------------------------------

    def arrived(self, message: bytes) -> None:
        """One more message of a stream."""
        if self.queue is None:
            self.queue = deque()
        self.queue.append(message)
        self._awake()

    def ended(self) -> None:
        """No more will come."""
        self._awake()

    def _awake(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def messages(self) -> AsyncIterator[bytes]:
        """In their order, to the client's end."""
        while True:
            if self.queue:
                message = self.queue.popleft()
                self.connection.taken(self, len(message))
                yield message
            elif self.half_closed:
                return
            else:
                self.wake = asyncio.get_running_loop().create_future()
                await self.wake

    # --- what goes --------------------------------------------------------------------------------------------

    async def begin(self, metadata: Metadata) -> None:
        """Send initial metadata; that of a unary call goes with its answer."""
        if self.gone:
            raise Gone
        if self.method_of.unary is not None:
            self.initial = metadata
            return
        self.connection.session.begin(self, metadata)
        self.connection.flush_soon()

    async def write(self, message: bytes) -> None:
        """Send one message; waits while too many wait."""
        if self.gone:
            raise Gone
        self.connection.session.write(self, message)
        if self.waiting > _HIGH:
            self.connection.flush()
        else:
            self.connection.flush_soon()
        while self.waiting > _HIGH and not self.gone:
            self.room = asyncio.get_running_loop().create_future()
            self.connection.writers.add(self)
            await self.room
        if self.gone:
            raise Gone

    def sending(self) -> None:
        """Some of what waited has been sent, or never will be."""
        if self.waiting <= _HIGH or self.gone:
            self.connection.writers.discard(self)
            room, self.room = self.room, None
            if room is not None and not room.done():
                room.set_result(None)

    def answer(self, message: bytes) -> None:
        """The end of a unary call that went well."""
        self.connection.session.answer(self, self.initial, message, OK)

    async def abort(self, code: str, message: str, trailing: Metadata = ()) -> NoReturn:
        """End the call with this status."""
        self.end(code, message, trailing)
        raise Ended

    def end(self, code: str, message: str = "", trailing: Metadata = ()) -> None:
        """End the call with this status, unless it has one; never raises."""
        if self.gone:
            return
        if not self.started:
            self.connection.session.begin(self, self.initial)
        fields = [("grpc-status", _CODES[code])]
        if message:
            text = message.encode("utf-8", "replace")[:_MOST_MESSAGE]
            fields.append(("grpc-message", quote_from_bytes(text, safe=_PLAIN)))
        self.connection.session.finish(self, [*fields, *trailing])
        self.connection.flush()

    def started_with(self, metadata: Metadata) -> None:
        """Initial metadata for an end that comes before the handler has said any."""
        if not self.initial:
            self.initial = metadata


def seconds_of(timeout: str) -> float | None:
    """`grpc-timeout` in seconds; None: there is none, or it is none (C-core passes over such)."""
    found = _TIMEOUT.fullmatch(timeout)
    return None if found is None else int(found[1]) * _UNITS[found[2]]
