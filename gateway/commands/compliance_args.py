"""What the commands of `tidegate compliance` share: arguments, what they read, how they end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from governance.audit.verify import read_keys

if TYPE_CHECKING:
    from governance.compliance.given import Given
    from governance.compliance.report import Source

T = TypeVar("T")


def add_log(parser: argparse.ArgumentParser) -> None:
    """Declares which log, and where the bundle goes."""
    parser.add_argument("--log", type=Path, required=True, metavar="DIR", help="the log (state_dir/audit, or a copy)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its verifier keys (default: log.vkey beside the log)")
    parser.add_argument(
        "--remembered",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a checkpoint seen before; repeatable",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to make")


def add_given(parser: argparse.ArgumentParser) -> None:
    """Declares what may be handed in."""
    parser.add_argument(
        "--card", type=Path, action="append", default=[], metavar="FILE", help="a model card; repeatable"
    )
    parser.add_argument("--policy", type=Path, metavar="CSV", help="the policy")
    parser.add_argument(
        "--model", type=Path, metavar="CONF", help="the policy's Casbin model (default: the built-in one)"
    )
    parser.add_argument("--fairness", type=Path, metavar="JSON", help="what `tidegate fairness report` printed")


def a(read: Callable[[str], T]) -> Callable[[str], T]:
    """An argument that `read` reads; its ValueError is what is wrong."""

    def argument(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


def log_of(args: argparse.Namespace) -> Source:
    """The log that is asked for, as it is now. Raises AuditInputError."""
    from governance.compliance import report  # noqa: PLC0415  with it come policies, which `list` does without

    key = args.key or args.log / "log.vkey"
    return report.source(args.log, tuple(read_keys(key)), own_key=args.key is None, remembered=tuple(args.remembered))


def given_of(args: argparse.Namespace) -> Given:
    """What is handed in. Raises CardError, PolicyError, DataError."""
    from governance.compliance import given  # noqa: PLC0415  with it come policies, which `list` does without

    return given.read(tuple(args.card), args.policy, args.model, args.fairness)
