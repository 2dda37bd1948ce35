"""`tidegate registry ...`: model versions, who agreed to them, and on what evidence.

Contract: works beside a gateway that runs, and without one. Who acts is proved by an API key of the settings, in the
environment variable `TIDEGATE_API_KEY`, and what they may is said by the policy in force; `--as` says whom the key has
to prove. Only where the settings have no `identity` section, so that everybody may do everything, `--as` is believed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.announce import subscribers
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, not_judged, say
from gateway.commands.registry_show import as_json, lines, summary
from gateway.errors import Unauthenticated
from gateway.identity import Identifier
from gateway.policy_in_force import policy_of
from gateway.settings import Settings
from gateway.settings.file import load
from governance.errors import AuditError, PolicyError, RegistryBroken, RegistryInputError, RegistryRefused, StoreError
from governance.registry.bound import Now
from governance.registry.desk import Desk, Person
from governance.registry.events import decode
from governance.registry.machine import Standing, fold
from governance.registry.requirements import Read, read
from governance.registry.trail import AuditTrail
from governance.store.reading import reader

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
        parser.set_defaults(run=lambda args, run=run: _guarded(run, args), step=name)


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


def _guarded(run: Callable[[Settings, argparse.Namespace], int], args: argparse.Namespace) -> int:
    settings, findings = load(args.config)
    if settings is None:
        return not_judged(findings, f"; `tidegate check {args.config}` lists them")
    try:
        return run(settings, args)
    except RegistryRefused as error:
        if args.format == "json":
            emit_json({"ok": False, "why": str(error)})
        say(f"tidegate: {args.model} {args.version}: {error}")
        return DOES_NOT_HOLD
    except (RegistryInputError, RegistryBroken, StoreError, AuditError) as error:
        say(f"tidegate: {error}")
    except PolicyError as error:
        return not_judged(error.findings)
    except OSError as error:
        say(f"tidegate: {error.filename}: {error.strerror}: check the path and its rights")
    return NOT_JUDGED


def _now(settings: Settings, config: Path) -> Now:
    def requirements() -> Read:
        named = None if settings.registry is None else settings.registry.requirements
        if named is None:
            raise RegistryInputError(f"{config}: names no requirements: write `registry: {{requirements: FILE}}`")
        return read(named)

    return Now(policy_of(settings), requirements, config.absolute().parent)


@contextmanager
def _desk(settings: Settings, config: Path) -> Iterator[Desk]:
    # Here, since they take a second to import, which no other command should wait for.
    from governance.store.database import open_database  # noqa: PLC0415
    from governance.store.steps import Steps  # noqa: PLC0415

    audit = settings.audit
    trail = (
        None
        if audit.mode == "off"
        else AuditTrail(
            settings.state_dir,
            mode=audit.mode,
            erasure=audit.erasure,
            pseudonyms=audit.pseudonyms,
            origin=audit.origin,
        )
    )
    steps = Steps(open_database(settings.store.url or "", settings.state_dir), subscribers(settings))
    try:
        yield Desk(steps, _now(settings, config), trail)
    finally:
        steps.close()


def _versions(settings: Settings, at: dt.datetime | None) -> dict[tuple[str, str], Standing]:
    """Every version, as it was `at` a time, read without making or migrating anything.

    Raises:
        StoreError, RegistryBroken.
    """
    with closing(reader(settings.store.url or "", settings.state_dir)) as plain:
        steps = [decode(entry) for entry in plain.entries()]
    return fold([step for step in steps if at is None or step.time <= at])


def _who(settings: Settings, named: str | None) -> Person | None:
    """Who acts; None: nobody that is proved, and why is said."""
    if named is not None and not (named.startswith("user:") and len(named) > len("user:")):
        say(f"tidegate: --as {named!r}: write it as the policy does: user:NAME")
        return None
    if settings.identity is None:
        if named is None:
            say("tidegate: say who you are: --as user:NAME")
            return None
        return Person(named, "local")
    key = os.environ.get("TIDEGATE_API_KEY", "")
    try:
        subject = Identifier(settings.identity).identify({"x-api-key": key} if key else {})
    except Unauthenticated:
        subject = None
    if subject is None or subject.method != "api_key":
        say("tidegate: TIDEGATE_API_KEY: holds no API key of the settings: `tidegate keys new` makes one")
        return None
    if named not in (None, subject.id):
        say(f"tidegate: TIDEGATE_API_KEY: is the key of {subject.id} and not of {named}")
        return None
    return Person(subject.id, "api_key")


def _step(settings: Settings, args: argparse.Namespace) -> int:
    who = _who(settings, args.who)
    if who is None:
        return NOT_JUDGED
    with _desk(settings, args.config) as desk:
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
    wanted = {key: one for key, one in _versions(settings, args.at).items() if args.model in (None, key[0])}
    if args.format == "json":
        emit_json({"versions": [as_json(*key, one, now, history=False) for key, one in wanted.items()]})
        return HOLDS
    for key, one in wanted.items():
        emit(summary(*key, one, now))
    return HOLDS


def _show(settings: Settings, args: argparse.Namespace) -> int:
    standing = _versions(settings, args.at).get((args.model, args.version), Standing())
    if standing.state is None:
        when = "" if args.at is None else " at that time"
        say(f"tidegate: {args.model} {args.version}: there was no such version{when}")
        return NOT_JUDGED
    changed = [] if args.at is not None else _now(settings, args.config).changed(standing)
    now = args.at or dt.datetime.now(dt.UTC)
    if args.format == "json":
        emit_json({**as_json(args.model, args.version, standing, now), "changed": changed})
        return HOLDS
    for line in lines(args.model, args.version, standing, now, changed):
        emit(line)
    return HOLDS
