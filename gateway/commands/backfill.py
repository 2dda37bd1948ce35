"""`tidegate backfill`: the history of a monitor, from recorded data."""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gateway.commands.output import HOLDS, NOT_JUDGED, add_format, emit, emit_json, not_judged, say
from gateway.settings.file import load
from governance.errors import DataError, StoreError

if TYPE_CHECKING:
    from governance.monitor.backfill import Counted, Span
    from governance.monitor.profile import Profile

_EXAMPLES = """\
examples:
  tidegate backfill --config tidegate.yaml --route credit --time at log-2026-*.parquet
  tidegate backfill --config tidegate.yaml --route credit --time at --until 2026-11-30T12:00:00Z november.csv --jobs 4

Counts recorded rows as the route's monitor would have, and adds them to its history: windows of
`GET /gateway/v1/monitors/ROUTE` show them. A file has all columns of the profile, and one of times: ISO 8601 (without
an offset: UTC) or Unix seconds. Rows that a gateway has counted under this profile would count twice: leave them out
with --until. A file is added once, by its content: after an interruption run the same command again. One that is there
cannot be added to with another --until or --time: it is refused, since rows would count twice.
exit status: 0 all files are there, 2 one cannot be read or is there otherwise (the others are there), or the store
cannot be written
"""

_WORDS = {"added": "added", "there": "were there before", "none": "of the time asked for"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "backfill",
        help="the history of a route's monitor, from recorded data",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="CSV, JSONL or Parquet, by the name's end")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
    parser.add_argument("--route", required=True, metavar="NAME", help="a route with a monitor")
    parser.add_argument("--time", required=True, metavar="COLUMN", help="when a row was served")
    parser.add_argument("--until", type=_time, metavar="TIME", help="rows from then on are left out (default: now)")
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="files that are read at once (default: 1)")
    add_format(parser)
    parser.set_defaults(run=run)


def _time(text: str) -> int:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"no time: {text!r}; write 2026-11-30T12:00:00Z") from None
    return int((found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)).timestamp())


def _jobs(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Its exit status."""
    settings, findings = load(args.config)
    if settings is None:
        return not_judged(findings, f"; `tidegate check {args.config}` lists them")
    # Other commands do not wait for numpy.
    from gateway.monitors.board import key_of  # noqa: PLC0415  numpy
    from governance.monitor import profile as profiles  # noqa: PLC0415  numpy
    from governance.monitor.backfill import Span  # noqa: PLC0415  numpy
    from governance.store import tiles as stored  # noqa: PLC0415  numpy
    from governance.store.plain import Plain  # noqa: PLC0415  numpy

    route = settings.routes.get(args.route)
    if route is None or route.monitor is None:
        say(f"tidegate: {args.config}: no route '{args.route}' with a monitor: it needs `monitor: {{profile: FILE}}`")
        return NOT_JUDGED
    now = int(time.time())
    span = Span(now - stored.KEEP_S, now + 1 if args.until is None else min(args.until, now + 1), stored.AGES, now)
    try:
        profile = profiles.load(route.monitor.profile)
        plain = Plain(settings.store.url or "", settings.state_dir)
        plain.ready()
        series = stored.Series(args.route, key_of(profile, route.monitor.outputs))
        return _all(args, plain, series, profile, span)
    except (DataError, StoreError) as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED


def _all(args: argparse.Namespace, plain: Any, series: Any, profile: Profile, span: Span) -> int:
    from governance.monitor.backfill import count  # noqa: PLC0415  numpy

    files: list[dict[str, Any]] = []
    status = HOLDS
    # Not forked: the parent may hold locks of libraries.
    with ProcessPoolExecutor(min(args.jobs, len(args.data)), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(count, profile, path, args.time, span): path for path in args.data}
        for done in as_completed(running):
            path = running[done]
            try:
                found = done.result()
            except BrokenProcessPool:
                say(f"tidegate: {path}: the process that read it was killed (no memory?): run again with fewer --jobs")
                status = NOT_JUDGED
                continue
            except DataError as error:
                say(f"tidegate: {error}")
                status = NOT_JUDGED
                continue
            try:
                done_so = _added(plain, series, found)
            except StoreError as error:  # what is there is said all the same
                say(f"tidegate: {error}")
                status = NOT_JUDGED
                pool.shutdown(cancel_futures=True)
                break
            if done_so == "others":
                say(
                    f"tidegate: {path}: was added before with another --until or --time: its other rows cannot be "
                    "added; put them into a file of their own"
                )
                status = NOT_JUDGED
            files.append(
                {"file": str(path), "rows": found.rows, "left_out": found.left_out, "added": done_so == "added"}
            )
            if args.format == "json":
                say(f"{len(files)} of {len(args.data)} files: {path}")
            elif done_so != "others":
                said = f"{path}: {found.rows} rows {_WORDS[done_so]}, {found.left_out} left out"
                emit(f"{said} ({len(files)} of {len(args.data)} files)")
    if args.format == "json":
        rows = sum(each["rows"] for each in files if each["added"])
        emit_json({"route": args.route, "profile": profile.hash, "rows": rows, "files": files})
    return status


def _added(plain: Any, series: Any, found: Counted) -> Literal["added", "there", "others", "none"]:
    from governance.store import tiles as stored  # noqa: PLC0415  numpy

    if not found.rows:
        return "none"
    return stored.add(plain, series, f"backfill-{found.digest}", found.taken, found.tiles, found.newest)
