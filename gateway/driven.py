"""A coroutine that runs without a task: it begins at once, and is resumed where its answer arrives.

Contract: `Driven` is what `asyncio.Task` is to whoever runs within it (`current_task`, `asyncio.timeout`, `cancel`),
with two differences. It begins in the caller's stack instead of in a later turn of the loop. And a `Direct` that it
waits for resumes it in the stack of whoever sets the result, where a future would do so in a later turn: each such
turn costs a `call_soon` and an `epoll_wait`. A task costs 9 us, of which an inference request that needs one pays 3.

Both MUST happen in a callback of the loop and not within a task. Whoever sets a `Direct` MUST have nothing left to do
that the resumed coroutine could see half done. What fails is told in a later turn, so that closing connections resume
nobody.

The only place that chooses between the C twin and its specification in Python; `TIDEGATE_NO_EXTENSIONS=1` takes the
specification.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway._driven_py import Driven, answer_of
else:
    from gateway._driven_c import Driven, answer_of

__all__ = ["Driven", "answer_of", "begun"]


def begun(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run a coroutine until it has to wait; the task that runs the rest, None when there is none.

    Up to there it runs in the caller's task: what it does MUST NOT be bound to a task of its own (`asyncio.timeout`).
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return loop.create_task(_rest(coroutine, waits_for))


async def _rest(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _Rest(coroutine, waits_for)


class _Rest:
    """A coroutine that has begun, to be awaited."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waits_for = self._coroutine, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's: a cancellation, mostly
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
        except StopIteration:
            return
