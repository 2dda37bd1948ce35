"""Taking the beginning off a log under a stated retention policy, beside a gateway that may be running.

`prune` is one straight function. What a crash leaves at each step:

    1 state     a record that states what is not done yet; another run states it again
    2 public    the same: nothing goes before the statement is in the signed tree
    3 point     `pruned` says where the statement is; readers begin behind it from now on
    4 delete    bundles that are stated to be gone and are there; the next run begins with the first of them
    5 end       a pruning whose end is not recorded; the next one's is

Legal holds are looked at under a lock that whoever puts one on takes too, on every run anew: a hold that came after a
crash keeps what the crash had left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from governance.audit.erasure import append_record, make_public, open_vault, operator
from governance.audit.files import replace, sync_folder, try_lock
from governance.audit.layout import Layout
from governance.audit.people import People
from governance.audit.pruned import ACTION, Details, Hint, Pruned, statement
from governance.audit.record import Record
from governance.audit.retention import Plan, Retention, plan
from governance.audit.secrets import signing_keys
from governance.audit.show import entries, read_checkpoint
from governance.audit.tiles import WIDTH, bundle_path
from governance.audit.verify import verify
from governance.errors import AuditInputError, AuditUnavailable

_PUBLIC_S = 30.0
"""How long a running gateway has to take a record into the log; it does each second."""
_POLL_S = 0.1


class Outcome(msgspec.Struct):
    """What became of a pruning, or would."""

    plan: Plan
    pruned: bool = False
    refused: str = ""
    """Why nothing goes, though something might be old enough."""
    freed: int = 0
    """Bytes of the bundles that went, or would."""
    statement: int | None = None
    """Index of the record that states it."""


def prune(
    state_dir: Path,
    retention: Retention,
    people: People,
    *,
    do: bool,
    progress: Callable[[int, int], None] = lambda _done, _size: None,
    clock: Callable[[], int] = time.time_ns,
) -> Outcome:
    """Take off a log what its retention policy lets go. Blocks.

    Args:
        state_dir: of the log.
        retention: the policy.
        people: as whom subjects are recorded.
        do: False: only say what would go.
        progress: told how far the verification is.
        clock: nanoseconds since 1970.

    Raises:
        AuditInputError: there is no log, a pruning is under way, or something cannot be read.
        AuditUnavailable: the record is not on the disk, or not in the log; nothing was pruned.
        AuditBroken: the log's files contradict each other; nothing was pruned.
        OSError: a file cannot be written or removed; run it again.
    """
    layout = Layout(state_dir)
    if not layout.signing_key.exists():
        raise AuditInputError(f"{layout.signing_key}: no such file: there is no log in this state_dir")
    with _alone(layout):
        result = Outcome(plan(layout.log, retention, clock(), held_subjects(layout)))
        found = result.plan
        result.freed = sum(path.stat().st_size for path in _bundles(layout.log, found))
        result.refused = _refusal(layout, progress)
        if not do or found.before == found.begin or result.refused:
            if do and result.refused:
                append_record(layout, people, _record("refused", None, {"why": result.refused}))
                make_public(layout)
            return result
        if found.before > found.stated:
            made = _state(layout, people, retention, found)  # 1, 2
            replace(layout.pruned, msgspec.json.encode(Hint(made.before, made.index)))  # 3
            result.statement = made.index
        _delete(layout.log, found)  # 4
        result.pruned = True
        end = {"policy": retention.policy, "begin": found.begin, "before": found.before}
        append_record(layout, people, _record("served", "end", end))  # 5
        make_public(layout)
        return result


@contextlib.contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    lock = try_lock(layout.prune_lock)
    if lock is None:
        raise AuditInputError(f"{layout.prune_lock}: a pruning or a legal hold is under way: wait until it is done")
    try:
        yield
    finally:
        os.close(lock)


def held_subjects(layout: Layout) -> Mapping[str, str]:
    """Who is under a legal hold, as they stand in records, and why. Raises AuditUnavailable, AuditInputError.

    A vault counts while it is there, also where the settings seal nobody any more.
    """
    if not layout.vault.exists():
        return {}
    with open_vault(layout) as vault:
        return vault.holds()


def _refusal(layout: Layout, progress: Callable[[int, int], None]) -> str:
    """Why nothing may go. Raises AuditInputError."""
    try:
        return f"legal hold on the log: {layout.hold.read_text()}"
    except FileNotFoundError:
        pass
    # What is not as it was logged is evidence.
    keys = [signer.verifier for signer in signing_keys(layout)]
    report = verify(layout.log, keys, progress=progress)
    return "" if report.ok else f"the log does not verify: {report.findings[0]}"


def _record(outcome: str, phase: str | None, details: object) -> Record:
    fields = {"kind": "erasure", "outcome": outcome, "action": ACTION, "object": "audit", "subject": operator()}
    return msgspec.convert({**fields, "phase": phase, "details": details}, Record)


def _state(layout: Layout, people: People, retention: Retention, found: Plan) -> Pruned:
    """Put the statement into the signed tree. Raises AuditUnavailable, AuditBroken, OSError."""
    details = Details(policy=retention.policy, before=found.before, begin=found.begin, classes=found.parts)
    at = read_checkpoint(layout.log).size
    append_record(layout, people, _record("served", "start", msgspec.to_builtins(details)))
    end = time.monotonic() + _PUBLIC_S
    while True:
        make_public(layout)
        size = read_checkpoint(layout.log).size
        for index, entry in entries(layout.log, at, size=size):
            made = statement(entry, index)
            if made is not None and made.before == found.before:
                return made
        at = max(at, size)
        if time.monotonic() > end:
            raise AuditUnavailable(
                f"{layout.log}: the running gateway does not take the statement into the log: nothing was pruned; its "
                "own log says why"
            )
        time.sleep(_POLL_S)


def _bundles(log: Path, found: Plan) -> Iterator[Path]:
    for index in range(found.begin // WIDTH, found.before // WIDTH):
        path = log / bundle_path(index)
        if path.exists():
            yield path


def _delete(log: Path, found: Plan) -> None:
    """From the oldest on, so that what a crash leaves is the end of it."""
    folders: dict[Path, None] = {}
    for path in _bundles(log, found):
        shutil.rmtree(f"{path}.p", ignore_errors=True)  # partial ones that a crash of the sequencer left
        path.unlink()
        folders[path.parent] = None
    for folder in folders:
        sync_folder(folder)
