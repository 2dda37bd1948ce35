"""The server's log: a file it appends to itself, kept under a bound from outside.

The server writes straight into the file (O_APPEND), so its output costs the gateway nothing and survives it.
When the file has outgrown LIMIT, it is copied to `NAME.1` and truncated in place, as logrotate's
`copytruncate` does; a few lines written in between can be lost, the file never grows without bound.
"""

from __future__ import annotations

import re
import shutil
from collections import deque
from pathlib import Path
from typing import IO

LIMIT = 16 * 1024 * 1024
"""Bytes; two such files at most."""
_TAIL_BYTES = 64 * 1024
_LINE_CHARACTERS = 400  # Triton prints tables as wide as its longest option


def open_bounded(path: Path) -> IO[bytes]:
    """The log opened for the server to append to, its folder made, after bounding it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bound(path)
    return path.open("ab")


# glog's form: severity, date, time, thread, place.
_ERROR = re.compile(r"E\d{4} ")
_HARMLESS = '"CudaDriverHelper has not been initialized."'
"""Triton says so on every machine without a GPU."""


def bound(path: Path, limit: int = LIMIT) -> None:
    """Move what is there to `NAME.1` when it has more than `limit` bytes."""
    try:
        if path.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(path, path.with_name(path.name + ".1"))
    with path.open("r+b") as file:
        file.truncate(0)


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last `lines` lines that say something, each cut to a readable length; table rules are left out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    kept: deque[str] = deque(maxlen=lines)
    for line in text.splitlines():
        shown = line.strip()
        if shown and not shown.startswith(("+-", "| ")):
            kept.append(shown if len(shown) <= _LINE_CHARACTERS else shown[:_LINE_CHARACTERS] + " ...")
    return tuple(kept)


def errors(path: Path, since: int, lines: int) -> tuple[str, ...]:
    """The first `lines` lines of severity error from byte `since` on: what a failed start began with."""
    try:
        with path.open("rb") as file:
            file.seek(since)
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ()
    found = [line.strip()[:_LINE_CHARACTERS] for line in text.splitlines() if _ERROR.match(line)]
    return tuple(line for line in found if not line.endswith(_HARMLESS))[:lines]
