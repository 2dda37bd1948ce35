"""What was asked of upstreams through the gateway, kept in the run directory for all workers of a machine.

Contract: two small files, each replaced as a whole under one file lock, so that a reader sees one state or the
next and a worker that is killed leaves the one before; its lock ends with it. `asked` has the entries of each upstream
(`desired.Wanted`), `marks` says which of them each replica is known to have carried out, and in which of its lives
(`lives`): a replica that fell lost all of them. They go with the run directory: Triton's own model control does
not outlive its process either, so a gateway that is started anew asks for nothing. A file that cannot be read (the
disk's doing) counts as empty, which is logged, and is put aside by the next write: better what it asked for is lost
than that no replica comes up any more.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gateway import logs
from gateway.upstream.desired import Entries, Wanted, after

T = TypeVar("T")

MOST_MARKED: Final = 1024
"""Replicas that are remembered; what is forgotten is asked for again, which does no harm."""

_log = logs.get("restore")


class Mark(msgspec.Struct):
    """What one replica has carried out, by the entry's key, as the entry's serial."""

    life: int
    done: dict[str, int] = {}
    refused: dict[str, int] = {}
    reasons: dict[str, str] = {}
    """Of `refused`, in the replica's words."""


class Journal:
    """The files.

    Args:
        folder: in the run directory; made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._asked = folder / "asked"
        self._marks = folder / "marks"
        self._entries = msgspec.json.Decoder(dict[str, Entries])
        self._all_marks = msgspec.json.Decoder(dict[str, Mark])

    @property
    def empty(self) -> bool:
        """Whether nothing was ever asked."""
        return not self._asked.exists()

    def entries(self, upstream: str) -> Entries:
        """What was asked of an upstream."""
        return self._read_entries().get(upstream, ())

    def mark(self, replica: int, life: int) -> Mark:
        """What a replica has carried out in this life."""
        known = self._read_marks().get(str(replica))
        return known if known is not None and known.life == life else Mark(life)

    def record(self, upstream: str, asked: Wanted, did: Mapping[int, int]) -> None:
        """Something was carried out; `did`: by replicas (their keys) in these lives."""
        with self._locked():
            everything = self._read_entries(aside=True)
            asked = msgspec.structs.replace(asked, serial=time.time_ns())  # never one that was there before
            everything[upstream] = after(everything.get(upstream, ()), asked)
            _replace(self._asked, msgspec.json.encode(everything))
            entry = next((one for one in everything[upstream] if one.key == asked.key), None)
            if entry is not None:
                self._put(did, entry)

    def carried_out(self, replica: int, life: int, entry: Wanted, refused: str | None = None) -> None:
        """A replica did what an entry asks for, or `refused` it and will not be asked again in this life."""
        with self._locked():
            self._put({replica: life}, entry, refused)

    def _put(self, did: Mapping[int, int], entry: Wanted, refused: str | None = None) -> None:
        marks = self._read_marks(aside=True)
        key = key_of(entry)
        for replica, life in did.items():
            mark = marks.pop(str(replica), None)
            if mark is None or mark.life != life:
                mark = Mark(life)
            for places in (mark.done, mark.refused, mark.reasons):
                places.pop(key, None)
            if refused is None:
                mark.done[key] = entry.serial
            else:
                mark.refused[key] = entry.serial
                mark.reasons[key] = refused
            marks[str(replica)] = mark  # last: those that were told of longest ago go first
        while len(marks) > MOST_MARKED:
            del marks[next(iter(marks))]
        _replace(self._marks, msgspec.json.encode(marks))

    def _read_entries(self, *, aside: bool = False) -> dict[str, Entries]:
        return _read(self._asked, self._entries, aside)

    def _read_marks(self, *, aside: bool = False) -> dict[str, Mark]:
        return _read(self._marks, self._all_marks, aside)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def key_of(entry: Wanted) -> str:
    """Under which a mark knows an entry."""
    return f"{entry.kind} {entry.name}".rstrip()


def pending(entries: Entries, mark: Mark) -> list[Wanted]:
    """The entries that a replica has neither carried out nor refused in this life."""
    return [
        entry
        for entry in entries
        if entry.serial not in (mark.done.get(key_of(entry)), mark.refused.get(key_of(entry)))
    ]


def _read(path: Path, decoder: msgspec.json.Decoder[dict[str, T]], aside: bool) -> dict[str, T]:
    """The file's document; `aside`: keep what cannot be read beside the one that is about to be written."""
    try:
        return decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = {"file": path.name, "detail": str(error)}
        _log.error("the journal cannot be read: what was asked of replicas is lost", extra={"fields": fields})
        if aside:
            path.replace(path.with_name(f"{path.name}.damaged"))
        return {}


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.touch(mode=0o600)  # a configuration may hold what is nobody else's business
        aside.write_bytes(content)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
