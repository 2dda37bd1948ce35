"""What every call looks at and counts: the fields of breaker, ejection and budget that one without failures touches.

Contract: plain fields; what they mean is said by the classes that are made of them. This is the specification of
`_counts_c.pyx`, whose fields `_straight_c.pyx` reaches without asking the interpreter.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.wire.validate import ModelSignature


class Counted:
    """Has calls under way."""

    __slots__ = ("in_flight",)

    in_flight: int


class Circuit:
    """Of a breaker."""

    __slots__ = ("closed", "epoch", "failures")

    closed: bool
    """The common case; everything else may be looked at only when it does not hold."""
    epoch: int
    """Grows with each change of state."""
    failures: int
    """In a row, while it is closed. A success of the closed state may set it to 0 instead of calling `leave`."""


class Tally:
    """Of a replica's outcomes."""

    __slots__ = ("consecutive", "out", "requests")

    out: bool
    """Ejected or on probation; everything else may be looked at only when it holds."""
    consecutive: int
    """Failures in a row."""
    requests: int


class Judged:
    """Of an upstream's ejection."""

    __slots__ = ("judge_at",)

    judge_at: float
    """When success rates are judged next."""


class Speed:
    """Of a model."""

    __slots__ = ("bound", "quick", "sure")

    bound: float
    """Seconds."""
    quick: bool
    """False until enough is known."""
    sure: bool
    """Quick with all that counts: a further quick answer changes nothing and need not be told."""


class Entry:
    """Of a model version."""

    __slots__ = ("signature", "stale_at")

    signature: ModelSignature
    stale_at: float
    """Monotonic time from which on it is asked for anew."""


class Known:
    """The model versions that are known."""

    _entries: dict[tuple[str, str], Any]

    def peek(self, model: str, version: str) -> ModelSignature | None:
        """What is known, however old; asks for news in the background when it is old."""
        entry: Entry | None = self._entries.get((model, version))
        if entry is None:
            return None
        # The loop's clock, without asking for the loop: CPython 3.11 makes a system call of that.
        if time.monotonic() > entry.stale_at:
            self._fetch(model, version)
        return entry.signature

    def _fetch(self, model: str, version: str) -> Any:
        raise NotImplementedError


class Deposits:
    """Requests by slots of one second."""

    __slots__ = ("_requests", "_slot")

    _requests: list[int]
    _slot: int

    def deposit(self, now: float) -> None:
        """A request begins."""
        slot = int(now)
        if slot != self._slot:
            self._turn(slot)
        self._requests[slot % len(self._requests)] += 1

    def _turn(self, slot: int) -> None:
        raise NotImplementedError
