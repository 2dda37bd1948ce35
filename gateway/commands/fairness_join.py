"""`tidegate fairness join`: tells a running gateway of the people whom decisions were about, by request id."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from governance.errors import DataError

_JOIN = """\
examples:
  TIDEGATE_API_KEY=... tidegate fairness join --url https://gateway:8080 --route loan --data people.csv --attribute sex
  TIDEGATE_API_KEY=... tidegate fairness join --url http://127.0.0.1:8080 --route loan --data people.jsonl \\
      --id request --attribute sex --attribute race

The table has a row a request: its x-request-id and the attributes that the route declares as `joined`. The key in the
environment variable TIDEGATE_API_KEY needs `join` on `fairness:ROUTE`. What becomes of the ids is counted: joined, told
before (again), more than a day old (late), without a decision that waits (unmatched), with a value that the settings do
not declare (undeclared). Telling twice changes nothing, so that a table that was cut short is told again as a whole.
exit status: 0 told, 1 not allowed, 2 the table cannot be read or the gateway cannot be asked
"""
_AT_ONCE = 5000
_TIMEOUT_S = 60.0
_NOT_ALLOWED = frozenset({401, 403})


class _Asked(Exception):
    """The gateway did not take it; the text says why."""

    def __init__(self, why: str, status: int = NOT_JUDGED) -> None:
        super().__init__(why)
        self.status = status


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "join",
        help="tell a gateway of people, by request id",
        epilog=_JOIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--url", required=True, help="the gateway, such as https://HOST:PORT")
    add("--route", required=True, metavar="NAME", help="the route that decided")
    add("--data", type=Path, required=True, metavar="CSV", help="a request a row (also JSONL, Parquet)")
    add("--id", default="id", metavar="COLUMN", help="column of the request id (default: id)")
    add("--attribute", action="append", required=True, metavar="NAME", help="column of an attribute; may be repeated")
    add("--ca", type=Path, metavar="FILE", help="CAs that the gateway's certificate must come from (PEM)")
    add_format(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tells; its exit status."""
    total: Counter[str] = Counter()
    try:
        with contextlib.closing(_connection(args.url, args.ca)) as connection:
            for requests in _batches(args):
                total.update(_post(connection, args.route, requests))
    except (_Asked, DataError) as error:
        say(f"tidegate: {error}")
        if total:
            say(f"told before that: {_text(total)}")
        return error.status if isinstance(error, _Asked) else NOT_JUDGED
    if args.format == "json":
        emit_json(total)
    else:
        emit(_text(total))
    return HOLDS


def _text(total: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in total.items())


def _batches(args: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Raises DataError."""
    # Other commands do not wait for numpy.
    from governance import tables  # noqa: PLC0415  numpy
    from governance.fairness.reading import column_of  # noqa: PLC0415  numpy
    from governance.monitor.kinds import is_missing, label  # noqa: PLC0415  numpy

    table = tables.read(args.data)
    ids = column_of(table, args.id).values
    columns = [(name, column_of(table, name).values) for name in args.attribute]
    for start in range(0, max(table.rows, 1), _AT_ONCE):
        yield [
            {
                "id": label(ids[row]),
                "values": {name: label(cells[row]) for name, cells in columns if not is_missing(cells[row])},
            }
            for row in range(start, min(start + _AT_ONCE, table.rows))
            if not is_missing(ids[row])
        ]


def _connection(url: str, ca: Path | None) -> http.client.HTTPConnection:
    """Raises _Asked."""
    if "@" in url:  # not told: it may hold a password
        raise _Asked("--url: holds a user: write https://HOST:PORT, and the key into TIDEGATE_API_KEY")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _Asked(f"--url {url}: {error}: write https://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/"):
        raise _Asked(f"--url {url}: write https://HOST:PORT")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise _Asked(f"--ca {ca}: {error.strerror or 'no certificates'}: name a PEM file") from None
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


def _post(connection: http.client.HTTPConnection, route: str, requests: list[dict[str, Any]]) -> dict[str, int]:
    """What became of them. Raises _Asked."""
    headers = {"content-type": "application/json"}
    key = os.environ.get("TIDEGATE_API_KEY", "")
    if not (key.isascii() and key.isprintable()):  # http.client would tell the value
        raise _Asked("TIDEGATE_API_KEY: holds what no header may, such as the end of a line: set the key alone")
    if key:
        headers["x-api-key"] = key
    path = f"/gateway/v1/fairness/{quote(route, safe='')}/attributes"
    try:
        connection.request("POST", path, json.dumps({"requests": requests}).encode(), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        where = f"{connection.host}:{connection.port}"
        raise _Asked(f"{where}: cannot be asked ({error}): check --url, and that the gateway runs") from None
    if answer.status != 200:
        status = DOES_NOT_HOLD if answer.status in _NOT_ALLOWED else NOT_JUDGED
        said = body.get("error", answer.status) if isinstance(body, dict) else answer.status
        raise _Asked(f"route {route}: {said}", status)
    if not (isinstance(body, dict) and all(type(count) is int for count in body.values())):
        raise _Asked(f"{connection.host}:{connection.port}: answers as no Tidegate does: check --url")
    found: dict[str, int] = body
    return found
