"""How many requests of one model may be at the model server at once, found from what comes back.

Contract: pure and synchronous; the caller hands the clock in (seconds, monotonic) and does the waiting. Every
`enter` that did not return 0 MUST be followed by one `leave`. One limiter belongs to one worker, upstream and
model, and outlives reloads of the settings.

The method is a gradient on latency (Netflix concurrency-limits; Envoy's adaptive concurrency filter) that
throughput may overrule (BBR: Cardwell et al., ACM Queue 14(5), 2016, probes in the same way):

- Time is cut into windows of at least `_COMPLETIONS` answers. Of each: throughput X, mean requests in flight
  n (an integral, not a sample), and by Little's law the mean latency R = n / X. R sees a queue that grows as
  soon as it grows; the latencies of finished requests would tell only later.
- The unloaded latency is learned from requests that were alone in flight. It is a mean, not a minimum: for a
  model whose latency depends on its input a minimum would be the smallest input's.
- Where load came before `_KNOWN` such requests, it is measured: for some answers a single request goes at a time
  (Envoy's minRTT window, BBR's ProbeRTT), and again every `_AGAIN` seconds until a quiet moment tells better.
  One worker measures for all (`peers`): the others hold their requests back, and who first has one to send once
  nobody has any at the server does it. Probes begin at multiples of `_GRID` seconds of the clock that they
  share; who comes later joins. Before the first of them, from an answer on that was late after the first of all,
  no more may be at the server than are: they have to drain before anything can be measured.
- While R stays below `tolerance` times the unloaded latency, or within `STANDING` of it (CoDel's 5 ms: a
  standing queue shorter than that harms nobody), nothing is limited but by `max`.
- Beyond, and while requests in flight do not decrease (a burst that drains is no overload), the limit becomes
  what Little's law asks for: X times the tolerated latency. Then the throughput is looked at again. If it
  fell, the requests in flight were not a queue but made larger batches or used more instances: the limit
  climbs back until the throughput is there, and the latency found there is tolerated from then on, fading to
  the unloaded one over `_FADE` seconds, so that it is tried again.

A pure latency gradient fails models that batch (their best throughput is at several times the unloaded
latency). Throughput alone fails as soon as several workers share a server, since whoever sends more gets more:
so workers tell each other theirs, it is the sum that is compared, and none is held below an equal share of
it: who sends more shrinks until all are equal or have what they ask for.
"""

from __future__ import annotations

import os
from math import ceil, exp
from typing import TYPE_CHECKING

from gateway.admission.peers import Peers, nobody
from gateway.settings import AdaptiveConcurrency

# The only place that chooses between the C twin and its specification in Python.
if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway.admission._window_py import Window
else:
    from gateway.admission._window_c import Window

STANDING = 0.005
"""Seconds of latency over the unloaded one that are no overload (RFC 8289 section 4.3, CoDel's target)."""

_COMPLETIONS = 16
"""Answers without which a window says nothing."""
_JUDGED = 48
"""Answers of a window in which throughputs are compared."""
_SHORTEST, _LONGEST = 0.05, 4.0
"""Seconds of a window; the first when it has its answers, the second when it has any at all."""
_IDLE = 2.0
"""A window this long with few answers means that there is no load: nothing is limited any more."""
_LOSS = 0.07
"""Share of the throughput that a lower limit may cost: the noise of 48 answers is as large."""
_WARM = 8
"""Requests alone in flight that count as one: the first of a model are slow."""
_KNOWN = 16
"""Requests alone in flight from which on the unloaded latency is known."""
_LEARNED = 12
"""Requests alone in flight that a probe's result, or another worker's word, counts for."""
_MEMORY = 32
"""Requests of which it is the mean; later ones replace earlier ones."""
_PROBED, _ENOUGH, _PROBE = 16, 4, 0.15
"""Answers of a probe: so many, or the second number once the probe has lasted this many seconds."""
_GRID, _AGAIN = 1.0, 64.0
"""Seconds: probes begin when the clock is a multiple; the first one, and later ones after a few."""
_PATIENCE = 2
"""Windows with less throughput after a jump that are waited out before it is taken back."""
_CLIMB = 1.35
_FADE = 60.0
_QUICKER = 0.7
"""A mean latency under load below this share of the unloaded one is no noise."""
_WORTH = 0.9
"""A jump by less than a tenth is not tried."""


class Limiter(Window):
    """The limit of one model on one upstream, in one worker."""

    __slots__ = (
        "_alone",
        "_config",
        "_congested",
        "_known_until",
        "_n_before",
        "_patience",
        "_pause",
        "_peers",
        "_probe_from",
        "_probe_late",
        "_probe_sum",
        "_probe_tried",
        "_probed",
        "_samples",
        "_settling",
        "_since",
        "_tolerated",
        "_wanted",
        "_x_before",
        "_x_last",
        "throughput",
    )

    def __init__(self, config: AdaptiveConcurrency, now: float, peers: Peers | None = None) -> None:
        """`peers`: the other workers before the same server; None: there are none."""
        super().__init__(config.max, now)
        self._peers = peers or nobody()
        self.throughput = 0.0
        """Answers a second in the last window; 0: not known."""
        self._config = config
        self._alone = 0.0  # latency of requests alone in flight; 0: none yet
        self._known_until = 0.0  # until then that need not be looked for
        self._samples = 0
        self._probe_from = 0.0  # when the next probe begins; 0: none is wanted
        self._pause = _GRID  # grid of the next but one
        self._probe_late = 0.0  # when workers that do not take part are waited for no longer
        self._probe_sum = 0.0
        self._probe_tried = self._probed = 0
        self._tolerated = 0.0  # latency at which throughput was still gained; fades to `_alone`
        self._congested = False  # so was the last window
        self._settling = False  # after a jump: until those in flight fit the limit
        self._patience = 0
        self._x_before = self._n_before = self._x_last = 0.0  # what a jump is measured by; 0: no jump is judged
        self._since = now
        self._until = now + _SHORTEST
        self._wanted = 0

    def reload(self, config: AdaptiveConcurrency) -> None:
        """Takes new settings; what was learned stays."""
        free = self.limit >= self._config.max
        self._config = config
        self.limit = config.max if free else max(config.min, min(self.limit, config.max))

    @property
    def unloaded(self) -> float:
        """Seconds that the model takes when nothing else is in flight; 0: not known yet."""
        return self._alone

    @property
    def limiting(self) -> bool:
        """Whether load has ever lowered the limit since it was last quiet."""
        return self.limit < self._config.max

    @property
    def probing(self) -> bool:
        """Whether requests are held back, but for one at a time here or in another worker, to see its latency."""
        return self._probe_due > 0

    def look(self, now: float, *, waiting: bool) -> None:
        """To be called now and then, more often while requests are `waiting`: what no request's end can tell."""
        if self._probe_due:
            self._follow(now)
            if self._probe_due and not self.in_flight:
                self._claim(now, waiting=waiting)
        elif not self.in_flight and now - self._last > _IDLE and self.throughput:
            self._free()
            self._open_window(now)
        elif not self.in_flight and not waiting and self._peers.probing:
            self._peers.share(0.0, lowered=self.limiting)  # nobody need wait for it to come

    # -- the unloaded latency --------------------------------------------------------------------------------

    def _was_alone(self, seconds: float, now: float) -> None:
        samples = self._samples = self._samples + 1
        if samples == 1:
            self._tolerated = 0.0  # that was a guess
        self._alone += (seconds - self._alone) / (min(samples - _WARM + 1, _MEMORY) if samples > _WARM else samples)
        if samples >= _KNOWN:
            self._known_until = now + _AGAIN

    def _is_unknown(self, now: float) -> bool:
        """Neither is it known here, nor does another worker tell."""
        if self._known_until > now:
            return False
        told, until = self._peers.told(now)
        if told:
            self._learn(told, until)
        return not told

    def _learn(self, alone: float, until: float) -> None:
        self._alone = self._tolerated = alone
        self._samples = max(self._samples, _LEARNED)
        self._known_until = until

    def _was_cold(self, seconds: float, now: float) -> None:
        """An answer before the model was ever measured: where it is late, no more go to the server than are there.

        They have to drain before it can be measured, and who comes last of hundreds is late for good.
        """
        if self.limiting or not self._alone or seconds <= self._allowed() or not self._is_unknown(now):
            return
        self.limit = max(self._config.min, self.in_flight)
        self._congested = True

    def _wait_to_probe(self, x: float, n: float, everyone: float, now: float) -> None:
        """There is load; a probe begins when the time has come for all workers."""
        if not self._probe_from:
            self._probe_from = (now // _GRID + 1) * _GRID
        elif now >= self._probe_from:
            self._probe(x, n, everyone, now)

    def _probe(self, x: float, n: float, everyone: float, now: float) -> None:
        """From now on nothing, then one request at a time of one worker, until there are answers enough."""
        self._x_before, self._n_before, self._x_last = everyone, n, 0.0
        self.throughput = x
        self.limit = 0
        self._probe_sum = 0.0
        self._probe_tried = self._probed = 0
        self._probe_from = 0.0
        self._probe_late = now + n / x + _SHORTEST
        self._probe_due = now + 2 * n / x + 2 * _PROBE
        self._peers.hold(self.in_flight)

    def _follow(self, now: float) -> None:
        """In a probe: does another worker tell the result, is it over?"""
        told, until = self._peers.told(now)
        if told:
            self._learn(told, until)
            self._end_probe(now)
        elif now >= self._probe_due:
            self._measured(now)
        elif self.limit:
            enough = self._probed >= _ENOUGH and now - self._since >= _PROBE
            if enough or self._probe_tried >= _PROBED:
                self._measured(now)

    def _claim(self, now: float, *, waiting: bool) -> None:
        """Nothing is in flight: measure, if there is a request to measure with; else let another worker."""
        if self.limit and not waiting:
            self.limit = 0
            self._peers.hold(0)
        elif waiting and not self.limit and self._peers.claim(all_in=now < self._probe_late):
            self.limit = 1
            self._since = now

    def _left_in_probe(self, place: int, seconds: float, now: float, answered: bool) -> None:
        if place == 1 and self.limit:
            self._probe_tried += 1
            if answered:
                self._probed += 1
                self._probe_sum += seconds
        else:
            self._peers.hold(self.in_flight)
        self._follow(now)

    def _measured(self, now: float) -> None:
        """This worker's own probe is over, perhaps without a result."""
        pause = self._pause = min(8 * self._pause, _AGAIN)
        if self._probed:
            alone = self._probe_sum / self._probed
            pause *= ceil(alone / _PROBE)
            until = (now // pause + 1) * pause
            self._learn(alone, until)
            self._peers.tell(alone, until)
        else:
            self._probe_from = (now // pause + 1) * pause
        self._end_probe(now)

    def _end_probe(self, now: float) -> None:
        self._probe_due = 0.0
        self._peers.release()
        self._jump(max(self._config.min, ceil(self.throughput * self._allowed())))
        self._quiet = not self._peers.share(self.throughput, lowered=self.limiting)[2]
        self._open_window(now)

    # -- windows ---------------------------------------------------------------------------------------------

    def _open_window(self, now: float) -> None:
        self._since = self._last = now
        # Little's law holds for windows that are long before the latency.
        self._until = now + min(max(_SHORTEST, self._alone), _LONGEST / 4)
        self._area = 0.0
        self._done = 0
        self._full = False
        self._wanted = self.in_flight

    def _window_over(self, seconds: float, now: float, answered: bool) -> None:
        self._turn(now)
        if answered and not self._known_until and self.in_flight > _COMPLETIONS:
            self._was_cold(seconds, now)

    def _turn(self, now: float) -> None:
        """The window may end."""
        if self._probe_due:
            return
        elapsed = now - self._since
        enough = self._done >= _ENOUGH  # else nobody knows how long its own will take to drain
        if enough and self._known_until <= now and self._peers.probing and self._is_unknown(now):
            x, n = self._done / elapsed, self._area / elapsed
            self._probe(x, n, self._peers.share(x, lowered=self.limiting)[0], now)
            return
        if self._done < (_JUDGED if self._x_before else _COMPLETIONS):
            if elapsed >= _IDLE and self._area < elapsed:  # fewer than one in flight on the average
                self._free()
                self._open_window(now)
            elif elapsed < _LONGEST or not self._done:
                self._until = now + _SHORTEST / 4
                return
        if self._done:
            self._window(self._done / elapsed, self._area / elapsed, elapsed, now)
        self._open_window(now)

    def _window(self, x: float, n: float, elapsed: float, now: float) -> None:
        self.throughput = x
        everyone, sharers, lowered = self._peers.share(x, lowered=self.limiting)
        self._quiet = not lowered
        if self._samples >= _KNOWN and self._known_until > now:
            self._peers.tell(self._alone, self._known_until)
        latency = n / x
        alone = self._alone
        if not alone:  # the first one is not through, or it failed
            self._alone = alone = latency
        elif latency < _QUICKER * alone:  # the model became quicker
            self._alone = alone = alone + (latency - alone) * 0.3
        self._tolerated = alone + max(0.0, self._tolerated - alone) * exp(-elapsed / _FADE)
        if self._settling:
            self._settling = self.in_flight > self.limit
        elif self._x_before:
            self._judge(everyone, latency)
        else:
            self._steer(x, n, latency, everyone, sharers, now)

    def _allowed(self) -> float:
        """Seconds of latency that are no overload."""
        return max(self._tolerated * self._config.tolerance, self._alone + STANDING)

    def _jump(self, target: int) -> None:
        self._patience = _PATIENCE
        self.limit = target
        self._settling = self.in_flight > target

    def _steer(self, x: float, n: float, latency: float, everyone: float, sharers: int, now: float) -> None:
        config = self._config
        if (self._congested or self._full) and self._is_unknown(now):
            self._wait_to_probe(x, n, everyone, now)
            return
        allowed = self._allowed()
        congested = latency > allowed and self.in_flight >= self._wanted * _WORTH
        if congested and not self._congested:
            self._congested = True  # a window in which load begins holds half of what there was before
        elif congested:
            target = max(config.min, ceil(max(x, everyone / sharers) * allowed))
            if target < n * _WORTH and target < self.limit:
                self._x_before, self._n_before, self._x_last = everyone, n, 0.0
                self._jump(target)
        elif latency <= allowed:
            self._congested = False
            if self.limit >= config.max:
                return
            if not self._full and n < self.limit / 2:  # the load went away, or only for a moment
                raised = self.limit + max(1, self.limit // 4)
            elif self._full:
                raised = self.limit + max(1, self.limit // 10)
            else:
                return
            self.limit = config.max if raised > 4 * n + 64 else min(raised, config.max)

    def _judge(self, x: float, latency: float) -> None:
        """A jump was made: was it a queue that went, or throughput?"""
        before = self._x_before
        recovered = x >= before * (1 - _LOSS)
        if recovered or not self._full:  # not full: whoever asked for more has gone
            if self._x_last:
                self._tolerate(latency)
            self._x_before = 0.0
        elif self._patience:
            # The first answers are those of requests that were sent before the jump, here and by other workers.
            self._patience -= 1
        elif self.limit >= self._n_before or (self._x_last and x < self._x_last * (1 + _LOSS / 2)):
            # All the way back, or no gain any more: it is the server that became slower.
            if self.limit >= self._n_before:
                self._tolerate(latency)
            self._x_before = 0.0
        else:
            self._x_last = x
            self.limit = min(ceil(self.limit * _CLIMB), ceil(self._n_before), self._config.max)

    def _tolerate(self, latency: float) -> None:
        self._tolerated = max(self._tolerated, 1.1 * latency / self._config.tolerance)

    def _free(self) -> None:
        self.throughput = 0.0
        self.limit = self._config.max
        self._peers.share(0.0, lowered=False)
        self._quiet = True
        self._x_before = 0.0
        self._settling = self._congested = False
