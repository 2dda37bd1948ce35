"""What a client must take of an answer within `limits.send_timeout`, and the clock of a connection that does not.

Contract: a connection whose transport is full has that long for each `LEAST_TAKEN` bytes, or for all that waits; then
it is cut. What counts is what the client's kernel has acknowledged.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

LEAST_TAKEN: Final = 32 * 1024
"""1 KiB a second at the default of 30 s."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # struct linger


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes that the client has not acknowledged: those that wait here, and in the kernel.

    The kernel says that it has room again when a third of its megabytes is free: what is left here alone would make
    slow readers look like dead ones, and dead ones like slow ones.
    """
    waiting = array.array("i", [0])
    with contextlib.suppress(OSError, ValueError):  # closed meanwhile
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
    return transport.get_write_buffer_size() + waiting[0]


class SendClock:
    """Cuts a connection whose client takes too little, until `stop`.

    Args:
        transport: of the connection.
        seconds: says `limits.send_timeout`, which may change.
    """

    def __init__(self, transport: asyncio.WriteTransport, seconds: Callable[[], float]) -> None:
        self._transport = transport
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._again()

    def stop(self) -> None:
        """The client takes what is sent, or has gone."""
        self._timer.cancel()

    def _again(self) -> None:
        self._untaken = untaken(self._transport)
        self._timer = self._loop.call_later(self._seconds(), self._due)

    def _due(self) -> None:
        if self._untaken - untaken(self._transport) >= min(LEAST_TAKEN, self._untaken):
            self._again()
        else:
            self._cut()

    def _cut(self) -> None:
        """Reset the connection: after a mere close the kernel would hold what waits, at the client's pace."""
        with contextlib.suppress(OSError, ValueError):
            handle = self._transport.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()
