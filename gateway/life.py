"""One worker process as its supervisor sees it: started, ready, relieved, ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

COVER: Final = b"+"
UNCOVER: Final = b"-"
"""What a worker is told about another seat, whose number follows in two bytes; with the first come its sockets."""


class Life:
    """A worker process. Make it with `begin`.

    A session of its own: Ctrl-C reaches the supervisor alone, which then lets the workers drain. The process holds
    one end of a socket pair; it says `ready` there, and leaves when the other end, the supervisor's, closes.
    """

    def __init__(self, slot: int, process: asyncio.subprocess.Process, pipe: socket.socket) -> None:
        self.slot = slot
        self.ready = asyncio.Event()
        """It accepts requests."""
        self._process = process
        self._pipe = pipe
        self._owed: list[int] = []
        """Signals that came while it was starting, and so deaf: they would have ended it. It gets them when ready."""
        self.ended = asyncio.create_task(self._end())
        """Its exit status, as `subprocess` has it."""
        self._awaiting = asyncio.create_task(self._await_ready())

    @classmethod
    async def begin(cls, slot: int, arguments: Sequence[str], descriptors: Sequence[int]) -> Life:
        """Start one with these arguments and descriptors. Raises OSError."""
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "gateway.worker", "--slot", str(slot), "--status-fd", str(theirs.fileno())]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                *arguments,
                pass_fds=[theirs.fileno(), *descriptors],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(slot, process, ours)

    def signal(self, sig: int) -> None:
        """Send a signal, but for SIGTERM once it is ready; nothing happens when it has ended."""
        if self._process.returncode is not None:
            return
        if self.ready.is_set() or sig == signal.SIGTERM:
            self._process.send_signal(sig)
        elif sig not in self._owed:
            self._owed.append(sig)

    def cover(self, seat: int, descriptors: Sequence[int]) -> None:
        """Accept connections at another seat's listening sockets too, which has no worker. Raises OSError."""
        socket.send_fds(self._pipe, [COVER + seat.to_bytes(2)], descriptors)

    def uncover(self, seat: int) -> None:
        """That seat has a worker again."""
        with contextlib.suppress(OSError):  # it has ended
            self._pipe.send(UNCOVER + seat.to_bytes(2))

    async def leave(self, sig: int, patience: float) -> int:
        """Send a signal upon which it leaves; kill it when it has not within `patience` seconds. Its exit status."""
        self.signal(sig)
        await asyncio.wait({self.ended}, timeout=patience)
        if not self.ended.done():
            self._process.kill()
        return await asyncio.shield(self.ended)

    async def _end(self) -> int:
        status = await self._process.wait()
        self._awaiting.cancel()
        self._pipe.close()
        return status

    async def _await_ready(self) -> None:
        self._pipe.setblocking(False)
        if await asyncio.get_running_loop().sock_recv(self._pipe, 16) != b"ready\n":
            return
        self.ready.set()
        for sig in self._owed:
            self.signal(sig)
