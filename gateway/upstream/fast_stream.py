"""A stream to a model server on nghttp2: what `StreamRpc` asks for, over a call of `_grpc_client_c.ClientSession`.

Contract: it may be written to, half-closed and cancelled before it has a connection. What ends it is told to its reader
behind the messages that came before. Statuses mean what they mean on grpcio; where the server said none, HTTP/2's
error codes are read as gRPC over HTTP2 says ("Errors").
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from gateway.errors import GRPC_CODES, BadGateway, DeadlineExceeded, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream._grpc_client_c import ClientRpc
from gateway.upstream.http_response import GARBLED, TOO_LATE, UNREACHABLE
from gateway.upstream.stream_rpc import ENDED
from gateway.wire import compression

if TYPE_CHECKING:
    from gateway.upstream.fast_connection import Connection

CANCEL: Final = 0x8
_NO_ERROR: Final = 0x0
_REFUSED_STREAM: Final = 0x7
_CODES: Final = {CANCEL: "CANCELLED", 0xB: "RESOURCE_EXHAUSTED", 0xC: "PERMISSION_DENIED"}
"""Of RST_STREAM without a status before it; all others are INTERNAL."""
_RESET: Final = "the model server reset the stream"
_STATUSES: Final = {str(number): name for number, name in enumerate(GRPC_CODES)}
# As a door's stream: a writer waits while so many bytes of its messages wait to be sent.
_HIGH: Final = 64 * 1024
_ANY_SIZE: Final = 2**32 - 1


class FastStream(ClientRpc):
    """One stream.

    `path` is `/SERVICE/METHOD`.
    """

    __slots__ = (
        "_early",
        "_early_end",
        "_end",
        "_ended",
        "_queue",
        "_rooms",
        "_wake",
        "connection",
        "metadata",
        "path",
    )

    def __init__(self) -> None:
        self.path = ""
        self.metadata: list[tuple[str, str]] = []
        self.connection: Connection | None = None
        self._early: list[bytes] | None = []
        """Messages from before it had a connection."""
        self._early_end = False
        self._queue: deque[bytes] = deque()
        self._ended = False
        self._end: TidegateError | None = None
        """With `_ended`: the error; None: all was well."""
        self._wake: asyncio.Future[None] | None = None
        self._rooms: list[asyncio.Future[None]] = []

    # --- what goes --------------------------------------------------------------------------------------------

    def begin(self, connection: Connection) -> None:
        """It has a connection now."""
        self.connection = connection
        connection.session.open(self, connection.scheme, connection.authority, self.path, self.metadata)
        early, self._early = self._early, None
        for message in early or ():
            connection.session.write(self, message)
        if self._early_end:
            connection.session.half_close(self)

    async def write(self, message: bytes) -> None:
        """As `StreamRpc`; before there is a connection the caller bounds what waits."""
        connection = self.connection
        if self._ended:
            return
        if connection is None:
            if self._early is not None:
                self._early.append(message)
            return
        connection.session.write(self, message)
        if self.waiting > _HIGH:
            connection.flush()
        else:
            connection.flush_soon()
        while self.waiting > _HIGH and not self.gone:
            room = asyncio.get_running_loop().create_future()
            self._rooms.append(room)
            connection.writers.add(self)
            await room

    def sending(self) -> None:
        """Some of what waited has been sent, or never will be."""
        if self.waiting <= _HIGH or self.gone:
            if self.connection is not None:
                self.connection.writers.discard(self)
            rooms, self._rooms = self._rooms, []
            for room in rooms:
                if not room.done():
                    room.set_result(None)

    def half_close(self) -> None:
        """As `StreamRpc`."""
        if self.connection is None:
            self._early_end = True
        else:
            self.connection.session.half_close(self)
            self.connection.flush_soon()

    def cancel(self) -> None:
        """As `StreamRpc`."""
        self._queue.clear()
        self.over(Unreachable(ENDED, detail="cancelled"))
        if self.connection is not None:
            self.connection.session.reset(self, CANCEL)
            self.connection.flush_soon()

    # --- what comes -------------------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """As `StreamRpc`."""
        while not self._queue:
            if self._ended:
                if self._end is not None:
                    raise self._end
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        message = self._queue.popleft()
        if self.connection is not None and self.connection.session.taken(self, len(message)):
            self.connection.flush_soon()
        return message

    def arrived(self, message: bytes, compressed: bool) -> None:
        """One more message."""
        if self._ended:
            return
        if compressed:
            size = len(message)
            try:
                message = compression.decode(message, self.encoding, _ANY_SIZE)
            except (TidegateError, KeyError):
                self.broken(f"a message with grpc-encoding {self.encoding!r} that it does not have")
                return
            # Its reader gives back what it takes: the window counts what came.
            if self.connection is not None:
                self.connection.session.taken(self, size - len(message))
        self._queue.append(message)
        self._awake()

    def headed(self) -> None:
        """The server's header block has come."""
        if self.http_status != "200":
            self.broken(f":status {self.http_status}")
        elif not self.content_type.startswith("application/grpc"):
            self.broken(f"content-type {self.content_type!r}")

    def finished_by_server(self) -> None:
        """The server has said its last: with trailers, unless it is no gRPC server."""
        if self.cut_short:
            self.broken("it ended within a message")
        elif not self.grpc_status:
            self.broken("no grpc-status")
        else:
            code = _STATUSES.get(self.grpc_status, "UNKNOWN")
            text = unquote(self.grpc_message)
            if code == "OK":
                self.over(None)
            elif code == "DEADLINE_EXCEEDED":
                self.over(DeadlineExceeded(TOO_LATE, detail=text))
            else:
                self.over(UpstreamAnswered.from_grpc(text, code))
        if not self.finished and self.connection is not None:
            self.connection.session.reset(self, _NO_ERROR)  # nobody reads what we would send (RFC 9113, 8.1)

    def closed(self, code: int) -> None:
        """The stream has closed; `code` is of RFC 9113, 7."""
        if not self._ended:
            detail = f"HTTP/2 error code {code}"
            if code == _REFUSED_STREAM or not self.opened:
                self.over(Unreachable(UNREACHABLE, detail=detail, sent=False))
            else:
                self.over(UpstreamAnswered.from_grpc(_RESET, _CODES.get(code, "INTERNAL")))
        self.sending()

    def broken(self, why: str) -> None:
        """What came is no gRPC."""
        self.over(BadGateway(GARBLED, detail=why))
        if self.connection is not None:
            self.connection.session.reset(self, CANCEL)

    def over(self, error: TidegateError | None) -> None:
        """Nothing more comes; what ended it first counts."""
        if not self._ended:
            self._ended, self._end = True, error
            self._early = None
            self._awake()

    @property
    def ended(self) -> bool:
        """Whether it has its end, whoever made it."""
        return self._ended

    def _awake(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)
