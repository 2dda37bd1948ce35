"""What the workers of a machine tell each other about one model: load, probes, and the unloaded latency.

Contract: pure, on words that all of them map (`RUN_DIR/rates`); each worker writes only its own two. No word is
read for a decision that could not stand being taken a moment earlier or later: nothing is locked. Times are
seconds of the clock that the machine's processes share (CLOCK_MONOTONIC).

    load    bits 0-31: answers a second, in thousandths; 32-61: requests in flight and 1, while in a probe;
            62: this worker's limit is lowered
    found   bits 0-31: the unloaded latency in microseconds; 32-63: the second until which that is good
"""

from __future__ import annotations

from math import ceil

from kernels.counters import Atomics

_LOW = (1 << 32) - 1
_PROBE_BITS = (1 << 30) - 1
_LOWERED = 1 << 62


class Peers:
    """One model, from one worker's point of view.

    Args:
        words: shared with the others.
        load: index of the first of the `slots` load words.
        found: the same of the found words.
        slot: this worker's.
    """

    __slots__ = ("_everyone", "_found", "_own_found", "_own_load", "_probe", "_rate", "_words")

    def __init__(self, words: Atomics, load: int, found: int, slot: int, slots: int) -> None:
        self._words = words
        self._everyone = [load + other for other in range(slots)]
        self._found = [found + other for other in range(slots)]
        self._own_load = load + slot
        self._own_found = found + slot
        self._rate = self._probe = 0

    def share(self, rate: float, *, lowered: bool) -> tuple[float, int, bool]:
        """Tells this worker's answers a second, and whether its limit is `lowered`.

        Returns those of all workers, how many have any, and whether another worker's limit is lowered, or it probes.
        """
        self._rate = min(round(rate * 1000), _LOW) | (_LOWERED if lowered else 0)
        self._store()
        sum_, sharers, others = 0, 0, False
        for word in self._everyone:
            value = self._words.load(word)
            sum_ += value & _LOW
            sharers += value & _LOW > 0
            others |= value > _LOW and word != self._own_load
        return sum_ / 1000, max(1, sharers), others

    def tell(self, unloaded: float, until: float) -> None:
        """This worker found the unloaded latency; until then it need not be looked for again."""
        micros = min(max(1, round(unloaded * 1e6)), _LOW)
        self._words.store(self._own_found, ceil(until) << 32 | micros)

    def told(self, now: float) -> tuple[float, float]:
        """The unloaded latency that some worker found, the one that is good for longest, and until when; else 0, 0."""
        best = max(map(self._words.load, self._found))
        until = best >> 32
        return ((best & _LOW) / 1e6, float(until)) if until > now else (0.0, 0.0)

    def hold(self, in_flight: int) -> None:
        """This worker is in a probe: it holds its requests back, and has so many at the server."""
        self._probe = min(in_flight + 1, _PROBE_BITS)
        self._store()

    def release(self) -> None:
        """It is in the probe no more."""
        self._probe = 0
        self._store()

    @property
    def probing(self) -> bool:
        """Whether some worker is in a probe."""
        return any(self._words.load(word) >> 32 & _PROBE_BITS for word in self._everyone)

    def claim(self, *, all_in: bool) -> bool:
        """Whether it is this worker that measures: once all in the probe have drained, the first who asks.

        Who claims counts as having one in flight until `hold` says otherwise. Two that ask in the same microsecond
        both measure, each with one in flight more than there should be.
        `all_in`: those who are not in it, though they have load, are waited for too.
        """
        for word in self._everyone:
            value = self._words.load(word)
            probe = value >> 32 & _PROBE_BITS
            if probe > 1 or (all_in and not probe and value & _LOW):
                return False
        self.hold(1)
        return True

    def _store(self) -> None:
        self._words.store(self._own_load, self._rate | self._probe << 32)


def nobody() -> Peers:
    """Of a worker that has a server for itself."""
    return Peers(Atomics(bytearray(16)), 0, 1, 0, 1)
