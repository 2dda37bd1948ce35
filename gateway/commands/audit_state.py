"""`tidegate audit erase|hold|release|prune|keys|fsck`: what is done to the log of a state directory."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import msgspec

from gateway.commands import audit_prune
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, not_judged, say
from gateway.settings import Settings
from gateway.settings.file import load
from governance.audit import erasure
from governance.audit.fsck import fsck
from governance.audit.layout import Layout
from governance.audit.people import open_people
from governance.audit.secrets import publish_vkeys, signing_keys
from governance.audit.witness import cosigner_of
from governance.errors import AuditInputError

_ERASE = """\
examples:
  tidegate audit erase --config tidegate.yaml --subject user:alice
  tidegate audit erase --config tidegate.yaml --subject user:alice --reason "request 2026-114"

Destroys the keys under which the log holds this person's name and the digests of their inputs. The entries stay,
and proofs of them still verify; nobody can say any more whom they are about. The erasure itself is recorded, before
and after, under the pseudonym: write no name into --reason. It cannot be undone. Keys in older copies of
audit-private/vault.db go on working: see docs/audit.md.
exit status: 0 erased, 1 not: a legal hold is on it, or the log knows no such subject; 2 there is no vault
"""
_HOLD = """\
examples:
  tidegate audit hold --config tidegate.yaml --subject user:alice --reason "case 17/26"
  tidegate audit release --config tidegate.yaml --subject user:alice
  tidegate audit hold --config tidegate.yaml --log --reason "case 17/26"

A legal hold keeps a subject from being erased and its records from being pruned; one on the log (--log) keeps all
of it from being pruned. It is recorded, and so is its release: write no name into --reason.
exit status: 0 done, 1 the log knows no such subject, 2 there is no vault, or no log
"""
_FSCK = """\
examples:
  tidegate audit fsck --config tidegate.yaml
  tidegate audit fsck --config tidegate.yaml --repair

Judges the files of a stopped gateway's log against each other. With --repair it mends what follows from what was
signed: tiles, the published checkpoint, the sequencer's head; and cuts damaged stretches out of write-ahead files,
which it keeps as they were. It never touches an entry of the log: bring that back from a copy.
exit status: 0 the log can be continued, 1 it cannot, 2 there is no log, or somebody writes it
"""
_KEYS = """\
examples:
  tidegate audit keys --config tidegate.yaml

Prints the public keys of the log, and the one with which this gateway cosigns the logs of others; makes them when
there are none yet. So gateways can be told of each other before the first of them has started.
exit status: 0 done, 2 a key file cannot be used
"""
_SUBJECT = "as the policy writes it: user:NAME"
Declare: TypeAlias = Callable[..., argparse.ArgumentParser]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], declare: Declare) -> None:
    """Declares the commands; `declare` makes the parser of one."""
    erase = declare(commands, "erase", "destroy the keys of a person", _ERASE, run_erase)
    hold = declare(commands, "hold", "keep a person from being erased, or the log from being pruned", _HOLD, run_hold)
    release = declare(commands, "release", "end a hold", _HOLD, run_hold)
    keys = declare(commands, "keys", "print the public keys", _KEYS, run_keys)
    check = declare(commands, "fsck", "judge and mend the files of a log", _FSCK, run_fsck)
    for parser in (erase, hold, release, keys, check):
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
        add_format(parser)
    erase.add_argument("--subject", required=True, metavar="S", help=_SUBJECT)
    for parser in (hold, release):
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--subject", metavar="S", help=_SUBJECT)
        what.add_argument("--log", action="store_true", help="everything that is in the log")
    audit_prune.add_command(commands, declare)
    check.add_argument("--repair", action="store_true", help="mend what can be mended")
    erase.add_argument("--reason", default="", metavar="TEXT", help="for the record")
    hold.add_argument("--reason", required=True, metavar="TEXT", help="for the record")
    release.set_defaults(reason=None)


def _settings(config: Path) -> Settings | None:
    settings, findings = load(config)
    if settings is None:
        not_judged(findings, f"; `tidegate check {config}` lists them")
    return settings


def _state_dir(config: Path) -> Path | None:
    settings = _settings(config)
    return None if settings is None else settings.state_dir


def _bad_subject(subject: str) -> bool:
    if subject.startswith("user:") and len(subject) > len("user:"):
        return False
    say(f"tidegate: --subject {subject!r}: write it as the policy does: user:NAME")
    return True


def run_erase(args: argparse.Namespace) -> int:
    """Erases a subject; its exit status."""
    state_dir = _state_dir(args.config)
    if state_dir is None or _bad_subject(args.subject):
        return NOT_JUDGED
    erased = erasure.erase(state_dir, args.subject, args.reason)
    ok = bool(erased.subject) and not erased.held
    if args.format == "json":
        emit_json({"ok": ok, "subject": erased.subject or None, "hold": erased.held or None})
    elif ok:
        emit(f"erased: {erased.subject} is nobody's name any more")
    elif erased.held:
        emit(f"not erased: {erased.subject} is under a legal hold: {erased.held}")
    else:
        emit(f"not erased: the log knows no subject {args.subject}")
    return HOLDS if ok else DOES_NOT_HOLD


def run_hold(args: argparse.Namespace) -> int:
    """Puts a hold on a subject, or takes it off; its exit status."""
    settings = _settings(args.config)
    if settings is None:
        return NOT_JUDGED
    if args.log:
        return _hold_log(settings, args)
    state_dir = settings.state_dir
    if _bad_subject(args.subject):
        return NOT_JUDGED
    pseudonym = erasure.hold(state_dir, args.subject, args.reason)
    if args.format == "json":
        emit_json({"ok": bool(pseudonym), "subject": pseudonym or None, "hold": args.reason})
    elif pseudonym:
        emit(f"{pseudonym}: {'released' if args.reason is None else f'held: {args.reason}'}")
    else:
        emit(f"the log knows no subject {args.subject}")
    return HOLDS if pseudonym else DOES_NOT_HOLD


def _hold_log(settings: Settings, args: argparse.Namespace) -> int:
    layout, audit = Layout(settings.state_dir), settings.audit
    if not layout.signing_key.exists():
        raise AuditInputError(f"{layout.signing_key}: no such file: there is no log in this state_dir")
    with closing(open_people(layout, erasure=audit.erasure, pseudonyms=audit.pseudonyms)) as people:
        erasure.hold_log(settings.state_dir, people, args.reason)
    if args.format == "json":
        emit_json({"ok": True, "subject": None, "hold": args.reason})
    else:
        emit(f"the log: {'released' if args.reason is None else f'held: {args.reason}'}")
    return HOLDS


def run_keys(args: argparse.Namespace) -> int:
    """Prints public keys; its exit status."""
    settings = _settings(args.config)
    if settings is None:
        return NOT_JUDGED
    layout = Layout(settings.state_dir)
    layout.make_private()
    signers = signing_keys(layout, settings.audit.origin)
    publish_vkeys(layout, signers)
    log = [signer.verifier.vkey for signer in signers]
    witness = cosigner_of(layout).key.vkey
    if args.format == "json":
        emit_json({"log": log, "witness": witness})
    else:
        for key in log:
            emit(f"log      {key}")
        emit(f"witness  {witness}")
    return HOLDS


def run_fsck(args: argparse.Namespace) -> int:
    """Judges a log's files; its exit status."""
    state_dir = _state_dir(args.config)
    if state_dir is None:
        return NOT_JUDGED
    result = fsck(state_dir, repair=args.repair)
    if args.format == "json":
        findings = [msgspec.structs.asdict(finding) for finding in result.findings]
        emit_json({"ok": result.ok, "findings": findings, "repaired": result.repaired})
    else:
        for finding in result.findings:
            emit(str(finding))
        for line in result.repaired:
            emit(line)
        emit("ok" if result.ok else "NOT ok")
    return HOLDS if result.ok else DOES_NOT_HOLD
