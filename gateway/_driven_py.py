"""The specification of `_driven_c.pyx` in Python; `driven` has the contract."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from typing import Any, cast

_running = False
"""A `Driven` is in the midst of a step."""


class Direct(asyncio.Future[Any]):
    """A future that resumes a `Driven` at once; for everyone else it is a future."""

    driven: Driven | None = None
    """Who waits for it."""

    def set_result(self, result: Any) -> None:
        """The result; resumes who waits."""
        super().set_result(result)
        driven = self.driven
        if driven is not None:
            driven._step(None)  # noqa: SLF001 - it waits for nothing else

    def set_exception(self, exception: type | BaseException, /) -> None:
        """The failure; resumes who waits in a later turn of the loop."""
        super().set_exception(exception)
        if self.driven is not None:
            self.get_loop().call_soon(self.driven.resume, self)

    def cancel(self, msg: Any = None) -> bool:
        """As a future's; resumes who waits in a later turn of the loop."""
        if not super().cancel(msg):
            return False
        if self.driven is not None:
            self.get_loop().call_soon(self.driven.resume, self)
        return True


def answer_of(loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
    """What the running coroutine is going to wait for: a `Direct` within a `Driven`, else a future."""
    return Direct(loop=loop) if _running else loop.create_future()


class Driven:
    """Runs a coroutine to its end.

    Args:
        loop: that runs now.
        coroutine: MUST not have begun.
        done: called once with result and error when it has ended; the error is None when there is a result.
    """

    __slots__ = ("__weakref__", "_cancel", "_cancels", "_coroutine", "_done", "_loop", "_waits_for")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._done = done
        self._waits_for: asyncio.Future[Any] | None = None
        self._cancel = False  # at the next step
        self._cancels = 0

    def start(self) -> None:
        """Run until it has to wait, or to its end."""
        self._step(None)

    def resume(self, future: asyncio.Future[Any]) -> None:
        """What it waits for is done."""
        if future is self._waits_for:
            self._step(None)

    # -- what asyncio asks of a task -------------------------------------------------------------------------

    def cancel(self, msg: object = None) -> bool:
        """As `asyncio.Task.cancel`: CancelledError is raised where it waits, in a later turn of the loop."""
        self._cancels += 1
        waits_for = self._waits_for
        if waits_for is None or not waits_for.cancel(msg):
            self._cancel = True
        return True

    def cancelling(self) -> int:
        """Requests to cancel that nobody took back."""
        return self._cancels

    def uncancel(self) -> int:
        """Takes one back; returns what is left."""
        if self._cancels:
            self._cancels -= 1
        return self._cancels

    # -- steps -----------------------------------------------------------------------------------------------

    def _step(self, error: BaseException | None) -> None:
        self._waits_for = None
        if self._cancel:
            self._cancel = False
            error = asyncio.CancelledError()
        coroutine = self._coroutine
        loop = self._loop
        # What may run a coroutine of its own is a task to asyncio (docs.python.org, "Extending asyncio").
        task = cast("asyncio.Task[Any]", self)
        global _running  # noqa: PLW0603 - one loop, one thread
        _enter_task(loop, task)
        _running = True
        try:
            waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result, failed = stop.value, None
        except BaseException as raised:  # noqa: BLE001 - whoever began it is told, whatever it is
            result, failed = None, raised
        else:
            _running = False
            _leave_task(loop, task)
            self._wait(waits_for)
            return
        _running = False
        _leave_task(loop, task)
        self._done(result, failed)

    def _wait(self, waits_for: Any) -> None:
        """It has yielded a future, or None to let others run."""
        if waits_for is None:
            self._loop.call_soon(self._step, None)
            return
        waits_for._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between futures and tasks
        self._waits_for = waits_for
        if type(waits_for) is Direct:
            waits_for.driven = self
        else:
            waits_for.add_done_callback(self.resume)
        if self._cancel and waits_for.cancel():
            self._cancel = False
