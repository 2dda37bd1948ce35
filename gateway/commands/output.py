"""How commands print: results on standard output in one of two formats, everything else on standard error."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from governance.types import Finding

HOLDS, DOES_NOT_HOLD, NOT_JUDGED = 0, 1, 2
"""Exit status of every command."""
_PROGRESS_S = 2.0


def add_format(parser: argparse.ArgumentParser, default: str = "text") -> None:
    """Declares `--format text|json`."""
    parser.add_argument(
        "--format", choices=("text", "json"), default=default, help=f"of the result (default: {default})"
    )


def emit(text: str) -> None:
    """One line of result."""
    sys.stdout.write(_printable(text, sys.stdout.encoding) + "\n")


def emit_json(value: Any) -> None:
    """One line of result as JSON, in ASCII so that it survives every terminal and file name."""
    emit(json.dumps(value))


def _printable(text: str, encoding: str | None) -> str:
    """The text with what the stream cannot hold (a file name that is no UTF-8) as escapes."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(_printable(text, sys.stderr.encoding) + "\n")


def progress() -> Callable[[int, int], None]:
    """Says now and then how far it is, on a log that takes a while."""
    began = said = time.monotonic()

    def told(done: int, size: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _PROGRESS_S:
            said = now
            say(f"{done} of {size} entries, {done / (now - began):.0f} a second")

    return told


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON objects: file, line, column, severity, code, message; fix and witness where there are any."""
    return [
        {key: value for key, value in msgspec.structs.asdict(finding).items() if value is not None}
        for finding in findings
    ]


def not_judged(findings: Sequence[Finding], more: str = "") -> int:
    """Says in one line why nothing could be judged: the first error.

    Args:
        findings: with at least one error.
        more: the command that lists the others.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    rest = f" (and {len(errors) - 1} more{more})" if len(errors) > 1 else ""
    say(f"tidegate: {errors[0]}{rest}")
    return NOT_JUDGED


def count(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning`."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
