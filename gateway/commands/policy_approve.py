"""`tidegate policy adopt|propose|approve|reject|emergency|rollback|history`: changes that several people agree to.

Contract: who acts is proved by an API key of the settings, in the environment variable `TIDEGATE_API_KEY`, and
what they may is said by the policy in force. A terminal's user name proves nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.announce import begin
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, emit, emit_json, not_judged, say
from gateway.errors import Unauthenticated
from gateway.identity import Identifier
from gateway.policy_in_force import ledger_of
from gateway.settings import Policy, Settings
from gateway.settings.file import read
from governance.audit.beside import record_beside
from governance.audit.record import Record
from governance.errors import AuditError
from governance.policy.changes import ChangeError, Entry, Ledger
from governance.policy.snapshot import PolicySnapshot, read_policy
from governance.types import Subject

_WHO = """
Who you are is proved by an API key of the settings in the environment variable TIDEGATE_API_KEY; what you may is
said by the policy in force: `edit` on `policy` to propose and roll back, `approve` on `policy` to approve and reject,
`role:break-glass` in tenant `*` for an emergency. Nobody approves their own proposal.
exit status: 0 done, 1 not allowed, 2 a file cannot be read, or no key
"""
ADOPT = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy adopt --config tidegate.yaml

Takes the policy file as it is as the first one in force; the gateway does so when it first starts.
"""
    + _WHO
)
PROPOSE = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy propose --config tidegate.yaml --reason "Bob scores from May on"

The policy file as it is now waits for `policy.approvals` approvals of exactly these bytes.
"""
    + _WHO
)
APPROVE = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy approve --config tidegate.yaml HASH
"""
    + _WHO
)
REJECT = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy reject --config tidegate.yaml HASH --reason "too wide"
"""
    + _WHO
)
EMERGENCY = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy emergency --config tidegate.yaml --hours 4 --reason "incident 812"

The policy file as it is now takes effect at once and, unless it is approved meanwhile, ends by itself.
"""
    + _WHO
)
ROLLBACK = (
    """\
examples:
  TIDEGATE_API_KEY=... tidegate policy rollback --config tidegate.yaml HASH --reason "wrong model"

Puts a policy in force again that was before.
"""
    + _WHO
)
HISTORY = """\
examples:
  tidegate policy history --config tidegate.yaml
  tidegate policy history --config tidegate.yaml --diffs

Every step, what is in force, and the proposals that wait.
exit status: 0, or 2 when a file cannot be read or trusted
"""
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("adopt", "begin with the policy as it is", ADOPT),
    ("propose", "ask for approvals of a change", PROPOSE),
    ("approve", "agree to exactly one policy", APPROVE),
    ("reject", "end a proposal", REJECT),
    ("emergency", "change at once, for a time", EMERGENCY),
    ("rollback", "put an earlier policy in force again", ROLLBACK),
    ("history", "every step, and what waits", HISTORY),
)


def run(args: argparse.Namespace) -> int:
    """One step of change control, or their history; the exit status."""
    reading = read(args.config)
    # Only what cannot be read at all ends here: a draft that is broken must not keep others from being judged.
    settings = reading.settings
    if settings is None:
        return not_judged(reading.findings, f"; `tidegate check {args.config}` lists them")
    named = settings.policy
    if named is None:
        say(f"tidegate: {args.config}: names no policy: write `policy: {{file: policy.csv, approvals: 1}}`")
        return NOT_JUDGED
    if not named.approvals:
        say(f"tidegate: {args.config}: `policy.approvals` is 0, so that every valid edit takes effect at once")
        return NOT_JUDGED
    ledger = ledger_of(settings)
    try:
        if args.step == "history":
            return _history(ledger, diffs=args.diffs, form=args.format)
        who = _who(settings)
        if who is None:
            return NOT_JUDGED
        begin(settings)
        before = ledger.state().in_force(dt.datetime.now(dt.UTC))
        try:
            said = _STEPS[args.step](ledger, who.id, named, args)
        except ChangeError as error:
            say(f"tidegate: {error}")
            return _recorded(settings, _record(args, who, before), DOES_NOT_HOLD)
    except ChangeError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED if args.step == "history" else DOES_NOT_HOLD
    except OSError as error:
        say(f"tidegate: {error.filename}: {error.strerror}: check the path and its rights")
        return NOT_JUDGED
    if args.format == "json":
        emit_json({"step": args.step, "by": who.id, "hash": said[0], "in_force": said[1]})
    else:
        emit(said[0])
        say(f"{args.step}: " + ("in force" if said[1] else "ended" if args.step == "reject" else "waits for approvals"))
    return _recorded(settings, _record(args, who, before, said), HOLDS)


def _record(args: argparse.Namespace, who: Subject, before: str | None, said: tuple[str, bool] | None = None) -> Record:
    """The step for the audit log; `said`: None: it was refused. What people wrote as reasons stays in the ledger."""
    step = args.step
    hashed = getattr(args, "hash", None) if said is None else said[0]
    return Record(
        kind="approval" if step in ("approve", "reject") else "policy",
        action="approve" if step in ("approve", "reject") else "edit",
        object="policy",
        outcome="refused" if said is None else "served",
        # These alone are asked of the policy as that action, and a refusal may have other reasons.
        allowed=True if said is not None and step in ("propose", "approve", "reject", "rollback") else None,
        subject=who.id,
        tenant=who.tenant,
        policy=before,
        details={"step": step, "hash": hashed, "in_force": None if said is None else said[1]},
    )


def _recorded(settings: Settings, record: Record, status: int) -> int:
    """The exit status, once the step is in the audit log."""
    audit = settings.audit
    if audit.mode == "off":
        return status
    try:
        record_beside(
            settings.state_dir, record, erasure=audit.erasure, pseudonyms=audit.pseudonyms, origin=audit.origin
        )
    except (AuditError, OSError) as error:
        say(f"tidegate: the step stands in the ledger and not in the audit log: {error}")
        return NOT_JUDGED
    return status


def _who(settings: Settings) -> Subject | None:
    key = os.environ.get("TIDEGATE_API_KEY", "")
    try:
        subject = Identifier(settings.identity).identify({"x-api-key": key} if key else {})
    except Unauthenticated:
        subject = None
    if subject is None or subject.method != "api_key":
        say("tidegate: TIDEGATE_API_KEY: holds no API key of the settings: `tidegate keys new` makes one")
        return None
    return subject


def _adopt(ledger: Ledger, who: str, named: Policy, _args: argparse.Namespace) -> tuple[str, bool]:
    data = read_policy(named.file)
    PolicySnapshot.compile(data, str(named.file), tests=_tests(named))  # only what could take effect
    if ledger.entries():
        raise ChangeError("a policy has been adopted already: propose the change")
    return ledger.adopt(data, who), True


def _propose(ledger: Ledger, who: str, named: Policy, args: argparse.Namespace) -> tuple[str, bool]:
    data, commit = read_policy(named.file), _commit(named.file)
    return ledger.propose(data, who, named.approvals, args.reason, tests=_tests(named), commit=commit), False


def _tests(named: Policy) -> tuple[bytes, str] | None:
    return None if named.tests is None else (read_policy(named.tests), str(named.tests))


def _approve(ledger: Ledger, who: str, _named: Policy, args: argparse.Namespace) -> tuple[str, bool]:
    return args.hash, ledger.approve(args.hash, who, args.reason)


def _reject(ledger: Ledger, who: str, _named: Policy, args: argparse.Namespace) -> tuple[str, bool]:
    ledger.reject(args.hash, who, args.reason)
    return args.hash, False


def _emergency(ledger: Ledger, who: str, named: Policy, args: argparse.Namespace) -> tuple[str, bool]:
    lasts = dt.timedelta(hours=min(max(args.hours, 0), 1e6))
    return ledger.emergency(read_policy(named.file), who, args.reason, lasts, tests=_tests(named)), True


def _rollback(ledger: Ledger, who: str, _named: Policy, args: argparse.Namespace) -> tuple[str, bool]:
    ledger.roll_back(args.hash, who, args.reason)
    return args.hash, True


_STEPS: dict[str, Callable[[Ledger, str, Policy, argparse.Namespace], tuple[str, bool]]] = {
    "adopt": _adopt,
    "propose": _propose,
    "approve": _approve,
    "reject": _reject,
    "emergency": _emergency,
    "rollback": _rollback,
}


def _commit(file: Path) -> str | None:
    """The commit of the git checkout that a file lies in, unchanged since; None where it does not."""
    try:
        dirty = _git(file, "status", "--porcelain", "--", file.name)
        return None if dirty else _git(file, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(file: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed words and a file of the settings
        ["git", "-C", str(file.parent), *words],  # noqa: S607 - the user's own git
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _history(ledger: Ledger, *, diffs: bool, form: str) -> int:
    entries, state = ledger.entries(), ledger.state()
    now = dt.datetime.now(dt.UTC)
    waiting = {hashed: state.approvals[hashed] for hashed in state.open}
    if form == "json":
        steps = [msgspec.to_builtins(entry) for entry in entries]
        emit_json({"in_force": state.in_force(now), "waiting": waiting, "steps": steps})
        return HOLDS
    before = b""
    for entry in entries:
        emit(_line(entry))
        if diffs and entry.kind not in ("approved", "rejected"):
            text = ledger.text(entry.hash)
            for line in _diff(before, text):
                emit("    " + line)
            before = text
    emit(f"in force: {state.in_force(now)}")
    for hashed, approvals in waiting.items():
        missing = state.open[hashed].needs - len(approvals)
        emit(f"waiting: {hashed} by {state.open[hashed].by}, {missing} more approvals needed")
    return HOLDS


def _line(entry: Entry) -> str:
    parts = [f"{entry.time:%Y-%m-%dT%H:%M:%SZ} {entry.kind} {entry.hash} by {entry.by}"]
    parts += [f"until {entry.expires:%Y-%m-%dT%H:%M:%SZ}"] if entry.expires is not None else []
    parts += [f"commit {entry.commit}"] if entry.commit else []
    parts += [f"({entry.reason})"] if entry.reason else []
    return " ".join(parts)


def _diff(old: bytes, new: bytes) -> list[str]:
    before, after = (text.decode("utf-8", "replace").splitlines() for text in (old, new))
    lines = difflib.unified_diff(before, after, lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++"))]
