"""One call of a gRPC client, as the handlers see it; each engine has its own.

Contract: the handlers know nothing of grpcio and nothing of HTTP/2. What ends a call early is raised: `Ended` when the
handler itself gave it a status, `Gone` when nobody takes what is written (a handler may let it pass: its call is a
cancelled one then), `asyncio.CancelledError` when the client left, its deadline is over, or the server must hurry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from gateway.headers import Headers
    from gateway.tls import PeerCertificate

Metadata: TypeAlias = Iterable[tuple[str, str]]


class Ended(Exception):
    """The call has its status."""


class Gone(Exception):
    """Nobody takes what is written."""


class Call(Protocol):
    """One call."""

    @property
    def headers(self) -> Headers:
        """The client's metadata without binary values; MUST NOT be changed: calls with the same share it."""

    @property
    def deadline(self) -> float | None:
        """Event-loop time by which the client wants its answer; None: it set none."""

    def client(self) -> tuple[str, PeerCertificate | None]:
        """Address (`ipv4:HOST:PORT`) and certificate of the client. Raises Cancelled when it has gone."""

    def messages(self) -> AsyncIterator[bytes]:
        """What the client sends, to its end; not for unary calls, whose handlers are given their message."""

    async def begin(self, metadata: Metadata) -> None:
        """Send initial metadata; once, before the first message or the end. Raises Gone."""

    async def write(self, message: bytes) -> None:
        """Send one message, and wait while the client does not take them. Raises Gone."""

    async def abort(self, code: str, message: str, trailing: Metadata = ()) -> NoReturn:
        """End the call with a status that is not OK, by its name. Raises Ended or Gone."""


Unary: TypeAlias = Callable[[Call, bytes], Awaitable[bytes]]
"""The answer to a message."""
Streaming: TypeAlias = Callable[[Call], Awaitable[None]]
"""Reads and writes by itself; the call ends with OK when it returns."""


class Method(msgspec.Struct, frozen=True):
    """What serves a method: one of the two."""

    unary: Unary | None = None
    streaming: Streaming | None = None
    direct: bool = False
    """The unary handler may run without a task (`gateway.driven`)."""
