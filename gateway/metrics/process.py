"""What the operating system knows about a worker, from Linux' `/proc` (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessStat(msgspec.Struct, frozen=True):
    """One process, now."""

    cpu_seconds: float
    resident_bytes: int
    open_fds: int
    started: float
    """Unix time in seconds."""


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none, or no `/proc`."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def read(pid: int) -> ProcessStat | None:
    """The process' figures; None when it is gone or not ours to look at."""
    fields = _stat(pid)
    if fields is None:
        return None
    try:
        descriptors = sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    return ProcessStat(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        resident_bytes=int(fields[21]) * _PAGE,
        open_fds=descriptors,
        started=_boot_time() + int(fields[19]) / _TICKS,
    )


def _stat(pid: int) -> list[bytes] | None:
    """Fields 3.. of `/proc/PID/stat`; the name before them may hold blanks and parentheses."""
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def _boot_time() -> float:
    for line in (_PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    return 0.0
