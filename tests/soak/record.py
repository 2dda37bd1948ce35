"""What the soak writes down: calls, injected faults, and which failure is explained by which fault."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """Something that was done to the gateway or its servers."""

    name: str
    began: float
    ended: float = float("inf")
    """Until when it can have an effect."""
    recovered: float = 0.0
    """Seconds until everything was as before."""
    in_flight: int = 0
    """Calls that were under way as it began."""


@dataclass
class Failure:
    """A call that had not the answer that it should have."""

    kind: str
    began: float
    ended: float
    text: str
    wrong: bool
    """It was answered with something false, which no fault explains."""


@dataclass(frozen=True)
class Explains:
    """Which failures a fault explains: of these kinds, that say this, and that overlap with it in time."""

    kinds: frozenset[str]
    says: str
    """A regular expression, found somewhere in the failure's text."""


# Streams and sequences live on one replica and one connection, and pages may be about one replica: a lost model server
# ends them. All other calls are safe to repeat, so that a lost model server explains no failure of theirs. A loaded
# model is loaded again by the retry of whoever asked, so that partial failures of that are explained as well.
_ON_ONE_REPLICA = frozenset(
    {"grpc stream", "sse", "generate", "generate_stream", "sequence", "page", "load and unload", "client leaves stream"}
)
# What a client sees of a process that was killed: the kernel resets its connections.
_CONNECTION = (
    r"ConnectionReset|RemoteDisconnected|BrokenPipe|ConnectionRefused|IncompleteRead|SSLEOF|SSLZeroReturn"
    r"|UNAVAILABLE|Socket closed|Connection reset|ended after"
)
_REPLICA = r"UNAVAILABLE|unavailable|ended after|sequence|502|503|504|connection|IncompleteRead|cannot be reached|closed|ABORTED|lost|away|DEADLINE"
# Reloads, rolling restarts, new certificates, and other clients' misbehaviour are missing here: they explain nothing.
EXPLAINS: dict[str, Explains] = {
    "kill -9 triton": Explains(_ON_ONE_REPLICA, _REPLICA),
    "stop triton 2 s": Explains(_ON_ONE_REPLICA, _REPLICA),
    "kill -9 worker": Explains(frozenset({"*"}), _CONNECTION),
}


@dataclass
class Record:
    """Of the whole run. Thread-safe."""

    calls: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> float:
        """A call begins; when."""
        with self._lock:
            self.under_way += 1
        return time.monotonic()

    def call(self, kind: str, began: float, problem: str = "", *, wrong: bool = False) -> None:
        """A call that had begun has ended; `problem` says what was not as it should be."""
        with self._lock:
            self.under_way -= 1
            self.calls[kind] += 1
            if problem:
                self.failures.append(Failure(kind, began, time.monotonic(), problem, wrong))

    @contextmanager
    def fault(self, name: str, after: float = 0.0) -> Iterator[None]:
        """A fault is injected in the block, which ends with recovery; its effects end `after` seconds later."""
        fault = Fault(name, time.monotonic(), in_flight=self.under_way)
        with self._lock:
            self.faults.append(fault)
        try:
            yield
        finally:
            now = time.monotonic()
            fault.recovered, fault.ended = now - fault.began, now + after

    def explained(self, failure: Failure) -> str:
        """The fault that explains it, or nothing."""
        if failure.wrong:
            return ""
        for fault in self.faults:
            by = EXPLAINS.get(fault.name)
            if (
                by is not None
                and (failure.kind in by.kinds or "*" in by.kinds)
                and failure.began <= fault.ended
                and failure.ended >= fault.began
                and re.search(by.says, failure.text)
            ):
                return fault.name
        return ""

    def result(self) -> dict[str, Any]:
        """Everything in plain values: traffic, faults, and what no fault explains."""
        causes: dict[str, Counter[str]] = defaultdict(Counter)
        by_fault: Counter[str] = Counter()
        unexplained = []
        start = min((fault.began for fault in self.faults), default=0.0)
        for failure in self.failures:
            cause = self.explained(failure)
            causes[failure.kind][cause or "UNEXPLAINED"] += 1
            by_fault[cause] += 1
            if not cause:
                said = {"at": round(failure.began - start, 1), "kind": failure.kind, "text": failure.text[:300]}
                unexplained.append({**said, "near": self._near(failure)})
        faults: dict[str, dict[str, Any]] = {}
        for name in sorted({fault.name for fault in self.faults}):
            some = [fault for fault in self.faults if fault.name == name]
            faults[name] = {
                "times": len(some),
                "in_flight": sum(fault.in_flight for fault in some),
                "failed": by_fault[name],
                "recovered_s": round(max(fault.recovered for fault in some), 2),
            }
        traffic = {
            kind: {"calls": count, "failed": sum(causes[kind].values()), "by": dict(sorted(causes[kind].items()))}
            for kind, count in sorted(self.calls.items())
        }
        return {"traffic": traffic, "faults": faults, "unexplained": unexplained}

    def _near(self, failure: Failure) -> list[str]:
        """Faults about its time, whatever they explain: where to look first."""
        return [f.name for f in self.faults if failure.began <= f.ended + 2 and failure.ended >= f.began - 2]


def table(result: dict[str, Any]) -> str:
    """`Record.result` for people."""
    lines = ["| traffic | calls | failed | explained by |", "|---|---|---|---|"]
    for kind, row in result["traffic"].items():
        by = ", ".join(f"{cause}: {n}" for cause, n in row["by"].items()) or "-"
        lines.append(f"| {kind} | {row['calls']} | {row['failed']} | {by} |")
    lines += ["", "| fault | times | calls in flight | failed | recovered within |", "|---|---|---|---|---|"]
    for name, row in result["faults"].items():
        lines.append(f"| {name} | {row['times']} | {row['in_flight']} | {row['failed']} | {row['recovered_s']} s |")
    lines += [
        f"UNEXPLAINED at {each['at']} s, {each['kind']}, about {each['near']}: {each['text']}"
        for each in result["unexplained"][:20]
    ]
    return "\n".join(lines)
