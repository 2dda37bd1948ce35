"""What a stream of messages to a model server is to whoever uses it, whatever carries it; and grpcio's.

Contract of `StreamRpc`: messages go and come in their order, serialised. Nothing that a caller awaits ends the stream
when the caller is cancelled: only `cancel` does, and the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

import grpc

from gateway.errors import TidegateError, Unreachable

ENDED: Final = "the model server ended the stream"


class StreamRpc(Protocol):
    """One call with a stream of messages each way."""

    async def write(self, message: bytes) -> None:
        """Send a message; waits while too many wait. One that comes too late is dropped: `read` says why."""

    def half_close(self) -> None:
        """No more messages will be sent."""

    async def read(self) -> bytes | None:
        """The next message; None: the server has ended the stream, and all is well. One reader at a time.

        Raises:
            TidegateError: how it ended else.
        """

    def cancel(self) -> None:
        """End it now; what has come is dropped."""


class GrpcioStream:
    """A `grpc.aio` call.

    Args:
        rpc: the call, with messages as bytes.
        error_of: what an `AioRpcError` stands for.
    """

    def __init__(self, rpc: Any, error_of: Callable[[Any], TidegateError]) -> None:
        self._rpc = rpc
        self._error_of = error_of
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # held, or they could be collected while they run

    async def write(self, message: bytes) -> None:
        """As `StreamRpc`."""
        # In a task of its own: grpc.aio would cancel the call with whoever waits here.
        await asyncio.shield(self._hold(self._write(message)))

    async def _write(self, message: bytes) -> None:
        async with self._writing:
            try:
                await self._rpc.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the stream is over; the reader finds out why
            except asyncio.CancelledError:
                if not self._rpc.done():  # else likewise: grpc.aio's word for a call that `cancel` ended
                    raise

    def half_close(self) -> None:
        """As `StreamRpc`."""
        self._hold(self._half_close())

    async def _half_close(self) -> None:
        async with self._writing:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has ended already
                await self._rpc.done_writing()

    async def read(self) -> bytes | None:
        """As `StreamRpc`."""
        try:
            message = await self._rpc.read()
        except grpc.aio.AioRpcError as cause:
            raise self._error_of(cause) from None
        except asyncio.CancelledError:
            if not self._rpc.done():
                raise
            # grpc.aio's word for our own `cancel` and for a closed channel.
            raise Unreachable(ENDED, detail="cancelled") from None
        return None if message is grpc.aio.EOF else bytes(message)

    def cancel(self) -> None:
        """As `StreamRpc`."""
        self._rpc.cancel()

    def _hold(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
