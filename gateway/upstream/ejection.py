"""Passive health: replicas that fail real requests are left out for a while.

Contract: sans-IO; times are seconds of any clock that never runs backwards, handed in. It is told each outcome and
says which replicas are out. Two detectors, those of Envoy's outlier detection
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier):

- consecutive failures;
- success rate: every `interval` seconds, a replica whose rate is below mean - k * stdev of all that had enough
  requests, when these are at least `LEAST_REPLICAS`. Of n replicas a single bad one is at most sqrt(n - 1)
  standard deviations away, so that k = 1.9 can find it among five and more, and no k above 1 between two.

A replica is out for `time` seconds times the number of its ejections, at most ten times; an `interval` without a
failure takes one off. Then it is on probation: one request at a time until one succeeds; one that fails ejects it
again. At most `max_share` of the replicas are out at once, though one may always be; never the last that serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from gateway import settings
from gateway.upstream.counts import Judged, Tally

LEAST_REPLICAS: Final = 5
"""Replicas with enough requests below which success rates are not compared (Envoy's default)."""
MOST_TIMES: Final = 10
"""The time out grows up to this many times the first."""

Reason: TypeAlias = Literal["consecutive_failures", "success_rate"]


class Outlier(Tally):
    """What is remembered of one replica."""

    __slots__ = ("failed", "probes", "times", "until")

    def __init__(self) -> None:
        self.out = False
        self.until = 0.0
        self.times = 0
        """How many times in a row, which is how long."""
        self.probes = 0
        self.consecutive = 0
        self.requests = 0
        self.failed = 0

    def allows(self, now: float) -> bool:
        """Whether a request may go there."""
        return not self.out or (now >= self.until and not self.probes)


class Ejection(Judged):
    """The detectors of one upstream."""

    def __init__(self, config: settings.Ejection, *, ejected: Callable[[Outlier, Reason], None] | None = None) -> None:
        """`ejected`: told of each ejection."""
        self._config = config
        self._told = ejected
        self.judge_at = 0.0
        self.members: Sequence[Outlier] = ()
        """The replicas that serve (healthy as far as active checks know), ejected or not; kept by the upstream."""

    def began(self, one: Outlier, now: float) -> bool:
        """A request goes to a replica that is `out`; False: it must not. Whoever got True MUST call `ended`."""
        if not one.allows(now):
            return False
        one.probes += 1
        return True

    def ended(self, one: Outlier) -> None:
        """That request is over, before its outcome is told."""
        if one.probes:
            one.probes -= 1

    def succeeded(self, one: Outlier, now: float) -> None:
        """An answer, whatever it says: the replica serves."""
        one.requests += 1
        one.consecutive = 0
        self.settle(one, now)

    def settle(self, one: Outlier, now: float) -> None:
        """What follows a success that has been counted; needless while it is not `out` and before `judge_at`."""
        if one.out and now >= one.until:
            one.out = False
            one.probes = 0
        if now >= self.judge_at:
            self._judge(now)

    def failed(self, one: Outlier, now: float) -> None:
        """The server failed; see `plan.py` for what that is."""
        one.requests += 1
        one.failed += 1
        one.consecutive += 1
        if one.out:
            if now >= one.until:
                self._eject(one, now, "consecutive_failures")
        elif one.consecutive >= self._config.consecutive_failures:
            self._eject(one, now, "consecutive_failures")
        if now >= self.judge_at:
            self._judge(now)

    def recovered(self, one: Outlier, now: float) -> None:
        """An active check saw it come back: on probation at once."""
        one.consecutive = 0
        one.until = min(one.until, now)

    def _eject(self, one: Outlier, now: float, reason: Reason) -> None:
        config = self._config
        if not one.out:
            serving = [each for each in self.members if not each.out]
            ejected = len(self.members) - len(serving)
            if len(serving) - (one in serving) < 1:
                return  # the last one
            if ejected and ejected + 1 > config.max_share * len(self.members):
                return
            if config.max_share == 0:
                return
        one.out = True
        one.consecutive = 0
        one.probes = 0
        one.times = min(one.times + 1, MOST_TIMES)
        one.until = now + config.time * one.times
        if self._told is not None:
            self._told(one, reason)

    def _judge(self, now: float) -> None:
        """Success rates of the interval that ends now."""
        config = self._config
        self.judge_at = now + config.interval
        judged = [one for one in self.members if not one.out and one.requests >= config.success_rate_requests]
        if config.success_rate_stdev and len(judged) >= LEAST_REPLICAS:
            rates = [1 - one.failed / one.requests for one in judged]
            mean = math.fsum(rates) / len(rates)
            stdev = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))
            below = mean - config.success_rate_stdev * stdev
            for one, rate in sorted(zip(judged, rates, strict=True), key=lambda pair: pair[1]):
                if rate < below:
                    self._eject(one, now, "success_rate")
        for one in self.members:
            if not one.out and not one.failed and one.times:
                one.times -= 1
            one.requests = one.failed = 0
