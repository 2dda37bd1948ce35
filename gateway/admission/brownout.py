"""What is given up first when there is not room for all.

The order, and who carries it out:

1. shadows: while somebody waits for a place at the variant's model or the shadow's, no copy is made
   (`Pipeline.mirror`; counted in `tidegate_shadow_dropped_total`);
2. trace sampling: while requests are turned away, or waited for half of `queue`, no trace is begun that the
   caller did not ask for (`Tracing.pause`);
3. low priority: requests are turned away, lowest priority first (`priority`).

Contract: `Brownout.look` is called a few times a second, not for each request. Each step ends by itself when
its reason does.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from gateway.admission.concurrency import Gate, Gates, Meters

LOOK_S = 0.25
"""Seconds between two looks."""

NONE, SHADOWS, SAMPLING, PRIORITY = range(4)
"""Levels: how far down the list things are given up."""


class Pauses(Protocol):
    """What brown-out turns off (`gateway.tracing.Tracing`)."""

    def pause(self, paused: bool) -> None:
        """Begin no trace that the caller did not ask for."""


def level_of(gate: Gate, now: float) -> int:
    """How far a gate has to go; `now` in seconds."""
    if gate.shed_until > now:
        return PRIORITY
    if not gate.saturated:
        return NONE
    return SAMPLING if gate.room.longest_wait(now) > gate.config.queue / 2 else SHADOWS


class Brownout:
    """Looks after the gates of one worker."""

    def __init__(self, gates: Gates, tracing: Pauses, meters: Meters) -> None:
        self._gates = gates
        self._tracing = tracing
        self._meters = meters
        self.level = NONE

    def look(self, now: float) -> None:
        """Follow the gates; tell the meters about each."""
        level = NONE
        for (upstream, model), gate in self._gates.items():
            gate.limiter.look(now, waiting=gate.saturated)  # nobody else does where load ended in the middle of a probe
            level = max(level, level_of(gate, now))
            self._meters.state(upstream, model, gate)
        self.level = level
        self._tracing.pause(level >= SAMPLING)

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(time.perf_counter())
