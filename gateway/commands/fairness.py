"""`tidegate fairness report`, `join`: how decisions fall on groups, with intervals and with who is in no figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.commands import fairness_join
from gateway.commands.output import HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from governance.errors import DataError

if TYPE_CHECKING:
    from governance.fairness.rates import Rate
    from governance.fairness.report import FairnessReport

_REPORT = """\
examples:
  tidegate fairness report --data decisions.csv --label repaid --prediction granted --group sex
  tidegate fairness report --data decisions.csv --label y --prediction p --positive yes --group sex --group race
  tidegate fairness report --data people.csv --ll144 selection --prediction hired --group sex --group race
  tidegate fairness report --data people.csv --ll144 scoring --score s --group sex --group race --exclude-below 0.02

Rates have Wilson's 95 % interval. A group or denominator that is too small is "insufficient", never 0. Rows without an
attribute are counted as unknown; rows without label or prediction are excluded and counted, with the reason.
--ll144 makes the tables of New York City's Local Law 144; an independent auditor has to sign them.
exit status: 0 counted, 2 the data cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    fairness = subparsers.add_parser("fairness", help="how decisions fall on groups")
    commands = fairness.add_subparsers(title="commands", metavar="COMMAND", required=True)
    report = commands.add_parser(
        "report",
        help="count decisions by group",
        epilog=_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = report.add_argument
    add("--data", type=Path, required=True, metavar="CSV", help="a decision a row (also JSONL, Parquet)")
    add("--label", metavar="L", help="column of what was right: 0 or 1")
    add("--prediction", metavar="P", help="column of what was decided: 0 or 1")
    add(
        "--group", action="append", required=True, metavar="G", help="column of an attribute; several make combinations"
    )
    add("--score", metavar="S", help="column of a score, for --ll144 scoring")
    add("--positive", metavar="V", help="what means yes in label and prediction (default: 1, and 0 means no)")
    add("--min-group", type=_whole, default=30, metavar="N", help="rows that a group needs (default: 30)")
    add("--min-denominator", type=_whole, default=10, metavar="N", help="rows that a rate needs (default: 10)")
    add(
        "--ll144",
        choices=("selection", "scoring"),
        help="the tables of Local Law 144 instead; --group SEX --group RACE",
    )
    add("--exclude-below", type=_share, metavar="SHARE", help="with --ll144: no ratio for smaller categories")
    add_format(report, "json")
    report.set_defaults(run=run)
    fairness_join.add_parser(commands)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to below 1")
    return found


def run(args: argparse.Namespace) -> int:
    """Counts; its exit status."""
    wrong = _wrong(args)
    if wrong:
        say(f"tidegate fairness report: {wrong}; see `tidegate fairness report --help`")
        return NOT_JUDGED
    try:
        if args.ll144:
            _ll144(args)
        else:
            _report(args)
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    return HOLDS


def _wrong(args: argparse.Namespace) -> str:
    """What does not go together."""
    if len(set(args.group)) < len(args.group):
        return "one --group is given twice"
    if not args.ll144:
        if args.score is not None or args.exclude_below is not None:
            return "--score and --exclude-below go with --ll144"
        return "" if args.label and args.prediction else "--label and --prediction are needed"
    if len(args.group) != 2:
        return "--ll144 needs --group SEX --group RACE"
    if args.label is not None:
        return "--ll144 has no --label"
    if args.ll144 == "scoring":
        if args.prediction is not None or args.positive is not None:
            return "--ll144 scoring goes by --score alone"
        return "" if args.score else "--ll144 scoring needs --score"
    if args.score is not None:
        return "--ll144 selection goes by --prediction"
    return "" if args.prediction else "--ll144 selection needs --prediction"


def _report(args: argparse.Namespace) -> None:
    # Other commands do not wait for numpy.
    from governance import tables  # noqa: PLC0415  numpy
    from governance.fairness.report import report  # noqa: PLC0415  numpy

    found = report(
        tables.read(args.data),
        label=args.label,
        prediction=args.prediction,
        by=args.group,
        positive=args.positive,
        min_group=args.min_group,
        min_denominator=args.min_denominator,
    )
    if args.format == "json":
        emit_json(msgspec.to_builtins(found))
    else:
        _print(found)


def _ll144(args: argparse.Namespace) -> None:
    from governance import tables  # noqa: PLC0415  numpy
    from governance.fairness import ll144  # noqa: PLC0415  numpy

    found = ll144.tables(
        tables.read(args.data),
        args.ll144,
        args.prediction if args.ll144 == "selection" else args.score,
        (args.group[0], args.group[1]),
        positive=args.positive,
        exclude_below=args.exclude_below or 0.0,
    )
    if args.format == "json":
        emit_json(found)
        return
    if found["ll144"]["median"] is not None:
        emit(f"median score {found['ll144']['median']:g}")
    for one in found["ll144"]["tables"]:
        _print_table(one)
    for excluded in found.get("excluded", ()):
        emit(f"excluded: {excluded['n']} rows, {excluded['reason']}")


def _print_table(table: dict[str, Any]) -> None:
    emit(f"\n{' x '.join(table['by'])}: {table['unknown']} unknown")
    width = max([len(_name(row["group"])) for row in table["rows"]], default=0)
    emit(f"{'':{width}}  {'n':>7}  {'selected':>8}  {'rate':>6}  impact ratio")
    for row in table["rows"]:
        ratio = "excluded" if row["excluded"] else _share_of(row["impact_ratio"], "")
        counts = f"{row['n']:>7}  {row['selected']:>8}  {_share_of(row['rate'], '%'):>6}"
        emit(f"{_name(row['group']):{width}}  {counts}  {ratio}")


def _print(found: FairnessReport) -> None:
    width = max(len(_name(one.group)) for one in found.groups) if found.groups else 0
    for one in found.groups:
        shown = ", ".join(f"{name} {_rate(rate)}" for name, rate in one.metrics.items())
        emit(f"{_name(one.group):{width}}  n {one.n}: {shown}")
    for name, value in found.differences.items():
        emit(f"difference of {name}: {_share_of(value, '')}")
    if (flag := found.four_fifths) is not None:
        emit(
            f"ratio of demographic_parity: {flag['ratio']:.3f} [{flag['low']:.3f}, {flag['high']:.3f}], "
            f"{_name(flag['lowest']['group'])} {flag['lowest']['selected']} of {flag['lowest']['n']} by "
            f"{_name(flag['highest']['group'])} {flag['highest']['selected']} of {flag['highest']['n']}"
            f"{': below four fifths, look closer' if flag['below'] else ''}"
        )
    emit(f"unknown: {found.unknown['n']} rows without an attribute")
    for excluded in found.excluded:
        emit(f"excluded: {excluded['n']} rows, {excluded['reason']}")


def _name(group: dict[str, str]) -> str:
    return ", ".join(group.values())


def _rate(rate: Rate) -> str:
    if rate.value is None:
        return f"insufficient (n {rate.n})"
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def _share_of(value: float | None, unit: str) -> str:
    if value is None:
        return "none"
    return f"{value:.1%}" if unit else f"{value:.3f}"
