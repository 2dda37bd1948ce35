from typing import Any

from typing_extensions import disjoint_base

from gateway.wire.validate import ModelSignature

@disjoint_base
class Counted:
    in_flight: int

@disjoint_base
class Circuit:
    closed: bool
    epoch: int
    failures: int

@disjoint_base
class Tally:
    out: bool
    consecutive: int
    requests: int

@disjoint_base
class Judged:
    judge_at: float

@disjoint_base
class Speed:
    bound: float
    quick: bool
    sure: bool

@disjoint_base
class Entry:
    signature: ModelSignature
    stale_at: float

@disjoint_base
class Known:
    _entries: dict[tuple[str, str], Any]
    def peek(self, model: str, version: str) -> ModelSignature | None: ...

@disjoint_base
class Deposits:
    _requests: list[int]
    _slot: int
    def deposit(self, now: float) -> None: ...
