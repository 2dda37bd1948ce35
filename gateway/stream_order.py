"""The order of a stream's answers: those of ordinary models come as their requests came, as with Triton.

Contract: each message of the client takes a turn when it is read. What is said in a turn waits for the turns before
it; it is kept, and whoever said it goes on, since the answer that all wait for may have to come through the same
reader. A turn that was set free (a decoupled model's) waits for none and holds none up. Nothing is said twice, and
not two things of the line at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[], Awaitable[None]]
"""MUST NOT raise."""


class Turn:
    """One message's place in the line."""

    __slots__ = ("free", "kept", "over")

    def __init__(self) -> None:
        self.free = False
        self.kept: deque[Say] = deque()
        self.over = False
        """Nothing more will be said in it."""


class Line:
    """The turns of one stream, the oldest first."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._saying = False

    def __bool__(self) -> bool:
        """Whether somebody is in it."""
        return bool(self._turns)

    def turn(self) -> Turn:
        """The last place."""
        made = Turn()
        self._turns.append(made)
        return made

    async def set_free(self, turn: Turn) -> None:
        """It keeps no order."""
        if not turn.free:
            turn.free = True
            self._turns.remove(turn)
            await self._advance()

    async def say(self, turn: Turn, say: Say, *, last: bool) -> None:
        """Say it as soon as the turn comes; `last`: it ends the turn."""
        if turn.free:
            await say()
            return
        turn.kept.append(say)
        turn.over = last
        await self._advance()

    def clear(self) -> None:
        """Nobody listens any more."""
        for turn in self._turns:
            turn.free = True
            turn.kept.clear()
        self._turns.clear()

    async def _advance(self) -> None:
        if self._saying:  # whoever is at it goes on to what has been kept meanwhile
            return
        self._saying = True
        try:
            while self._turns:
                first = self._turns[0]
                while first.kept:
                    await first.kept.popleft()()
                if not first.over:
                    return
                if self._turns and self._turns[0] is first:  # not cleared meanwhile
                    self._turns.popleft()
        finally:
            self._saying = False
