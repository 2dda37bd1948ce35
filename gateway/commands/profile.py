"""`tidegate profile`: what a model was made with, frozen for the monitors of its routes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.commands.output import HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from governance.errors import DataError

if TYPE_CHECKING:
    from governance.monitor.profile import ColumnProfile, Profile

_BUILD = """\
examples:
  tidegate profile build train.csv --output income.profile --without label
  tidegate profile build train.parquet --output income.profile --categorical postcode --route income

Bins of equal shares of the numbers, the most frequent categories, missing values and moments of each column: what
`routes.NAME.monitor: {profile: FILE}` holds the route's traffic against. A column is the model's input tensor of its
name; see docs/monitoring.md for wider tensors. The same data gives the same profile, and the same hash, anywhere.
--alarms simulates windows of the table's rows, so that the route may have `alarms` with a budget of false ones: some
ten seconds for ten columns.
exit status: 0 written, 2 the table cannot be read or the profile not written
"""
_SHOW = """\
examples:
  tidegate profile show income.profile
  tidegate profile show income.profile --format json

exit status: 0 shown, 2 the file cannot be read or is no profile
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    profile = subparsers.add_parser("profile", help="freeze what a model was made with, for its routes' monitors")
    commands = profile.add_subparsers(title="commands", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    build = commands.add_parser("build", help="make a profile of a table", epilog=_BUILD, formatter_class=raw)
    build.add_argument("data", type=Path, metavar="DATA", help="CSV, JSONL or Parquet, by the name's end")
    build.add_argument("--output", type=Path, required=True, metavar="FILE", help="the profile; replaced in one step")
    build.add_argument("--route", metavar="NAME", help="the route that it is for; no other one takes it then")
    build.add_argument(
        "--categorical", action="append", default=[], metavar="NAME", help="a column whose numbers are names"
    )
    build.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="a column that is no input, as the label"
    )
    build.add_argument(
        "--alarms", action="store_true", help="find the thresholds of alarms, by simulation from the table's rows"
    )
    add_format(build)
    build.set_defaults(run=run_build)
    show = commands.add_parser("show", help="what is in a profile", epilog=_SHOW, formatter_class=raw)
    show.add_argument("profile", type=Path, metavar="FILE", help="as `profile build` wrote it")
    add_format(show)
    show.set_defaults(run=run_show)


def run_build(args: argparse.Namespace) -> int:
    """Makes a profile; its exit status."""
    # Other commands do not wait for numpy.
    from governance import tables  # noqa: PLC0415  numpy
    from governance.monitor import calibration  # noqa: PLC0415  numpy
    from governance.monitor import profile as profiles  # noqa: PLC0415  numpy

    try:
        table = tables.read(args.data)
        made = profiles.build(table, categorical=args.categorical, without=args.without, route=args.route)
        if args.alarms:
            made = calibration.calibrated(made, table, progress=_progress if sys.stderr.isatty() else lambda _: None)
        _write(args.output, profiles.encode(made))
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    except OSError as error:
        say(f"tidegate: {args.output}: cannot be written ({error.strerror or error}): check the path and its rights")
        return NOT_JUDGED
    if args.format == "json":
        emit_json({"output": str(args.output), "sha256": made.hash, "rows": made.head.rows, "columns": _names(made)})
    else:
        emit(f"{args.output}: {len(made.columns)} columns of {made.head.rows} rows, sha256 {made.hash}")
    return HOLDS


def _progress(what: str) -> None:
    say(f"simulating {what}")


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: a gateway may be reading the file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _names(profile: Profile) -> list[str]:
    return [column.name for column in profile.columns]


def run_show(args: argparse.Namespace) -> int:
    """Shows a profile; its exit status."""
    from governance.monitor import profile as profiles  # noqa: PLC0415  numpy

    try:
        found = profiles.load(args.profile)
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    if args.format == "json":
        head = msgspec.to_builtins(found.head)
        emit_json({**head, "columns": [msgspec.to_builtins(column) for column in found.columns]})
        return HOLDS
    of = f" for route {found.head.route}" if found.head.route is not None else ""
    emit(f"{len(found.columns)} columns of {found.head.rows} rows{of}")
    emit(f"sha256 {found.hash}, of data {found.head.data}")
    if found.head.alarms is not None:
        emit("thresholds for alarms")
    width = max(len(column.name) for column in found.columns)
    for column in found.columns:
        kind, what = _described(column)
        emit(f"{column.name:{width}}  {kind:11}  {column.missing / found.head.rows:6.1%} missing  {what}")
    return HOLDS


def _described(column: ColumnProfile) -> tuple[str, str]:
    from governance.monitor.profile import Names, Numbers  # noqa: PLC0415  numpy

    if isinstance(column, Numbers):
        given = {"mean": column.mean, "std": column.std, "low": column.low, "high": column.high}
        moments = ", ".join(f"{name} {value:.6g}" for name, value in given.items() if value is not None)
        return "numeric", f"{len(column.counts)} bins; {moments or 'no finite value'}"
    if isinstance(column, Names):
        known = len(column.categories) + len(column.others)
        most = ", ".join(column.categories[:5])
        return "categorical", f"{known} categories: {most}{', ...' if known > 5 else ''}"
    return "timestamp", "counted, not compared"
