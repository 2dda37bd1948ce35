"""`tidegate keys new`: an API key, shown once, and the line that lets it in."""

from __future__ import annotations

import argparse

from gateway.commands.output import HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from gateway.keys import new_key, settings_line

_EPILOG = """\
examples:
  tidegate keys new --user alice --tenant acme
  tidegate keys new --user alice --tenant acme --format json

The key is shown once and kept nowhere; the line holds its SHA-256 and goes under `identity.api_keys`:

  identity:
    api_keys:
      - {sha256: ..., user: alice, tenant: acme}

Callers then send `X-API-Key: KEY` or `Authorization: Bearer KEY`; gRPC metadata takes the same names.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    keys = subparsers.add_parser("keys", help="make API keys")
    commands = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parser = commands.add_parser(
        "new",
        help="make one key",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--user", required=True, metavar="U", help="whose key it is; `user:U` in the policy")
    parser.add_argument("--tenant", required=True, metavar="T", help="the user's tenant")
    add_format(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes and prints one key; its exit status."""
    for option, name in (("--user", args.user), ("--tenant", args.tenant)):
        why = _no_name(name) or ("`*` is nobody's tenant" if option == "--tenant" and name == "*" else "")
        if why:
            say(f"tidegate: {option} {name!r}: {why}")
            return NOT_JUDGED
    key, digest = new_key()
    line = settings_line(digest, args.user, args.tenant)
    if args.format == "json":
        emit_json({"key": key, "sha256": digest, "user": args.user, "tenant": args.tenant, "line": line})
    else:
        emit(f"key:  {key}")
        emit(f"line: {line}")
        say("The key is shown this once and kept nowhere. The line goes under `identity.api_keys`.")
    return HOLDS


def _no_name(name: str) -> str:
    if not name or name != name.strip() or not name.isprintable():
        return "a name is not empty, and has no blanks around it and no control characters"
    if name.startswith(("user:", "role:")):
        return f"write the bare name {name[5:]!r}; the policy adds `user:`"
    return ""
