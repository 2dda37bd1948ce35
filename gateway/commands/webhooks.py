"""`tidegate webhooks ...`: what was told to whom, what waits, and a message to try an endpoint with.

Contract: works beside a gateway that runs, and without one. The gateway delivers; only `test` sends by itself. Secrets
are never printed, save the public key of one that is made.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, not_judged, say
from gateway.courier import attempt, secrets
from gateway.settings import Settings
from gateway.settings.file import load
from governance.audit.files import create_private
from governance.errors import StoreError, WebhookError
from governance.store.reading import sqlite_path
from governance.webhooks.messages import test_message
from governance.webhooks.signing import new_secret

if TYPE_CHECKING:
    from governance.store.outbox import Delivery, Outbox

_EXAMPLES = {
    "list": """\
examples:
  tidegate webhooks list --config tidegate.yaml
  tidegate webhooks list --config tidegate.yaml --endpoint pager --state failed --format json

The log of deliveries, newest first: message, type, state, attempts, what the last one came to, and when the next is.
exit status: 0, or 2 when the settings or the store cannot be read
""",
    "retry": """\
examples:
  tidegate webhooks retry --config tidegate.yaml --endpoint pager
  tidegate webhooks retry --config tidegate.yaml --message registry-8d3c...

Whatever of them is not delivered is due now, with all its attempts before it; the gateway delivers within seconds.
exit status: 0, 1 nothing of them waits or has failed, 2 the settings or the store cannot be read
""",
    "test": """\
examples:
  tidegate webhooks test --config tidegate.yaml pager

Sends one signed message of type `webhook.test` to an endpoint, now, from here.
exit status: 0 the endpoint took it, 1 it did not, 2 the settings or the secret cannot be read
""",
    "secret": """\
examples:
  tidegate webhooks secret --output pager.whsec
  tidegate webhooks secret --ed25519 --output pager.whsk

Makes a secret in a new file that only its owner may read. With --ed25519 it prints the public key, which is all that
the receiver needs; else the receiver needs the file's content.
exit status: 0, or 2 when there is such a file already or it cannot be made
""",
}
_HELP = {
    "list": "what was told to whom, and what waits",
    "retry": "deliver now what was not delivered",
    "test": "send a message to an endpoint",
    "secret": "make a secret",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    webhooks = subparsers.add_parser("webhooks", help="who is told of steps of the registry and of the policy")
    commands = webhooks.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, text in _HELP.items():
        parser = parsers[name] = commands.add_parser(
            name, help=text, epilog=_EXAMPLES[name], formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name != "secret":
            parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
        add_format(parser)
        run = {"list": _list, "retry": _retry, "test": _test}.get(name)
        parser.set_defaults(run=_secret if run is None else lambda args, run=run: _guarded(run, args))
    parsers["list"].add_argument("--endpoint", metavar="NAME", help="of this one alone")
    parsers["list"].add_argument("--state", choices=("waiting", "delivered", "failed"), help="in this state alone")
    parsers["list"].add_argument("--message", metavar="ID", help="of this message alone")
    parsers["list"].add_argument("--most", type=_positive, default=100, metavar="N", help="rows (default: 100)")
    which = parsers["retry"].add_mutually_exclusive_group(required=True)
    which.add_argument("--endpoint", metavar="NAME", help="of this endpoint")
    which.add_argument("--message", metavar="ID", help="this message, for every endpoint")
    parsers["test"].add_argument("endpoint", metavar="NAME", help="of the endpoint in the settings")
    parsers["secret"].add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to make")
    parsers["secret"].add_argument("--ed25519", action="store_true", help="a key pair instead of a shared secret")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"no number of rows: {text!r}")
    return int(text)


def _guarded(run: Callable[[Settings, argparse.Namespace], int], args: argparse.Namespace) -> int:
    settings, findings = load(args.config)
    if settings is None:
        return not_judged(findings, f"; `tidegate check {args.config}` lists them")
    try:
        return run(settings, args)
    except (StoreError, WebhookError) as error:
        say(f"tidegate: {error}")
    except OSError as error:
        say(f"tidegate: {error.filename}: {error.strerror}: check the path and its rights")
    return NOT_JUDGED


@contextmanager
def _outbox(settings: Settings) -> Iterator[Outbox]:
    # Here, since they take a second to import, which no other command should wait for.
    from governance.store.database import open_database  # noqa: PLC0415  SQLAlchemy
    from governance.store.outbox import Outbox  # noqa: PLC0415  SQLAlchemy

    outbox = Outbox(open_database(settings.store.url or "", settings.state_dir))
    try:
        yield outbox
    finally:
        outbox.close()


def _list(settings: Settings, args: argparse.Namespace) -> int:
    found: list[Delivery] = []
    if settings.store.url or sqlite_path(settings.state_dir).exists():  # to look makes nothing
        with _outbox(settings) as outbox:
            found = outbox.log(endpoint=args.endpoint, state=args.state, message=args.message, most=args.most)
    if args.format == "json":
        emit_json({"deliveries": [_as_json(one) for one in found]})
        return HOLDS
    for one in found:
        tries = f"{one.attempts} attempt{'s' * (one.attempts != 1)}"
        parts = [f"{_time(one.made)} {one.endpoint} {one.type} {one.message}: {one.state}", tries]
        parts += [one.status] * bool(one.status) + [f"next {_time(one.due)}"] * (one.state == "waiting")
        emit("; ".join(parts))
    return HOLDS


def _as_json(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.message,
        "endpoint": one.endpoint,
        "type": one.type,
        "state": one.state,
        "attempts": one.attempts,
        "status": one.status or None,
        "made": _time(one.made),
        "tried": _time(one.tried),
        "next": _time(one.due) if one.state == "waiting" else None,
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _retry(settings: Settings, args: argparse.Namespace) -> int:
    with _outbox(settings) as outbox:
        count = outbox.retry(time.time(), endpoint=args.endpoint, message=args.message)
    if args.format == "json":
        emit_json({"due": count})
    else:
        emit(f"{count} due now")
    return HOLDS if count else DOES_NOT_HOLD


def _test(settings: Settings, args: argparse.Namespace) -> int:
    section = settings.webhooks
    endpoint = None if section is None else section.endpoints.get(args.endpoint)
    if section is None or endpoint is None:
        say(f"tidegate: {args.config}: has no endpoint `{args.endpoint}` in `webhooks.endpoints`")
        return NOT_JUDGED
    secrets(endpoint)  # what cannot be signed cannot be judged
    now, unique = dt.datetime.now(dt.UTC), os.urandom(16).hex()
    message = test_message(unique, now)
    done = attempt(endpoint, section.private_hosts, message.id, message.body, lambda _post: None)
    if args.format == "json":
        emit_json({"ok": done.delivered, "id": message.id, "status": done.status})
    else:
        emit(f"{args.endpoint}: {done.status}")
    return HOLDS if done.delivered else DOES_NOT_HOLD


def _secret(args: argparse.Namespace) -> int:
    secret, public = new_secret(ed25519=args.ed25519)
    try:
        made = create_private(args.output, secret.encode() + b"\n")
    except OSError as error:
        say(f"tidegate: {args.output}: cannot be made ({error.strerror}): check the path and its rights")
        return NOT_JUDGED
    if not made:
        say(f"tidegate: {args.output}: there is such a file already: name a new one")
        return NOT_JUDGED
    if args.format == "json":
        emit_json({"file": str(args.output), "public": public})
    else:
        emit(public or str(args.output))
    return HOLDS
