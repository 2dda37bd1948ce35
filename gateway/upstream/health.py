"""What looks at a replica and failed calls make of it: down, checking or up.

Contract: pure; the replica does the looking. A replica begins `down` and becomes `checking` after
`health.healthy_after` good looks in a row: what it serves is looked at then, and only a whole check makes it
`up`. It falls after `health.unhealthy_after` failed looks in a row, or at once when a connection to it is
refused (`refused`): the kernel of a machine that lives says so when no process listens any more, so that it
needs no second opinion. Each fall ends one life of the server: what it kept in memory counts as lost.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["down", "checking", "up"]


class Health:
    """The phase of one replica."""

    __slots__ = ("_bad", "_good", "healthy_after", "phase", "unhealthy_after")

    def __init__(self, unhealthy_after: int, healthy_after: int) -> None:
        self.unhealthy_after = unhealthy_after
        self.healthy_after = healthy_after
        self.phase: Phase = "down"
        self._good = 0
        self._bad = 0

    def good(self) -> bool:
        """A look succeeded; True when a check is due now (the phase is `checking` then)."""
        self._bad = 0
        if self.phase == "up":
            return False
        self._good += 1
        if self.phase == "down" and self._good >= self.healthy_after:
            self.phase = "checking"
            return True
        return False

    def bad(self) -> bool:
        """A look failed; True when the replica has fallen by it."""
        self._good = 0
        self._bad += 1
        if self.phase == "up" and self._bad >= self.unhealthy_after:
            self.phase = "down"
            return True
        if self.phase == "checking":
            self.phase = "down"
        return False

    def refused(self) -> bool:
        """A connection was refused; True when the replica has fallen by it."""
        fell = self.phase == "up"
        self.phase = "down"
        self._good = 0
        return fell

    def checked(self, *, whole: bool) -> bool:
        """The check that was due has ended; True when the replica is up by it.

        One that was refused meanwhile stays down.
        """
        if self.phase != "checking":
            return False
        self.phase = "up" if whole else "down"
        self._good = self._bad = 0
        return whole
