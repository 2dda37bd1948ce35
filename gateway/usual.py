"""Steps 9 and 10 of what ends well, as others of its kind did before: counted and recorded in one go.

Contract: `Usual.leave` does what `Observer.finished` and `Decisions.inference` do, or nothing at all, and then they are
to be called. What they find out about a request is the same for all of one kind under one snapshot: its cells among the
metrics, and its record but for id, bodies and times. So it is found out once a kind. Nothing here waits or raises.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.observe import code_of
from gateway.tracing import SILENT
from governance.errors import AuditUnavailable

if TYPE_CHECKING:
    from gateway.decisions import Decisions
    from gateway.exchange import Exchange
    from gateway.observe import Observer
    from gateway.snapshot import Snapshot
    from governance.audit.entry import Form
    from governance.types import Subject
    from kernels.counters import Tally

_MOST_KINDS: Final = 1024
"""Each some 2 KiB."""
_Kind: TypeAlias = tuple["Subject | None", str, int | None, str, str, str, str, bool]
"""Subject, model, line of the rule, variant, its upstream, version that served, protocol, whether it was asked."""
_now = time.perf_counter


class Usual:
    """The kinds of requests that this worker has seen under the snapshot in force."""

    def __init__(self, observer: Observer, decisions: Decisions) -> None:
        self._observer = observer
        self._decisions = decisions
        self._record_as = decisions.log.record_as
        self._in_flight = observer.in_flight
        self._snapshot: Snapshot | None = None
        self._generation = -1
        self._kinds: dict[_Kind, tuple[Tally, Form] | None] = {}

    def leave(self, x: Exchange) -> bool:
        """Whether it was counted and recorded."""
        if x.error is not None or x.trace is not SILENT or x.bracketed or x.variant is None or x.assignment is None:
            return False
        if x.snapshot is not self._snapshot or self._generation != self._observer.generation:
            self._renew(x.snapshot)
        variant = x.variant
        kind = (
            x.subject,
            x.model,
            x.decision_line,
            variant.name,
            variant.upstream,
            x.answered_by or x.assignment.version,
            x.protocol,
            x.upstream_seconds > 0.0,
        )
        known = self._kinds.get(kind)
        if known is None:
            if kind not in self._kinds:
                self._learn(kind, x)
            return False
        tally, form = known
        seconds = _now() - x.started
        try:
            if not self._record_as(form, x.request_id, int(seconds * 1e6), x.inputs, x.outputs):
                return False
        except AuditUnavailable:
            return False  # it will say so again
        self._in_flight[x.protocol].add(-1.0)
        tally.count(seconds, x.upstream_seconds)
        x.answer = None
        return True

    def _renew(self, snapshot: Snapshot) -> None:
        self._kinds.clear()
        self._snapshot = snapshot
        self._generation = self._observer.generation

    def _learn(self, kind: _Kind, x: Exchange) -> None:
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        form = None if self._observer.says_more(x) else self._decisions.form(x)
        self._kinds[kind] = None if form is None else (self._observer.tally(x, code_of(x.protocol, None)), form)
