"""CPU time and memory of a process and all its descendants, from /proc (proc(5))."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """One process, in bytes. `pss` counts shared pages by their share."""

    pid: int
    rss: int
    pss: int
    command: str


def _stat(pid: int) -> list[str]:
    """Fields from the third on: the name before them may hold blanks and parentheses."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, with that of its children that have ended."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in tree(root)) / _TICKS


def memory(root: int) -> list[Memory]:
    """Each process of the tree."""
    found = []
    for pid in tree(root):
        try:
            fields = {}
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
                name, value, *_ = line.split()
                fields[name.rstrip(":")] = int(value) * 1024
            words = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
            # Results are published: which folder it ran in is nobody's business.
            command = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in words)
        except OSError:
            continue
        found.append(Memory(pid, fields["Rss"], fields["Pss"], command))
    return found
