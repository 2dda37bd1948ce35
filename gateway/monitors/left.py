"""What monitors that were taken away had counted and the store did not have yet.

Contract: a folder of a monitor that is no longer in force moves here whole, to `STATE_DIR/monitors-left`, in one step:
a monitor that comes back begins anew, and so does not meet it. It stays until the store has all of its journal, or is
too old. Which route and columns its counts are of stands in the folder (`series`), so that a restart loses nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.monitors import tiles
from kernels import drift

_FILE = "series"
_KEEP_S = tiles.KEEP[-1][0]
"""As long as a journal's records."""


class _Series(msgspec.Struct, frozen=True):
    route: str
    key: str
    columns: list[tuple[int, int]]
    """Of each what it is (0 numbers, 1 names, 2 times) and its cells: all that merging needs to know."""


def describe(folder: Path, route: str, key: str, columns: Sequence[drift.Column]) -> None:
    """Say what a monitor's folder holds, where nobody has. Raises OSError."""
    if (folder / _FILE).exists():
        return
    kinds = [(_KINDS.index(type(column)), column.cells) for column in columns]
    aside = folder / f".{_FILE}.{time.time_ns()}"  # workers of one machine begin at once, and write the same
    aside.write_bytes(msgspec.json.encode(_Series(route, key, kinds)))
    aside.replace(folder / _FILE)


_KINDS = [drift.Numbers, drift.Names, drift.Times]


def described(folder: Path) -> tuple[str, str, list[drift.Column]] | None:
    """Route, key, and columns that merge like those of its counts; None: it does not say."""
    try:
        found = msgspec.json.decode((folder / _FILE).read_bytes(), type=_Series)
    except (OSError, msgspec.MsgspecError):
        return None
    columns: list[drift.Column] = []
    for kind, cells in found.columns:
        if kind == 0:
            columns.append(drift.Numbers((), 0.0, 1.0))
        elif kind == 1:
            columns.append(drift.Names(("",) * (cells - 2), (), (None,) * (cells - 2), False))
        else:
            columns.append(drift.Times())
    return found.route, found.key, columns


class Left:
    """The folders of one machine.

    Args:
        state_dir: the gateway's.
    """

    def __init__(self, state_dir: Path) -> None:
        self.root = state_dir / "monitors-left"

    def take(self, folder: Path) -> None:
        """Take a monitor's folder; without a journal it is gone. Of several workers that do, one does."""
        if (folder / "tiles").exists() and (folder / _FILE).exists():
            with suppress(OSError):
                self.root.mkdir(mode=0o700, exist_ok=True)
                folder.rename(self.root / f"{folder.name}-{time.time_ns()}")
        # Another worker that has not yet heard of the change goes on in files without a name.
        shutil.rmtree(folder, ignore_errors=True)

    def folders(self) -> list[Path]:
        """Those that are not too old, oldest first; the others are gone now."""
        found = []
        with suppress(FileNotFoundError):
            for folder in sorted(self.root.iterdir(), key=lambda path: path.name.rpartition("-")[2]):
                when = folder.name.rpartition("-")[2]
                if not when.isdecimal() or time.time() - int(when) / 1e9 > _KEEP_S:
                    self.done(folder)
                else:
                    found.append(folder)
        return found

    @staticmethod
    def done(folder: Path) -> None:
        """The store has all of it."""
        shutil.rmtree(folder, ignore_errors=True)
