"""What the commands of the registry share: who acts, the desk, every version, and how trouble is said."""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.announce import subscribers
from gateway.commands.output import DOES_NOT_HOLD, NOT_JUDGED, emit_json, not_judged, say
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


def guarded(run: Callable[[Settings, argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The exit status of a command, and one line for whatever keeps it from its end."""
    settings, findings = load(args.config)
    if settings is None:
        return not_judged(findings, f"; `tidegate check {args.config}` lists them")
    try:
        return run(settings, args)
    except RegistryRefused as error:
        if args.format == "json":
            emit_json({"ok": False, "why": str(error)})
        named = f"{args.model} {args.version}: " if args.model and args.version else ""
        say(f"tidegate: {named}{error}")
        return DOES_NOT_HOLD
    except (RegistryInputError, RegistryBroken, StoreError, AuditError) as error:
        say(f"tidegate: {error}")
    except PolicyError as error:
        return not_judged(error.findings)
    except OSError as error:
        say(f"tidegate: {error.filename}: {error.strerror}: check the path and its rights")
    return NOT_JUDGED


def now_of(settings: Settings, config: Path) -> Now:
    """What is in force, and in the files. Raises PolicyError."""

    def requirements() -> Read:
        named = None if settings.registry is None else settings.registry.requirements
        if named is None:
            raise RegistryInputError(f"{config}: names no requirements: write `registry: {{requirements: FILE}}`")
        return read(named)

    return Now(policy_of(settings), requirements, config.absolute().parent)


@contextmanager
def open_desk(settings: Settings, config: Path) -> Iterator[Desk]:
    """What makes steps. Raises StoreError, PolicyError."""
    # Here, since they take a second to import, which no other command should wait for.
    from governance.store.database import open_database  # noqa: PLC0415  SQLAlchemy
    from governance.store.steps import Steps  # noqa: PLC0415  SQLAlchemy

    audit = settings.audit
    trail = (
        None
        if audit.mode == "off"
        else AuditTrail(
            settings.state_dir, mode=audit.mode, erasure=audit.erasure, pseudonyms=audit.pseudonyms, origin=audit.origin
        )
    )
    steps = Steps(open_database(settings.store.url or "", settings.state_dir), subscribers(settings))
    try:
        yield Desk(steps, now_of(settings, config), trail)
    finally:
        steps.close()


def versions_of(settings: Settings, at: dt.datetime | None) -> dict[tuple[str, str], Standing]:
    """Every version, as it was `at` a time, read without making or migrating anything.

    Raises:
        StoreError, RegistryBroken.
    """
    with closing(reader(settings.store.url or "", settings.state_dir)) as plain:
        steps = [decode(entry) for entry in plain.entries()]
    return fold([step for step in steps if at is None or step.time <= at])


def who_is(settings: Settings, named: str | None) -> Person | None:
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
