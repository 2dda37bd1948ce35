"""What is known of a model's latency: a quantile, for hedging, and whether it is quick, for the transport.

Contract: sans-IO, seconds in and out; O(1) for each answer, nothing is allocated after it was made.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.upstream.counts import Speed

_SUB: Final = 8  # buckets an octave: their bounds are at most 12.5 % apart
_OCTAVES: Final = 28  # 2**-20 s (1 us) to 2**8 s (4 min)
_LOWEST: Final = -19  # frexp's exponent of 2**-20
_BUCKETS: Final = _SUB * _OCTAVES
_HALVE_AT: Final = 1024
"""Answers after which all counts are halved, so that the last thousand or so decide."""
_REFRESH: Final = 32
"""Answers after which the quantile is looked up again: a walk over the buckets, some microseconds."""
LEAST: Final = 32
"""Answers below which there is no quantile."""


class LatencyQuantile:
    """A quantile of the last answers' latency, from counts in logarithmic buckets that decay.

    The same layout as HDR histograms and DDSketch: relative error at most one bucket, 12.5 %, upwards.
    """

    __slots__ = ("_counts", "_quantile", "_total", "_until_refresh", "value")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._counts = [0] * _BUCKETS
        self._total = 0
        self._until_refresh = LEAST
        self.value = math.inf
        """Seconds; infinite until `LEAST` answers came."""

    def observe(self, seconds: float) -> None:
        """One answer's latency."""
        mantissa, exponent = math.frexp(seconds)  # seconds == mantissa * 2**exponent, 0.5 <= mantissa < 1
        bucket = (exponent - _LOWEST) * _SUB + int((mantissa - 0.5) * 2 * _SUB)
        if bucket < 0:
            bucket = 0
        elif bucket >= _BUCKETS:
            bucket = _BUCKETS - 1
        self._counts[bucket] += 1
        self._total += 1
        self._until_refresh -= 1
        if not self._until_refresh:
            self._refresh()

    def _refresh(self) -> None:
        self._until_refresh = _REFRESH
        counts = self._counts
        if self._total >= _HALVE_AT:
            for at, count in enumerate(counts):
                counts[at] = count >> 1
            self._total = sum(counts)
        wanted = self._quantile * self._total
        seen = 0
        for at, count in enumerate(counts):
            seen += count
            if seen >= wanted and count:
                octave, sub = divmod(at, _SUB)
                self.value = math.ldexp(0.5 + (sub + 1) / (2 * _SUB), octave + _LOWEST)
                return


class Quickness(Speed):
    """Whether the median of the last answers is below a bound: a sign test that saturates.

    Each answer moves a counter one step up or down within +-`_MOST`; more quick than slow ones drive it up. So a
    model is taken for quick after `KNOWN_AFTER` quick answers, and for slow after at most twice as many slow ones.
    """

    __slots__ = ("_score",)

    _MOST = 8

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._score = 0
        self.quick = False
        self.sure = False

    def observe(self, seconds: float) -> None:
        """One answer's latency."""
        score = self._score
        if seconds < self.bound:
            if score < self._MOST:
                self._score = score = score + 1
                if score == self._MOST:
                    self.quick = self.sure = True
        elif score > -self._MOST:
            self._score = score = score - 1
            self.sure = False
            if score <= 0:
                self.quick = False
