"""The specification of `_reading_c.pyx` in Python; `http_large` has what reads."""

from __future__ import annotations

from typing import Any, Final

from gateway.doors.http_connection import LARGE

_BUFFER: Final = memoryview(bytearray(LARGE))
"""Of all connections: what is read is taken at once."""


class Reading:
    """What the event loop asks of a buffered protocol for each read."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        """`connection`: a `LargeBodyProtocol`."""
        self._connection = connection

    def get_buffer(self, sizehint: int, /) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes go."""
        large = self._connection.arriving
        return _BUFFER if large is None else large.left

    def buffer_updated(self, nbytes: int, /) -> None:
        """So many have come."""
        large = self._connection.arriving
        if large is None:
            self._connection.data_received(bytes(_BUFFER[:nbytes]))
        else:
            large.came(nbytes)
