"""`tidegate compliance list|show|report|incident`: duties, and what the log shows of them."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from gateway.commands import compliance_incident
from gateway.commands.compliance_args import a, add_given, add_log, given_of, log_of
from gateway.commands.guarded import declare
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, progress, say
from governance.compliance import pack as packs
from governance.compliance import times

if TYPE_CHECKING:
    from governance.compliance.report import Report

_LIST = """\
examples:
  tidegate compliance list
  tidegate compliance list --format json

exit status: 0 done, 2 a pack cannot be read
"""
_SHOW = """\
examples:
  tidegate compliance show eu-ai-act
  tidegate compliance show ./our-own-pack.yaml --format json

What each duty asks for in our own words, what counts as evidence of it, and what the gateway cannot show.
exit status: 0 done, 2 there is no such pack, or the file is none
"""
_REPORT = """\
examples:
  tidegate compliance report eu-ai-act --log state/audit --from 2026-11-01 --to 2026-12-01 --output evidence
  tidegate compliance report sr-26-2 --log copy --key log.vkey --remembered march.checkpoint \\
      --from 2026-01-01 --to 2026-04-01 --card credit.yaml --policy policy.csv --output q1

Makes a folder: index.html for people, report.json for programs, every cited record with its proof, the checkpoint and
the log's public key, what was handed in, and SHA256SUMS. It is checked offline, with `sha256sum --check SHA256SUMS` and
`tidegate audit verify-proof`. The whole log is verified first. A time is a day (from midnight UTC) or RFC 3339 with its
zone; the period ends before --to. The folder may name people.
It says what there is and what is missing, and never that a law is kept.
exit status: 0 made; 1 made, and the log does not verify or a check fails; 2 something cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    parser = subparsers.add_parser("compliance", help="evidence of duties, from the log")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = declare(commands, "list", "the packs that come with the gateway", _LIST, run_list)
    add_format(listed)
    shown = declare(commands, "show", "the duties of a pack", _SHOW, run_show)
    shown.add_argument("pack", metavar="PACK", help="a name, or the path of a pack of your own")
    add_format(shown)
    report = declare(commands, "report", "a folder of evidence for a period", _REPORT, run_report)
    report.add_argument("pack", metavar="PACK", help="a name, or the path of a pack of your own")
    add_log(report)
    report.add_argument(
        "--from", dest="begin", type=a(times.moment), required=True, metavar="TIME", help="first moment"
    )
    report.add_argument("--to", dest="end", type=a(times.moment), required=True, metavar="TIME", help="without it")
    add_given(report)
    add_format(report)
    compliance_incident.add_command(commands)


def run_list(args: argparse.Namespace) -> int:
    """Lists the packs; its exit status."""
    found = [packs.load(name) for name in packs.shipped()]
    if args.format == "json":
        rows = [
            {
                "name": one.name,
                "version": one.version,
                "title": one.title,
                "jurisdiction": one.jurisdiction,
                "text": one.text.citation,
                "dated": one.text.dated,
                "force": one.text.force,
                "duties": len(one.duties),
            }
            for one in found
        ]
        emit_json({"packs": rows})
        return HOLDS
    width = max(len(one.name) for one in found)
    for one in found:
        emit(f"{one.name:{width}}  {one.version}  {one.title} ({one.text.force}; {len(one.duties)} duties)")
    return HOLDS


def run_show(args: argparse.Namespace) -> int:
    """Shows a pack; its exit status."""
    pack = packs.load(args.pack)
    if args.format == "json":
        emit_json(msgspec.to_builtins(pack))
        return HOLDS
    emit(f"{pack.title} ({pack.jurisdiction}, {pack.text.force}); pack {pack.name} of {pack.version}")
    emit(f"{pack.text.citation}, as of {pack.text.dated}\n{pack.text.url}")
    for note in pack.text.notes:
        emit(f"  note: {note}")
    for duty in pack.duties:
        emit(f"\n{duty.id}: {duty.citation}. {duty.title}")
        emit(f"  falls on: {', '.join(duty.who)}")
        emit(f"  asks for: {duty.asks}\n  evidence: {duty.evidence}")
        for check in duty.checks:
            emit(f"  check: {check.says}")
        for clock in duty.clocks:
            emit(f"  clock: {clock.name}, {span_of(clock)} ({clock.citation})")
        for line in duty.cannot_show:
            emit(f"  cannot show: {line}")
        for line in duty.lawyer:
            emit(f"  for a lawyer: {line}")
    return HOLDS


def span_of(clock: packs.Clock) -> str:
    """`15 days`, `72 hours`."""
    return f"{clock.days} days" if clock.days is not None else f"{clock.hours} hours"


def run_report(args: argparse.Namespace) -> int:
    """Makes a bundle; its exit status."""
    from governance.compliance import page, report  # noqa: PLC0415  with them come policies, which `list` does without
    from governance.compliance.bundle import Bundle  # noqa: PLC0415  likewise

    if args.begin >= args.end:
        say(f"tidegate: --from {times.short(args.begin)} is not before --to {times.short(args.end)}")
        return NOT_JUDGED
    path = packs.path_of(args.pack)
    content = packs.content_of(path)
    pack = packs.parse(content, path)
    given = given_of(args)
    log = log_of(args)
    with Bundle(args.output) as bundle:
        found = report.make(
            log,
            pack,
            times.Period(args.begin, args.end),
            given,
            made=times.short(datetime.now(UTC)),
            tool=f"tidegate {version('tidegate')}",
            progress=progress(),
        )
        wanted: dict[int, list[str]] = {}
        for name, query in found.queries.items():
            for index in query.cited:
                wanted.setdefault(index, []).append(name)
        found.cited, gaps = bundle.cite(log, wanted)
        found.missing += gaps
        left_out = found.records["in_period"] - len(found.cited)
        if left_out:
            found.missing.append(f"{left_out} records of the period are counted, and not in this folder.")
        bundle.put_log(log)
        bundle.put("given/pack.yaml", content)
        for one in given.files:
            bundle.put(f"given/{one.name}", one.content)
        bundle.put_json("report.json", found)
        bundle.put("index.html", page.write(found))
        bundle.seal()
    _said(found, args)
    return HOLDS if found.holds else DOES_NOT_HOLD


def _said(found: Report, args: argparse.Namespace) -> None:
    summary = {
        "ok": found.holds,
        "output": str(args.output),
        "verifies": found.log.verifies,
        **found.summary,
        "records": found.records["in_period"],
        "cited": len(found.cited),
        "missing": len(found.missing),
        "duties": [
            {
                "id": duty.id,
                "records": sum(duty.queries.values()),
                "checks": [result.status for result in duty.checks],
                "missing": len(duty.missing),
            }
            for duty in found.duties
        ],
    }
    if args.format == "json":
        emit_json(summary)
        return
    for finding in found.log.findings:
        emit(f"log: {finding}")
    for duty in found.duties:
        for result in duty.checks:
            if result.status == "fails":
                emit(f"fails: {duty.citation}: {result.says}: {result.why}")
    for line in found.missing:
        emit(f"missing: {line}")
    emit(
        f"{args.output}: {found.records['in_period']} records in the period, {len(found.cited)} with proofs; checks: "
        f"{found.summary['holds']} hold, {found.summary['fails']} fail, {found.summary['not_shown']} not shown"
    )
