"""One question to every replica of every concerned upstream, and what came of it.

Contract: all are asked at the same time and all answers are awaited; one that fails never hides another's
answer, and no failure is left unsaid. Replicas are named by upstream and number (`fleet[1]`; the upstream's name
alone when it has one replica): addresses go to the log.

A `read` succeeds when one replica answered; who did not is in `Told.failed`. A `change` succeeds when every
replica did it; what some did is recorded in `Desired`, so that the others are brought to it when they return.
A change goes on when its client leaves: half of it must not stay unrecorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from gateway import logs
from gateway.errors import BadGateway, DeadlineExceeded, NotFound, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream import merge
from gateway.upstream.pool import NOT_REACHED

if TYPE_CHECKING:
    from gateway.upstream.desired import Wanted
    from gateway.upstream.replica import Replica
    from gateway.upstream.restore import Desired
    from gateway.upstream.upstream import Upstream

T = TypeVar("T")
S = TypeVar("S")

PARTIAL: Final = "x-tidegate-partial"
"""Header and metadata of an answer: the replicas that it lacks."""
DIFFERS: Final = "x-tidegate-differs"
"""Likewise: the replicas that said something else than the answer."""
DOWN_TIMEOUT: Final = 2.0
"""Seconds for a replica that is known to be down to answer, when others are up."""
_FAULTS: Final = 500  # HTTP status from which on it is the server's fault

_log = logs.get("fanout")


class Target(msgspec.Struct, frozen=True):
    """One replica to be asked; None: its upstream has none just now."""

    label: str
    upstream: Upstream
    replica: Replica | None


class Told(Generic[T]):
    """What each replica answered, by label."""

    def __init__(self) -> None:
        self.done: dict[str, T] = {}
        self.failed: dict[str, TidegateError] = {}
        self.differs: list[str] = []
        """Filled in by whoever merges."""

    def of(self, targets: Iterable[Target]) -> dict[str, T]:
        """The answers of some of them."""
        return {target.label: self.done[target.label] for target in targets if target.label in self.done}

    def said(self) -> dict[str, str]:
        """Headers that say whose answers are missing or differ; empty when all said the same."""
        # One that says no to what others answer (it lacks the version) was asked, and differs.
        refused = [label for label, error in self.failed.items() if _refusal(error)]
        found = {
            PARTIAL: ", ".join(label for label in self.failed if label not in refused),
            DIFFERS: ", ".join(dict.fromkeys([*self.differs, *refused])),
        }
        return {name: value for name, value in found.items() if value}

    def failure(self) -> TidegateError:
        """The error of a request that not every replica carried out.

        What all refuse with one status stays as the first said it; so does what all that can be reached call the
        caller's fault. Else 503 when no failure is an answer (not
        reached, too late), 502 otherwise, with every replica that failed and why.
        """
        failures = list(self.failed.values())
        if not self.done and len({(type(each), each.status) for each in failures}) == 1:
            return failures[0]
        refused = [each for each in failures if _refusal(each)]
        if not self.done and len({each.status for each in refused}) == 1 and all(map(_no_other_fault, failures)):
            return refused[0]
        total = len(self.done) + len(failures)
        text = f"{len(self.done)} of {total} replicas did it; " + "; ".join(
            f"{label} did not: {error.message}" for label, error in self.failed.items()
        )
        detail = "; ".join(f"{label}: {error.detail}" for label, error in self.failed.items() if error.detail)
        if all(isinstance(each, Unreachable | DeadlineExceeded) for each in failures):
            return Unreachable(text, detail=detail)
        return BadGateway(text, detail=detail)


def _refusal(error: TidegateError) -> bool:
    """Whether a replica was asked and called it the caller's fault."""
    return isinstance(error, UpstreamAnswered | NotFound) and error.status < _FAULTS


def _no_other_fault(error: TidegateError) -> bool:
    return _refusal(error) or isinstance(error, Unreachable | DeadlineExceeded)


def targets(upstreams: Iterable[Upstream]) -> list[Target]:
    """Every replica of them."""
    found = []
    for upstream in upstreams:
        replicas = upstream.replicas
        if len(replicas) == 1:
            found.append(Target(upstream.name, upstream, replicas[0]))
        elif not replicas:
            found.append(Target(upstream.name, upstream, None))
        else:
            found += [Target(replica.label, upstream, replica) for replica in replicas]
    return found


def serving(upstream: Upstream) -> list[Target]:
    """Those of its replicas that get traffic; all when none does."""
    every = targets([upstream])
    return [each for each in every if each.replica is not None and each.replica.usable] or every


def having(
    upstreams: Sequence[Upstream], asked: Sequence[Target], told: Told[list[merge.Row]], model: str
) -> list[Upstream]:
    """The upstreams with a replica that has the model in its repository; the first when none has.

    Raises:
        TidegateError: no replica of one of them could be asked, so that this is not known.
    """
    found = []
    groups = by_upstream(asked)
    for upstream in upstreams:
        answers = told.of(groups[upstream.name])
        if not answers:
            raise told.failed[groups[upstream.name][0].label]
        if any(row["name"] == model for rows in answers.values() for row in rows):
            found.append(upstream)
    return found or list(upstreams[:1])


async def ask_each(asked: Sequence[Target], ask: Callable[[Target, Replica], Awaitable[T]]) -> Told[T]:
    """Ask them at the same time; a defect is raised once all have answered."""
    found = await asyncio.gather(*(_ask(target, ask) for target in asked), return_exceptions=True)
    told: Told[T] = Told()
    for target, answer in zip(asked, found, strict=True):
        if isinstance(answer, TidegateError):
            told.failed[target.label] = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            told.done[target.label] = answer
    return told


async def _ask(target: Target, ask: Callable[[Target, Replica], Awaitable[T]]) -> T:
    if target.replica is None:
        raise Unreachable(NOT_REACHED, detail=f"upstreams.{target.upstream.name}: no replica", sent=False)
    return await ask(target, target.replica)


async def read(asked: Sequence[Target], ask: Callable[[Target, Replica], Awaitable[T]]) -> Told[T]:
    """Ask them; raises `Told.failure` when none answered."""
    told = await ask_each(asked, ask)
    if not told.done:
        raise told.failure()
    return told


def read_timeout(replica: Replica, timeout: float) -> float:
    """Seconds: less for one that is known to be down, when others answer at once."""
    return timeout if replica.usable else min(timeout, DOWN_TIMEOUT)


def change_timeout(to: Target, replica: Replica, timeout: float) -> float:
    """Seconds: less for one that is known to be down, when others are up.

    What it did not do of a change it is brought to when it returns.
    """
    if replica.usable or not any(other.usable for other in to.upstream.replicas):
        return timeout
    return min(timeout, DOWN_TIMEOUT)


async def change(
    asked: Sequence[Target],
    ask: Callable[[Target, Replica], Awaitable[T]],
    *,
    desired: Desired,
    wanted: Callable[[], Wanted],
) -> Told[T]:
    """Have every one of them do it, once for all, and record it when one did.

    Args:
        asked: the replicas concerned.
        ask: asks one.
        desired: where it is recorded.
        wanted: what was asked for; called before anything is sent, its `kind` and `name` order changes of one
            thing.

    Raises:
        TidegateError: `Told.failure` when one did not.
    """
    told = await desired.shielded(_change(asked, ask, desired, wanted()))
    if told.failed:
        for label, error in told.failed.items():
            fields = {"replica": label, "detail": error.detail}
            _log.warning("%s did not do it: %s", label, error.message, extra={"fields": fields})
        for target in asked:
            if target.label in told.failed and told.done:
                desired.counters.on_event("fanout_partial", upstream=target.upstream.name)
        raise told.failure()
    return told


async def _change(
    asked: Sequence[Target], ask: Callable[[Target, Replica], Awaitable[T]], desired: Desired, wanted: Wanted
) -> Told[T]:
    names = list(dict.fromkeys(target.upstream.name for target in asked))
    async with desired.changing(names, wanted):
        lives = {target.label: target.replica.life for target in asked if target.replica is not None}
        told = await ask_each(asked, ask)
        for name in names:
            mine = [target for target in asked if target.upstream.name == name]
            did = {
                target.replica.life_key: lives[target.label]
                for target in mine
                if target.label in told.done and target.replica is not None
            }
            if did:
                await desired.record(name, wanted, did)
    return told


# -- merging by upstream ---------------------------------------------------------------------------------------


def by_upstream(asked: Sequence[Target]) -> Mapping[str, list[Target]]:
    """Targets by the name of their upstream."""
    found: dict[str, list[Target]] = {}
    for target in asked:
        found.setdefault(target.upstream.name, []).append(target)
    return found


def index_rows(asked: Sequence[Target], told: Told[list[merge.Row]]) -> list[merge.Row]:
    """Rows of the index over replicas, upstream after upstream; equal rows of two upstreams once."""
    rows: list[merge.Row] = []
    for mine in by_upstream(asked).values():
        answers = told.of(mine)
        missing = [target.label for target in mine if target.label in told.failed]
        if answers:
            rows += [row for row in merge.merge_index(answers, missing) if row not in rows]
    return rows


def statistics_rows(asked: Sequence[Target], told: Told[list[merge.Row]]) -> list[merge.Row]:
    """Sums of statistics over the replicas of each upstream, upstream after upstream."""
    rows: list[merge.Row] = []
    for mine in by_upstream(asked).values():
        answers = told.of(mine)
        if answers:
            rows += merge.sum_statistics(answers)
    return rows


def agreed(told: Told[Any]) -> Any:
    """The document that most gave; the others are noted in `told.differs`."""
    document, others = merge.agree(told.done)
    told.differs += others
    return document


def agreed_metadata(told: Told[dict[str, Any]]) -> dict[str, Any]:
    """A model's metadata, with the versions that any of them serves."""
    document, others = merge.merge_metadata(told.done)
    told.differs += others
    return document


def agreed_bytes(told: Told[bytes]) -> bytes:
    """The same of documents in a canonical serialization."""
    chosen: bytes = agreed(told)
    return chosen
