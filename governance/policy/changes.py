"""Change control: a policy takes effect when enough other people have agreed to exactly its bytes.

Contract: a ledger in a folder: `changes.jsonl`, one entry a line, each with the SHA-256 of the line before it,
and `texts/HASH`, the policies that it speaks of. Entries are appended under a file lock and synchronised before
they count; nothing is ever rewritten, so the history is the truth and a torn last line is dropped as never
written. What is in force is a function of the entries and the time (`State`): the latest policy with all its
approvals, adopted or rolled back to, or an emergency change until it expires.

Who may: `edit` on `policy` proposes and rolls back, `approve` on `policy` approves and rejects, `role:break-glass`
in tenant `*` makes an emergency change; all by the policy in force. Nobody approves what they proposed. A
proposal with other bytes is another proposal: approvals never carry over.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from governance.errors import GovernanceError
from governance.policy.model import EMERGENCY_ROLE, EVERYWHERE
from governance.policy.snapshot import PolicySnapshot, policy_digest

LONGEST_EMERGENCY = dt.timedelta(days=7)
_START = "0" * 64


class ChangeError(GovernanceError):
    """A step that the change control does not allow, or a ledger that cannot be trusted; the text says why."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step."""

    number: int
    time: dt.datetime
    kind: str
    """`adopted`, `proposed`, `approved`, `rejected`, `emergency` or `rolled-back`."""
    hash: str
    """Of the policy that it speaks of."""
    by: str
    """`user:NAME`; `system` where the gateway adopted what it found."""
    previous: str
    """SHA-256, in hex, of the line before this one."""
    reason: str = ""
    needs: int = 0
    """Of a proposal: how many approvals make it take effect."""
    expires: dt.datetime | None = None
    """Of an emergency change."""
    commit: str | None = None
    """Of the git checkout that the policy lay in, where it did."""


class Edit(msgspec.Struct, frozen=True):
    """A policy that took force because its file was edited, where nobody has to approve that."""

    number: int
    time: dt.datetime
    """When a worker began to serve by it."""
    hash: str
    before: str | None
    """Hash of the policy before it; None: none is known, it is the first one."""


class State:
    """What entries amount to."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.open: dict[str, Entry] = {}
        """Proposals without all their approvals, by hash."""
        self.approvals: dict[str, list[str]] = {}
        """Who approved which of them."""
        self.been: set[str] = set()
        """Hashes that have been in force by approval, adoption or roll-back."""
        self._base: str | None = None
        self._emergency: Entry | None = None
        for entry in entries:
            self._step(entry)

    def _step(self, entry: Entry) -> None:
        if entry.kind == "proposed":
            self.open[entry.hash] = entry
            self.approvals[entry.hash] = []
        elif entry.kind == "approved" and entry.hash in self.open:
            self.approvals[entry.hash].append(entry.by)
            if len(self.approvals[entry.hash]) >= self.open[entry.hash].needs:
                self._takes_effect(entry.hash)
        elif entry.kind == "rejected":
            self.open.pop(entry.hash, None)
        elif entry.kind == "emergency":
            self._emergency = entry
        elif entry.kind in ("adopted", "rolled-back"):
            self._takes_effect(entry.hash)

    def _takes_effect(self, hashed: str) -> None:
        self.open.pop(hashed, None)
        self.been.add(hashed)
        self._base, self._emergency = hashed, None

    def emergency(self, now: dt.datetime) -> Entry | None:
        """The emergency change in force."""
        one = self._emergency
        return one if one is not None and one.expires is not None and now < one.expires else None

    def in_force(self, now: dt.datetime) -> str | None:
        """Hash of the policy in force; None before the first was adopted."""
        one = self.emergency(now)
        return self._base if one is None else one.hash


class Ledger:
    """The change control of one policy."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "changes.jsonl"
        self._texts = folder / "texts"

    @property
    def file(self) -> Path:
        """What changes when a step is made."""
        return self._file

    def entries(self) -> list[Entry]:
        """All steps, verified. Raises ChangeError, OSError."""
        return self._parsed()[0]

    def state(self) -> State:
        """What they amount to. Raises ChangeError, OSError."""
        return State(self.entries())

    def text(self, hashed: str) -> bytes:
        """The policy of a hash, verified. Raises ChangeError, OSError."""
        data = (self._texts / hashed).read_bytes()
        if policy_digest(data, None) != hashed:
            raise ChangeError(f"{self._texts / hashed} has been changed: restore it from a backup")
        return data

    def adopt(self, policy: bytes, by: str = "system") -> str:
        """Takes the first policy as in force, unless there is one; the hash in force."""

        def step(state: State, now: dt.datetime) -> Entry | str:
            found = state.in_force(now)
            return found if found is not None else self._entry("adopted", policy_digest(policy, None), by)

        return self._locked(policy, step)

    def propose(
        self,
        policy: bytes,
        by: str,
        needs: int,
        reason: str = "",
        *,
        tests: tuple[bytes, str] | None = None,
        commit: str | None = None,
    ) -> str:
        """A draft that waits for approvals; its hash.

        Args:
            policy: its bytes.
            by: who proposes; needs `edit` on `policy`.
            needs: how many others must approve.
            reason: why.
            tests: bytes and name of the policy's tests.
            commit: of the git checkout that it lies in.

        Raises:
            ChangeError: not allowed, or in force already.
            PolicyError: it could not take effect.
        """
        hashed = PolicySnapshot.compile(policy, "the proposed policy", tests=tests).hash

        def step(state: State, now: dt.datetime) -> Entry:
            self._may(state, now, by, "edit")
            if state.in_force(now) == hashed:
                raise ChangeError(f"{hashed} is in force already")
            entry = self._entry("proposed", hashed, by, reason)
            return msgspec.structs.replace(entry, needs=needs, commit=commit)

        return self._locked(policy, step)

    def approve(self, hashed: str, by: str, reason: str = "") -> bool:
        """One approval; whether the policy is in force by it.

        Raises:
            ChangeError: no open proposal, one's own, approved by the same before, or not allowed.
        """

        def step(state: State, now: dt.datetime) -> Entry:
            self._may(state, now, by, "approve")
            proposal = self._open(state, hashed)
            if proposal.by == by:
                raise ChangeError(f"{by} proposed it: somebody else must approve")
            if by in state.approvals[hashed]:
                raise ChangeError(f"{by} has approved it already: somebody else must, too")
            return self._entry("approved", hashed, by, reason)

        self._locked(None, step)
        return hashed not in self.state().open

    def reject(self, hashed: str, by: str, reason: str) -> None:
        """Ends a proposal. Raises ChangeError as `approve`."""

        def step(state: State, now: dt.datetime) -> Entry:
            self._may(state, now, by, "approve")
            self._open(state, hashed)
            return self._entry("rejected", hashed, by, _needed(reason))

        self._locked(None, step)

    def emergency(
        self, policy: bytes, by: str, reason: str, lasts: dt.timedelta, *, tests: tuple[bytes, str] | None = None
    ) -> str:
        """A policy at once, until it expires; its hash.

        Raises:
            ChangeError: no `EMERGENCY_ROLE`, no reason, or too long.
            PolicyError: it could not take effect.
        """
        hashed = PolicySnapshot.compile(policy, "the proposed policy", tests=tests).hash
        if not dt.timedelta() < lasts <= LONGEST_EMERGENCY:
            raise ChangeError(f"an emergency change lasts up to {LONGEST_EMERGENCY.days} days: propose it meanwhile")

        def step(state: State, now: dt.datetime) -> Entry:
            current = self._current(state, now)
            if not current.engine.roles["g"].has(by, EMERGENCY_ROLE, EVERYWHERE):
                raise ChangeError(f"{by} has no `{EMERGENCY_ROLE}` in tenant `*`")
            entry = self._entry("emergency", hashed, by, _needed(reason))
            return msgspec.structs.replace(entry, expires=now + lasts)

        return self._locked(policy, step)

    def roll_back(self, hashed: str, by: str, reason: str) -> None:
        """Puts a policy in force again that was before. Raises ChangeError."""

        def step(state: State, now: dt.datetime) -> Entry:
            self._may(state, now, by, "edit")
            if hashed not in state.been:
                raise ChangeError(f"{hashed} was never in force: propose it")
            return self._entry("rolled-back", hashed, by, _needed(reason))

        self._locked(None, step)

    def _current(self, state: State, now: dt.datetime) -> PolicySnapshot:
        hashed = state.in_force(now)
        if hashed is None:
            raise ChangeError("no policy has been adopted: start the gateway once, or `tidegate policy adopt`")
        return PolicySnapshot.compile(self.text(hashed), "the policy in force", judge=False)

    def _may(self, state: State, now: dt.datetime, by: str, action: str) -> None:
        if not self._current(state, now).decide(by, EVERYWHERE, "policy", action).allow:
            raise ChangeError(f"the policy in force does not allow {by} to `{action}` the `policy`")

    def _open(self, state: State, hashed: str) -> Entry:
        found = state.open.get(hashed)
        if found is None:
            raise ChangeError(f"there is no open proposal {hashed}: `tidegate policy history` lists them")
        return found

    def _entry(self, kind: str, hashed: str, by: str, reason: str = "") -> Entry:
        return Entry(0, dt.datetime.now(dt.UTC), kind, hashed, by, _START, reason)

    def _locked(self, policy: bytes | None, step: Callable[[State, dt.datetime], Entry | str]) -> str:
        """Makes one step under the lock; the hash that it speaks of, or what it says instead of a step."""
        self._texts.mkdir(parents=True, exist_ok=True)
        with _lock(self._file.with_suffix(".lock")):
            entries, previous, end = self._parsed()
            made = step(State(entries), dt.datetime.now(dt.UTC))
            if isinstance(made, str):
                return made
            if policy is not None:
                self._keep(made.hash, policy)
            made = msgspec.structs.replace(made, number=len(entries), previous=previous)
            with self._file.open("r+b" if self._file.exists() else "x+b") as stream:
                stream.truncate(end)  # a line that a crash has torn was never a step
                stream.seek(end)
                stream.write(msgspec.json.encode(made) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            _sync(self._file.parent)
        return made.hash

    def _keep(self, hashed: str, policy: bytes) -> None:
        aside = self._texts / f".{hashed}.{os.getpid()}"
        with aside.open("wb") as stream:
            stream.write(policy)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(self._texts / hashed)
        _sync(self._texts)

    def _parsed(self) -> tuple[list[Entry], str, int]:
        """Entries, the hash of the last line, and where the next one begins."""
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        found: list[Entry] = []
        previous = _START
        for number, line in enumerate(whole.splitlines()):
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ChangeError(f"{self._file}:{number + 1}: no entry ({error}): restore it from a backup") from None
            if entry.previous != previous or entry.number != number:
                raise ChangeError(f"{self._file}:{number + 1}: does not follow the line before: restore a backup")
            found.append(entry)
            previous = hashlib.sha256(line).hexdigest()
        return found, previous, len(whole)


def _needed(reason: str) -> str:
    if not reason.strip():
        raise ChangeError("a reason is needed")
    return reason


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
