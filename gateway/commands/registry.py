"""`tidegate registry ...`: model versions, who agreed to them, and on what evidence.

Contract: works beside a gateway that runs, and without one. Who acts is proved by an API key of the settings, in the
environment variable `TIDEGATE_API_KEY`, and what they may is said by the policy in force; `--as` says whom the key has
to prove. Only where the settings have no `identity` section, so that everybody may do everything, `--as` is believed.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from pathlib import Path

from gateway.commands import registry_at, registry_mlflow
from gateway.commands.output import HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from gateway.commands.registry_desk import guarded, now_of, open_desk, versions_of, who_is
from gateway.commands.registry_show import as_json, lines, summary
from gateway.settings import Settings
from governance.registry.desk import Desk, Person
from governance.registry.machine import Standing

_WHO = """
Who you are is proved by an API key of the settings in the environment variable TIDEGATE_API_KEY; `--as user:NAME`
says whom it has to prove. What you may is said by the policy in force, on `registry:MODEL` in tenant `*`: `edit` to
register and submit, `approve` to approve and reject, `promote` to promote, deprecate and retire. Nobody approves what
they registered or submitted. Every step, and every refusal, is in the audit log.
exit status: 0 done, 1 not allowed or a gate does not hold, 2 a file or the store cannot be read, or no key
"""
_READS = "exit status: 0, or 2 when a file or the store cannot be read or trusted\n"
_EXAMPLES = {
    "list": f"""\
examples:
  tidegate registry list --config tidegate.yaml
  tidegate registry list --config tidegate.yaml --model income --format json
  tidegate registry list --config tidegate.yaml --at 2026-05-01T12:00:00Z

With --at, what was there and what served at that time.

{_READS}""",
    "show": f"""\
examples:
  tidegate registry show --config tidegate.yaml income 2
  tidegate registry show --config tidegate.yaml income 2 --at 2026-05-01T12:00:00Z

State, digests, approvals and every step; which of its files have changed since; with --at, as it was then.
{_READS}""",
    "register": """\
examples:
  tidegate registry register --config tidegate.yaml income 2 \\
    --files model_repository/income/2 --card model_repository/income/card.yaml \\
    --evidence fairness=fairness.json --evidence scan=scan.sarif

Binds the version to the digests of these files. To register it again, with other files or the same, voids approvals.
""",
    "submit": """\
examples:
  tidegate registry submit --config tidegate.yaml income 2

Asks for approvals. Every gate of the version's risk class (`registry.requirements`) has to hold.
""",
    "approve": """\
examples:
  tidegate registry approve --config tidegate.yaml income 2 --reason "validated, report 17"

Agrees to exactly the files, card, evidence, requirements and policy that were submitted: had one of them changed, all
approvals would be void.
""",
    "reject": """\
examples:
  tidegate registry reject --config tidegate.yaml income 2 --reason "no test on new applicants"
""",
    "promote": """\
examples:
  tidegate registry promote --config tidegate.yaml income 2

Makes it live: variants that name no version are served by the version that became live last.
""",
    "deprecate": """\
examples:
  tidegate registry deprecate --config tidegate.yaml income 1 --reason "2 is better" \\
    --sunset 2027-03-31 --link https://models.example/income/1

Its answers carry `Deprecation`, `Sunset` and `Link` headers from then on (RFC 9745, RFC 8594).
""",
    "retire": """\
examples:
  tidegate registry retire --config tidegate.yaml income 1 --reason "replaced by 2"

Takes it out, at once and for good, whatever its state.
""",
}
_HELP = {
    "list": "every version and its state",
    "show": "one version and its history",
    "register": "bind a version to its files",
    "submit": "ask for approvals",
    "approve": "agree to a version",
    "reject": "send a version back",
    "promote": "make a version live",
    "deprecate": "tell callers that it will go",
    "retire": "take a version out",
}
_REASONED = ("reject", "deprecate", "retire")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    registry = subparsers.add_parser("registry", help="model versions: approvals, gates, what is live")
    commands = registry.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in _HELP.items():
        step = name not in ("list", "show")
        parser = commands.add_parser(
            name,
            help=text,
            epilog=_EXAMPLES[name] + (_WHO if step else ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
        add_format(parser)
        if name == "list":
            parser.add_argument("--model", metavar="MODEL", help="of this one alone")
        else:
            parser.add_argument("model", metavar="MODEL", help="by its name on the model servers")
            parser.add_argument("version", metavar="VERSION", help="as the model servers number it")
        if not step:
            parser.add_argument("--at", type=_time, metavar="TIME", help="as it was then (RFC 3339)")
        if step:
            parser.add_argument("--as", dest="who", metavar="user:NAME", help="who you are")
            parser.add_argument("--reason", default="", required=name in _REASONED, metavar="TEXT", help="why")
        if name == "register":
            parser.add_argument("--files", type=Path, required=True, metavar="DIR", help="folder of the version")
            parser.add_argument("--card", type=Path, required=True, metavar="FILE", help="its model card, YAML")
            parser.add_argument(
                "--evidence", type=_named, action="append", default=[], metavar="NAME=FILE",
                help="such as evaluation, fairness, scan, shadow",
            )  # fmt: skip
        if name == "deprecate":
            parser.add_argument("--sunset", type=_time, metavar="TIME", help="when it is planned to go (RFC 3339)")
            parser.add_argument("--link", type=_url, metavar="URL", help="a page about it")
        run = {"list": _list, "show": _show}.get(name, _step)
        parser.set_defaults(run=lambda args, run=run: guarded(run, args), step=name)
        if name == "list":
            parser.set_defaults(version=None)
    registry_at.add_parser(commands, _time)
    registry_mlflow.add_parsers(commands)


def _time(text: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"no time: {text!r}; write 2027-03-31, or 2027-03-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise argparse.ArgumentTypeError(f"not NAME=FILE: {text!r}")
    return name, Path(path)


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")) or not text.isascii() or any(char in text for char in ' <>"\\'):
        raise argparse.ArgumentTypeError(f"no http(s) URL: {text!r}")
    return text


def _step(settings: Settings, args: argparse.Namespace) -> int:
    who = who_is(settings, args.who)
    if who is None:
        return NOT_JUDGED
    with open_desk(settings, args.config) as desk:
        standing = _STEPS[args.step](desk, who, args)
    now = dt.datetime.now(dt.UTC)
    if args.format == "json":
        emit_json({"ok": True, **as_json(args.model, args.version, standing, now)})
    else:
        emit(summary(args.model, args.version, standing, now))
    return HOLDS


def _register(desk: Desk, who: Person, args: argparse.Namespace) -> Standing:
    return desk.register(args.model, args.version, who, args.files, args.card, dict(args.evidence), args.reason)


def _deprecate(desk: Desk, who: Person, args: argparse.Namespace) -> Standing:
    return desk.deprecate(args.model, args.version, who, args.reason, args.sunset, args.link or "")


_STEPS: dict[str, Callable[[Desk, Person, argparse.Namespace], Standing]] = {
    "register": _register,
    "submit": lambda desk, who, args: desk.submit(args.model, args.version, who, args.reason),
    "approve": lambda desk, who, args: desk.approve(args.model, args.version, who, args.reason),
    "reject": lambda desk, who, args: desk.reject(args.model, args.version, who, args.reason),
    "promote": lambda desk, who, args: desk.promote(args.model, args.version, who, args.reason),
    "deprecate": _deprecate,
    "retire": lambda desk, who, args: desk.retire(args.model, args.version, who, args.reason),
}


def _list(settings: Settings, args: argparse.Namespace) -> int:
    now = args.at or dt.datetime.now(dt.UTC)
    wanted = {key: one for key, one in versions_of(settings, args.at).items() if args.model in (None, key[0])}
    if args.format == "json":
        emit_json({"versions": [as_json(*key, one, now, history=False) for key, one in wanted.items()]})
        return HOLDS
    for key, one in wanted.items():
        emit(summary(*key, one, now))
    return HOLDS


def _show(settings: Settings, args: argparse.Namespace) -> int:
    standing = versions_of(settings, args.at).get((args.model, args.version), Standing())
    if standing.state is None:
        when = "" if args.at is None else " at that time"
        say(f"tidegate: {args.model} {args.version}: there was no such version{when}")
        return NOT_JUDGED
    changed = [] if args.at is not None else now_of(settings, args.config).changed(standing)
    now = args.at or dt.datetime.now(dt.UTC)
    if args.format == "json":
        emit_json({**as_json(args.model, args.version, standing, now), "changed": changed})
        return HOLDS
    for line in lines(args.model, args.version, standing, now, changed):
        emit(line)
    return HOLDS
