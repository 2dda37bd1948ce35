"""Commands whose errors are told in one line each and end with status 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from gateway.commands.output import NOT_JUDGED, not_judged, say
from governance.errors import AuditError, CardError, DataError, PackError, PolicyError


def declare(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    epilog: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """One command, whose errors end with status 2."""
    parser = commands.add_parser(name, help=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=lambda args: _guarded(run, args))
    return parser


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return run(args)
    except (PackError, CardError, PolicyError) as error:
        return not_judged(error.findings)
    except (AuditError, DataError) as error:
        say(f"tidegate: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"tidegate: {error.filename}: {error.strerror}: check the path, its rights and the room on the disk")
    return NOT_JUDGED
