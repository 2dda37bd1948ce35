"""`tidegate drift`: whether a table still looks like the one that a model was made with, and since when it does not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.commands.output import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_JUDGED,
    add_format,
    emit,
    emit_json,
    not_judged,
    say,
)
from gateway.settings.file import read_text
from gateway.settings.routes import Quality as Declared
from governance.documents.convert import convert
from governance.documents.nodes import compose
from governance.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from governance.monitor.quality import Quality
    from governance.monitor.report import ColumnReport, Report
    from governance.tables import Table
    from governance.types import Finding

_REPORT = """\
examples:
  tidegate drift report --reference train.csv --current today.csv
  tidegate drift report --reference train.parquet --current log.jsonl --categorical postcode --format json
  tidegate drift report --reference train.csv --current today.csv --html drift.html
  tidegate drift report --reference train.csv --current today.csv --constraints columns.yaml

Compares every column: distances over bins that the reference fixes (psi, js, hellinger, kl), tests over the values
(ks, cvm, chi2) and the way that the values moved (wasserstein, in the column's unit). A column with fewer than
--min-rows values on a side is "insufficient": it says nothing, which is not the same as no drift.
Then all columns together, but times: how far rows lie from the reference's principal components, how well a
classifier tells the tables apart (area under ROC) and the distance of kernel means (mmd). Leave out identifiers with
--without: they tell any two tables apart.
--constraints is YAML with the keys of `routes.NAME.monitor.quality`: what each column of --current has to be.
Parquet and the tests need `pip install tidegate[monitor]`.
exit status: 0 compared, 1 compared and a constraint is violated, 2 a table or the constraints cannot be read, the two
tables have no column in common, or the page cannot be written
"""
_CHANGES = """\
examples:
  tidegate drift changes --reference train.csv --current log.csv
  tidegate drift changes --reference train.csv --current log.jsonl --rows 200 --format json

Takes the rows of --current in their order, in windows, and says for each column when its location, its shape or its
missing values changed, by three tests: CUSUM and Page-Hinkley (each wrong once in some 10,000 windows) and ADWIN.
That the reference is a sample is allowed for: the fewer its rows, the larger a shift must be for CUSUM to find it.
Rows count from 1; a change is found at the end of a window. For looking back: alarms are the gateway's.
exit status: 0 looked, 2 a table cannot be read, is too short, or the two have no column in common
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    drift = subparsers.add_parser("drift", help="compare data with the data that a model was made with")
    commands = drift.add_subparsers(title="commands", metavar="COMMAND", required=True)
    report = commands.add_parser(
        "report",
        help="compare two tables column by column",
        epilog=_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tables_help = "CSV, JSONL or Parquet, by the name's end"
    report.add_argument("--reference", type=Path, required=True, metavar="DATA", help=f"what is normal: {tables_help}")
    report.add_argument("--current", type=Path, required=True, metavar="DATA", help="what is compared with it")
    report.add_argument("--bins", type=_two_or_more, default=10, metavar="N", help="of numbers (default: 10)")
    report.add_argument(
        "--min-rows", type=_two_or_more, default=30, metavar="N", help="values a side needs (default: 30)"
    )
    report.add_argument(
        "--categorical", action="append", default=[], metavar="NAME", help="a column whose numbers are names"
    )
    report.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="a column that is left out, as an identifier"
    )
    report.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page that stands alone, too")
    report.add_argument(
        "--constraints", type=Path, metavar="FILE", help="hold --current to what its columns are declared to be, too"
    )
    add_format(report, "json")
    report.set_defaults(run=run)
    changes = commands.add_parser(
        "changes",
        help="find when the columns of a table changed",
        epilog=_CHANGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    changes.add_argument("--reference", type=Path, required=True, metavar="DATA", help=f"what is normal: {tables_help}")
    changes.add_argument("--current", type=Path, required=True, metavar="DATA", help="rows in the order they came in")
    changes.add_argument("--rows", type=_thirty_or_more, default=1000, metavar="N", help="of a window (default: 1000)")
    changes.add_argument(
        "--categorical", action="append", default=[], metavar="NAME", help="a column whose numbers are names"
    )
    add_format(changes)
    changes.set_defaults(run=run_changes)


def _thirty_or_more(text: str) -> int:
    if not text.isdecimal() or int(text) < 30:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 30 or more")
    return int(text)


def _two_or_more(text: str) -> int:
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 2:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 2 or more")
    return found


def run(args: argparse.Namespace) -> int:
    """Compares; its exit status."""
    # Other commands do not wait for numpy.
    from governance import tables  # noqa: PLC0415  numpy
    from governance.monitor.report import compare  # noqa: PLC0415  numpy

    files = [path for path in (args.reference, args.current, args.constraints) if path is not None]
    if args.html is not None and any(_same(args.html, file) for file in files):
        say(f"tidegate: --html {args.html}: is one of the files that are read: name another one")
        return NOT_JUDGED
    declared = None
    if args.constraints is not None:
        declared, findings = _declared(args.constraints)
        if declared is None:
            return not_judged(findings)
    try:
        reference, current = (tables.read(path) for path in (args.reference, args.current))
        found = None if declared is None else _held(reference, current, declared, args.categorical)
        report = compare(
            reference,
            current,
            bins=args.bins,
            min_rows=args.min_rows,
            categorical=args.categorical,
            without=args.without,
            progress=_progress if sys.stderr.isatty() else lambda _: None,
        )
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    if args.html is not None and not _written(args, report, found):
        return NOT_JUDGED
    if args.format == "json":
        emit_json(msgspec.to_builtins(report) | ({} if found is None else {"quality": msgspec.to_builtins(found)}))
    else:
        _print(report)
        _print_quality(found)
    broken = found is not None and any(one.status == "violated" for one in found.constraints)
    return DOES_NOT_HOLD if broken else HOLDS


def _declared(path: Path) -> tuple[Declared | None, list[Finding]]:
    text, findings = read_text(path)
    if text is None:
        return None, findings
    document, findings = compose(text, str(path), None)
    if document is None:
        return None, findings
    declared, _, more = convert(document, Declared, str(path), path.parent)
    findings += more
    broken = any(finding.severity == "error" for finding in findings)
    return (None if broken else declared), findings


def _held(reference: Table, current: Table, declared: Declared, categorical: Sequence[str]) -> Quality:
    from governance.monitor.quality import of_table  # noqa: PLC0415  numpy

    return of_table(reference, current, declared.columns, schema=declared.schema, categorical=categorical)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def _written(args: argparse.Namespace, report: Report, found: Quality | None) -> bool:
    from governance.monitor import page  # noqa: PLC0415  numpy

    try:
        args.html.write_bytes(page.write(report, args.reference.name, args.current.name, found))
    except OSError as error:
        say(f"tidegate: {args.html}: cannot be written ({error.strerror or error}): check the path and its rights")
        return False
    return True


def _progress(name: str) -> None:
    say(f"comparing {name}")


def _print(report: Report) -> None:
    emit(f"{report.rows['reference']} rows of reference, {report.rows['current']} now")
    names = [column.name for column in report.columns] + [found.name for found in report.together]
    width = max(map(len, names))
    emit(f"{'column':{width}}  {'kind':11}  {'status':12}  {'psi':>8}  {'js':>6}  {'missing':>15}  p")
    for column in report.columns:
        emit(_line(column, report, width))
    emit(f"{'together':{width}}  {'status':12}  {'statistic':>10}  {'effect':>8}  p")
    for found in report.together:
        statistic, effect = ("-" if value is None else f"{value:.4f}" for value in (found.statistic, found.effect))
        p = "-" if found.p_value is None else f"{found.p_value:.2g}"
        emit(f"{found.name:{width}}  {found.status:12}  {statistic:>10}  {effect:>8}  {p}")


def _print_quality(found: Quality | None) -> None:
    from governance.monitor.page import said_of  # noqa: PLC0415  numpy

    for one in () if found is None else found.constraints:
        share = "-" if one.share is None else f"{one.share:.1%}"
        broken = "" if one.broken is None else f"{one.broken} of {one.rows} rows, "
        emit(f"{one.column}: {one.constraint} ({said_of(one)}) {one.status}: {broken}{share}")


def _line(column: ColumnReport, report: Report, width: int) -> str:
    shown = {name: "-" if (value := column.statistics[name]) is None else f"{value:.4f}" for name in ("psi", "js")}
    tests = ", ".join(f"{name} {value:.2g}" for name, value in column.p_values.items() if value is not None)
    sides = ((column.missing_reference, report.rows["reference"]), (column.missing_current, report.rows["current"]))
    missing = " to ".join(f"{count / rows:.1%}" if rows else "-" for count, rows in sides)
    return (
        f"{column.name:{width}}  {column.kind:11}  {column.status:12}  {shown['psi']:>8}  {shown['js']:>6}"
        f"  {missing:>15}  {tests or '-'}"
    )


def run_changes(args: argparse.Namespace) -> int:
    """Looks for changes; its exit status."""
    from governance import tables  # noqa: PLC0415  numpy
    from governance.monitor import changes, profile  # noqa: PLC0415  numpy

    try:
        reference, current = (tables.read(path) for path in (args.reference, args.current))
        found = changes.find(profile.build(reference, categorical=args.categorical), current, rows=args.rows)
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    if args.format == "json":
        emit_json(msgspec.to_builtins(found))
        return HOLDS
    emit(f"{found.windows} windows of {found.rows} rows")
    width = max((len(change.column) for change in found.changes), default=6)
    for change in found.changes:
        when = ", ".join(f"{test} {at[0] if at else '-'}" for test, at in change.found.items())
        emit(f"{change.column:{width}}  {change.what:8}  row {change.first}  effect {change.effect:+.2f}  ({when})")
    return HOLDS
