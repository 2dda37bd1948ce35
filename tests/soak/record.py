"""What the soak writes down: calls, injected faults, and which failure is explained by which fault."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Something that was done to the gateway or its servers."""

    name: str
    began: float
    ended: float = float("inf")
    """Until when it can have an effect."""


@dataclass
class Failure:
    """A call that had not the answer that it should have."""

    kind: str
    began: float
    ended: float
    text: str
    wrong: bool
    """It was answered with something false, which no fault explains."""


# Which kinds of calls a fault may fail. What is safe to repeat is not failed by a lost model server, as long as the
# budget of retries lasts; a call that is in a worker when it is killed is lost whatever it is. Reloads, rolling
# restarts, and other clients' misbehaviour explain nothing.
EXPLAINS: dict[str, frozenset[str]] = {
    "kill -9 triton": frozenset({"grpc stream", "sse", "sequence", "page"}),
    "stop triton 2 s": frozenset({"grpc stream", "sse", "sequence", "page"}),
    "kill -9 worker": frozenset({"*"}),
    "rolling restart": frozenset(),
    "reload": frozenset(),
    "broken edit": frozenset(),
    "client leaves": frozenset(),
    "slow client": frozenset(),
    "hostile bytes": frozenset(),
}


@dataclass
class Record:
    """Of the whole run. Thread-safe."""

    calls: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, kind: str, began: float, problem: str = "", *, wrong: bool = False) -> None:
        """One call has ended; `problem` says what was not as it should be."""
        with self._lock:
            self.calls[kind] += 1
            if problem:
                self.failures.append(Failure(kind, began, time.monotonic(), problem, wrong))

    @contextmanager
    def fault(self, name: str, after: float = 0.0) -> Iterator[None]:
        """A fault is injected in the block; its effects end `after` seconds later."""
        fault = Fault(name, time.monotonic())
        with self._lock:
            self.faults.append(fault)
        try:
            yield
        finally:
            fault.ended = time.monotonic() + after

    def explained(self, failure: Failure) -> str:
        """The fault that explains it, or nothing."""
        if failure.wrong:
            return ""
        for fault in self.faults:
            kinds = EXPLAINS[fault.name]
            if (failure.kind in kinds or "*" in kinds) and (
                failure.began <= fault.ended and failure.ended >= fault.began
            ):
                return fault.name
        return ""

    def table(self) -> tuple[str, int]:
        """The table, and how many failures are not explained."""
        causes: dict[str, Counter[str]] = defaultdict(Counter)
        unexplained = []
        for failure in self.failures:
            cause = self.explained(failure)
            causes[failure.kind][cause or "UNEXPLAINED"] += 1
            if not cause:
                unexplained.append(failure)
        lines = ["| traffic | calls | failed | explained by |", "|---|---|---|---|"]
        for kind, count in sorted(self.calls.items()):
            by = ", ".join(f"{cause}: {n}" for cause, n in sorted(causes[kind].items())) or "-"
            lines.append(f"| {kind} | {count} | {sum(causes[kind].values())} | {by} |")
        lines += ["", "| fault | times |", "|---|---|"]
        lines += [f"| {name} | {count} |" for name, count in sorted(Counter(f.name for f in self.faults).items())]
        start = min((fault.began for fault in self.faults), default=0.0)
        for failure in unexplained[:20]:
            lines.append(f"UNEXPLAINED {failure.began - start:.1f} s {failure.kind}: {failure.text[:300]}")
        return "\n".join(lines), len(unexplained)
