"""One shadow of one route: the copies under way, those that wait, and what may come in.

Contract: bookkeeping without I/O; `shadows` sends. The calls of a sequence are sent one after the other, in
the order in which they came to this worker. Once one of them is dropped or fails, the rest of the sequence is
dropped as well: the shadow's state would be another one than the variant's.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.routing.compare import OutputDifference
from gateway.routing.copies import answer_bytes, call_bytes
from gateway.routing.route import CompiledShadow
from gateway.routing.sequences import sequence_id
from gateway.routing.state import ShadowMeters
from gateway.wire.types import InferAnswer, InferCall

MOST_BROKEN = 4096
"""Sequences that are remembered as broken; the oldest is forgotten, and then fails at the shadow itself."""


class FullError(Exception):
    """A bound is reached, or the sequence is broken already."""


class Infers(Protocol):
    """The part of an upstream that a copy needs."""

    async def infer(
        self,
        call: InferCall,
        *,
        model: str,
        version: str,
        headers: Sequence[tuple[str, str]],
        timeout: float,
    ) -> InferAnswer:
        """One unary call. MUST raise TidegateError for whatever goes wrong."""


class Copy:
    """One copy of a call; the pipeline says when the call itself is done."""

    __slots__ = (
        "_answer",
        "_done",
        "_lane",
        "_lost",
        "_offered",
        "_seconds",
        "_theirs",
        "_theirs_seconds",
        "begins",
        "call",
        "classes",
        "decided",
        "ends",
        "headers",
        "nbytes",
        "sequence",
        "shadow",
        "upstream",
    )

    def __init__(
        self,
        lane: Lane,
        shadow: CompiledShadow,
        call: InferCall,
        upstream: Infers,
        headers: list[tuple[str, str]],
        decided: Callable[[InferAnswer], None] | None = None,
    ) -> None:
        self._lane = lane
        self.shadow = shadow
        self.call: InferCall | None = call
        self.upstream = upstream
        self.headers = headers
        self.decided = decided
        self.nbytes = call_bytes(call)
        self.sequence = sequence_id(call.parameters)
        self.begins = call.parameters.get("sequence_start") is True
        self.ends = call.parameters.get("sequence_end") is True
        self.classes = [output.name for output in call.outputs if output.classification]
        self._offered = time.perf_counter()
        self._done = False  # the call itself is
        self._lost = False  # there will be no answer of the shadow
        self._answer: InferAnswer | None = None
        self._seconds = 0.0
        self._theirs: InferAnswer | None = None
        self._theirs_seconds = 0.0

    def primary_done(self, answer: InferAnswer | None) -> None:
        """The call was answered, or failed (None). MUST be called once, whatever becomes of the call."""
        if self._done:
            return
        self._done = True
        self._answer = answer
        self._seconds = time.perf_counter() - self._offered
        if not self._lost:
            self._lane.hold(self, answer)
            self._meet()

    def answered(self, answer: InferAnswer, seconds: float) -> None:
        """The shadow answered."""
        if self.decided is not None:
            self.decided(answer)
        self.call = self.decided = None  # lets go of the inputs
        self._theirs, self._theirs_seconds = answer, seconds
        self._lane.hold(self, answer)
        self._meet()

    def lose(self) -> None:
        """There is nothing to compare: the copy failed or was dropped."""
        if not self._lost:
            self._lost = True
            self.call = self.decided = self._answer = self._theirs = None
            self._lane.release(self)

    def _meet(self) -> None:
        """Compares once both answers are there."""
        ours, theirs, lane = self._answer, self._theirs, self._lane
        if not self._done or theirs is None:
            return
        self._answer = self._theirs = None
        if ours is None:
            lane.meters.uncompared.inc()
            lane.release(self)
        else:
            lane.meters.latency.observe(self._theirs_seconds - self._seconds)
            lane.compare(self, ours, theirs)

    def compared(self, differences: list[OutputDifference]) -> None:
        """The comparison is made."""
        self._lane.meters.compared(differences)
        self._lane.release(self)


class Lane:
    """The copies of one shadow of one route: which go now, which wait, which are dropped."""

    def __init__(
        self, meters: ShadowMeters, compare: Callable[[Copy, InferAnswer, InferAnswer], None], held_bytes: int
    ) -> None:
        self.meters = meters
        self.compare = compare
        """Compares, then calls `Copy.compared`."""
        self._held_bytes = held_bytes
        self.running = 0
        self.held = 0
        self._ready: deque[Copy] = deque()
        # A sequence with a copy that waits in `_ready` or is under way, and its further copies.
        self._sequences: dict[int | str, deque[Copy]] = {}
        self._waiting = 0
        self._broken: OrderedDict[int | str, None] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Whether no copy is under way, waiting or being compared."""
        return not self.running and not self._waiting and not self.held

    def add(self, copy: Copy) -> Copy | None:
        """Take the copy in; returned when it is to be sent at once, else it waits. Raises FullError."""
        shadow, sequence = copy.shadow, copy.sequence
        if sequence is not None:
            if copy.begins:
                self._broken.pop(sequence, None)
            elif sequence in self._broken:
                if copy.ends:
                    del self._broken[sequence]
                raise FullError
        follows = sequence is not None and sequence in self._sequences
        at_once = not follows and self.running < shadow.concurrency
        if not at_once and self._waiting >= shadow.queue:
            raise FullError
        if self.held and self.held + copy.nbytes > self._held_bytes:
            raise FullError
        self.held += copy.nbytes
        if sequence is not None and not follows:
            self._sequences[sequence] = deque()
        if at_once:
            self.running += 1
            return copy
        self._waiting += 1
        if sequence is not None and follows:
            self._sequences[sequence].append(copy)
        else:
            self._ready.append(copy)
        return None

    def next(self, sent: Copy) -> Copy | None:
        """After a copy was sent: the one to send in its place, if any; else there is one less under way."""
        if sent.sequence is not None:
            self._follow(sent)
        if self._ready and self.running <= sent.shadow.concurrency:
            self._waiting -= 1
            return self._ready.popleft()
        self.running -= 1
        return None

    def drop(self, copy: Copy) -> None:
        """A copy that was taken in is not sent, or not to its end."""
        self.meters.dropped.inc()
        self.break_sequence(copy)
        copy.lose()

    def break_sequence(self, copy: Copy) -> None:
        """The rest of the copy's sequence makes no sense to the shadow."""
        if copy.sequence is None or copy.ends:
            return
        self._broken[copy.sequence] = None
        if len(self._broken) > MOST_BROKEN:
            self._broken.popitem(last=False)

    def drop_waiting(self) -> None:
        """Drop all that wait."""
        waiting = [*self._ready, *(copy for queue in self._sequences.values() for copy in queue)]
        self._ready.clear()
        self._sequences.clear()
        self._waiting = 0
        for copy in waiting:
            self.drop(copy)

    def hold(self, copy: Copy, answer: InferAnswer | None) -> None:
        """The copy keeps an answer alive as well."""
        if answer is not None:
            nbytes = answer_bytes(answer)
            copy.nbytes += nbytes
            self.held += nbytes

    def release(self, copy: Copy) -> None:
        """The copy keeps nothing alive any more."""
        self.held -= copy.nbytes
        copy.nbytes = 0

    def _follow(self, sent: Copy) -> None:
        """The next copy of a sequence is ready when the one before it is through."""
        assert sent.sequence is not None
        followers = self._sequences.get(sent.sequence)
        while followers:
            copy = followers.popleft()
            if copy.begins:
                self._broken.pop(sent.sequence, None)
            if sent.sequence not in self._broken:
                self._ready.append(copy)
                return
            self._waiting -= 1
            self.drop(copy)
        self._sequences.pop(sent.sequence, None)
