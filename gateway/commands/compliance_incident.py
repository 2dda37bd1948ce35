"""`tidegate compliance incident`: the dossier of one incident, with its clocks, and a hold on erasure."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.commands.compliance_args import a, add_given, add_log, given_of, log_of
from gateway.commands.guarded import declare
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, add_format, emit, emit_json, not_judged, progress
from gateway.settings.file import load
from governance.compliance import pack as packs
from governance.compliance import times

if TYPE_CHECKING:
    from governance.audit.erasure import Held
    from governance.compliance.given import Given
    from governance.compliance.incident import Dossier, Named
    from governance.compliance.report import Source

_INCIDENT = """\
examples:
  tidegate compliance incident --log state/audit --request 6f1ed002ab559585 --aware 2026-11-30T08:15:00Z \\
      --config tidegate.yaml --output incident-7
  tidegate compliance incident --log state/audit --around 2026-11-29T22:10:00Z --window 2h \\
      --aware 2026-11-30T08:15:00Z --whole-log --output incident-7

Makes a folder like `tidegate compliance report` does: the records of the incident and around it, with proofs; what was
in force and what changed before; until when whom to tell, counted from --aware, when it became known. With --config the
people that it is about are put under a legal hold, by their pseudonyms, so that their keys cannot be destroyed.
--whole-log copies the log up to its checkpoint into the folder. Whether it is a serious incident is not judged.
exit status: 0 made; 1 made, and the log does not verify or has no record of a request; 2 something cannot be read
"""
_CLOCKS = ("eu-ai-act", "gdpr")
"""Packs whose clocks run by themselves; others are named."""
_PUBLIC_S = 20.0
"""A record is in the log within 15 s of its decision."""
_POLL_S = 0.25


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = declare(commands, "incident", "the dossier of one incident", _INCIDENT, run)
    add_log(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--request", action="append", default=[], metavar="ID", help="a request id; repeatable")
    which.add_argument("--around", type=a(times.moment), metavar="TIME", help="when it happened")
    parser.add_argument(
        "--window",
        type=a(times.span),
        default=times.span("15m"),
        metavar="D",
        help="before and after it (default: 15m)",
    )
    parser.add_argument(
        "--aware", type=a(times.moment), required=True, metavar="TIME", help="when it became known: the clocks begin"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings: puts a legal hold on the people concerned"
    )
    parser.add_argument("--reason", default="incident", metavar="TEXT", help="of the hold, for the record; no names")
    parser.add_argument("--whole-log", action="store_true", help="copy the log up to its checkpoint into the folder")
    parser.add_argument(
        "--pack", action="append", default=[], metavar="PACK", help=f"whose clocks (default: {', '.join(_CLOCKS)})"
    )
    add_given(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Makes a dossier; its exit status."""
    from governance.compliance import incident, incident_page  # noqa: PLC0415  with them come policies
    from governance.compliance.bundle import Bundle  # noqa: PLC0415  likewise

    state_dir = None
    if args.config is not None:
        settings, findings = load(args.config)
        if settings is None:
            return not_judged(findings, f"; `tidegate check {args.config}` lists them")
        state_dir = settings.state_dir
    clocks = [packs.load(name) for name in args.pack or _CLOCKS]
    given = given_of(args)
    log = log_of(args)
    period = None if args.around is None else incident.period_around(args.around, args.window)
    with Bundle(args.output) as bundle:
        named = incident.find(log, args.request, period, progress())
        held = _hold(state_dir, named, args.reason)
        if held is not None and held.new:
            log = _with_holds(log, held)
            named = incident.find(log, args.request, period, progress())
        period = period or named.span(args.window) or incident.period_around(args.aware, args.window)
        dossier = _dossier(args, log, clocks, named, period, held, given)
        wanted: dict[int, list[str]] = {}
        for name, query in dossier.queries.items():
            for index in query.cited:
                wanted.setdefault(index, []).append(name)
        dossier.cited, gaps = bundle.cite(log, wanted)
        dossier.missing += gaps
        bundle.put_log(log)
        if args.whole_log:
            bundle.copy(log.folder, incident.files_of(log), "log")
        for one in given.files:
            bundle.put(f"given/{one.name}", one.content)
        bundle.put_json("incident.json", dossier)
        bundle.put("index.html", incident_page.write(dossier))
        bundle.seal()
    _said(dossier, args)
    return HOLDS if dossier.ok else DOES_NOT_HOLD


def _hold(state_dir: Path | None, named: Named, reason: str) -> Held | None:
    """Holds the people that an incident is about. Raises AuditError."""
    from governance.audit.erasure import hold_people  # noqa: PLC0415  with it comes the vault

    if state_dir is None or not named.subjects:
        return None
    return hold_people(state_dir, named.subjects, reason)


def _with_holds(log: Source, held: Held) -> Source:
    """The log with the records of the holds in it, or as it is when they do not come."""
    from governance.audit.show import as_object, entries  # noqa: PLC0415  see `run`
    from governance.compliance import report  # noqa: PLC0415  see `run`

    begun, left, at = time.monotonic(), set(held.new), log.checkpoint.size
    while True:
        now = report.source(log.folder, log.keys, own_key=log.own_key, remembered=log.remembered)
        for index, entry in entries(now.folder, at, size=now.checkpoint.size):
            record = as_object(index, entry)
            if record.get("action") == "hold":
                left.discard(str(record.get("object")))
        at = max(at, now.checkpoint.size)
        if not left or time.monotonic() - begun > _PUBLIC_S:
            return now
        time.sleep(_POLL_S)


def _dossier(
    args: argparse.Namespace,
    log: Source,
    clocks: list[packs.Pack],
    named: Named,
    period: times.Period,
    held: Held | None,
    given: Given,
) -> Dossier:
    from governance.compliance import clocks as clock  # noqa: PLC0415  see `run`
    from governance.compliance import incident, report  # noqa: PLC0415  see `run`

    now = datetime.now(UTC)
    told = progress()
    judged = report.verified(log, told)
    found = incident.around(log, period, told)
    queries = {name: report.query_facts(one) for name, one in found.found.items()}
    if args.request:
        queries = {"named": incident.facts_of("The requests that were named", named.records, named.indices), **queries}
    before = sorted({*named.before, *named.in_force.values()})
    queries["before"] = incident.facts_of("The last changes before it", len(before), before)
    return incident.Dossier(
        schema=incident.SCHEMA,
        made=times.short(now),
        tool=f"tidegate {version('tidegate')}",
        aware=times.short(args.aware),
        requests=list(args.request),
        period=incident.texts(period),
        clocks=clock.due(clocks, args.aware, now),
        log=report.facts(log, judged, found.first, found.last),
        records={"in_period": found.records, "outside": found.outside, "no_record": found.unreadable},
        policies=[{"policy": policy, **msgspec.structs.asdict(one)} for policy, one in found.policies.items()],
        in_force=named.in_force,
        queries=queries,
        policy=incident.policy_in_force(found, judged, period, given),
        hold=held,
        whole_log=args.whole_log,
        given=[report.FileFacts(f"given/{one.name}", one.source, one.sha256) for one in given.files],
        missing=list(_missing(args, log, named, found.records, held)),
        ok=judged.ok and not named.absent,
    )


def _missing(args: argparse.Namespace, log: Source, named: Named, records: int, held: Held | None) -> Iterator[str]:
    from governance.compliance.report import missing_of_log  # noqa: PLC0415  see `run`

    for one in named.absent:
        yield f"The log has no record of the request {one}."
    if not records:
        yield "The log has no record of the period."
    if args.config is None:
        yield "No legal hold was put on (--config FILE): what is sealed could be erased meanwhile."
    elif not named.subjects:
        yield "No record concerned has a sealed subject: there is nothing that could be erased, and no hold was put on."
    if named.more_subjects:
        yield f"More than {len(named.subjects)} people are concerned; only these were looked at for a hold."
    if held is not None and held.without_key:
        yield f"{len(held.without_key)} of the people concerned have no key in this vault."
    if "policy" not in named.in_force:
        yield "The log does not reach back to when the policy in force came into force."
    yield "What was done with an answer, whom it harmed and why are not in a log."
    yield from missing_of_log(log)


def _said(dossier: Dossier, args: argparse.Namespace) -> None:
    if args.format == "json":
        emit_json({
            "ok": dossier.ok,
            "output": str(args.output),
            "verifies": dossier.log.verifies,
            "records": dossier.records["in_period"],
            "cited": len(dossier.cited),
            "held": len(dossier.hold.new) if dossier.hold else 0,
            "clocks": [msgspec.structs.asdict(one) for one in dossier.clocks],
            "missing": dossier.missing,
        })  # fmt: skip
        return
    for one in dossier.clocks:
        emit(f"{one.due}  {one.name} ({one.text}, {one.citation}): {one.left}")
    for line in dossier.missing:
        emit(f"missing: {line}")
    for finding in dossier.log.findings:
        emit(f"log: {finding}")
    new = 0 if dossier.hold is None else len(dossier.hold.new)
    held = f", {new} {'person' if new == 1 else 'people'} held" if dossier.hold else ""
    emit(f"{args.output}: {dossier.records['in_period']} records around it, {len(dossier.cited)} with proofs{held}")
