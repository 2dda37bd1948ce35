"""One run of the suite on disk: `RESULTS/DATE-MACHINE[-quick|-part][-N]/`.

`run.json` says what was asked and of what; each section that is done has `SECTION.json`. A run that was killed is
continued by the next one that asks the same of the same code on the same machine; what it had finished stays.
Figures of two revisions never meet in one folder: uncommitted changes count by their digest.
"""

import datetime as dt
import hashlib
import re
import subprocess
from pathlib import Path
from typing import Self

import msgspec

from bench.machine import Machine, machine, versions
from bench.section import Result

RESULTS = Path(__file__).with_name("results")
CHECKOUT = Path(__file__).resolve().parent.parent
_MEASURED = ("gateway", "governance", "kernels", "bench", "setup.py")


class Plan(msgspec.Struct, frozen=True):
    """What was asked; two runs with equal plans measure the same."""

    sections: tuple[str, ...]
    quick: bool
    requests: int
    peers: str | None
    baseline: str | None
    """Its revision."""
    revision: str
    whole: bool
    """Every section of every proxy."""


class Stored(msgspec.Struct):
    """A section that is done."""

    seconds: float
    load_average: float
    """Of the machine, before it began."""
    result: Result


class Facts(msgspec.Struct):
    """`run.json`."""

    plan: Plan
    date: str
    time: str
    command: str
    machine: Machine
    versions: dict[str, str]
    finished: bool = False


class Folder:
    """A run's folder."""

    def __init__(self, path: Path, facts: Facts) -> None:
        self.path = path
        self.facts = facts

    @classmethod
    def read(cls, path: Path) -> Self:
        """One that is there. Raises OSError or msgspec.DecodeError for what is none."""
        return cls(path, msgspec.json.decode((path / "run.json").read_bytes(), type=Facts))

    @classmethod
    def of(cls, plan: Plan, output: Path, command: str, *, fresh: bool = False) -> Self:
        """The unfinished run of this plan on this machine, or a new one."""
        here = machine()
        if not fresh:
            for found in runs(output):
                same = found.facts.plan == plan and found.facts.machine.name == here.name
                if same and not found.facts.finished:
                    return cls(found.path, found.facts)
        now = dt.datetime.now(dt.UTC)
        stem = f"{now:%Y-%m-%d}-{here.name}" + ("" if plan.whole else "-part") + ("-quick" if plan.quick else "")
        numbers = ["", *(f"-{n}" for n in range(2, 1000))]
        path = next(output / (stem + number) for number in numbers if not (output / (stem + number)).exists())
        path.mkdir(parents=True)
        facts = Facts(plan, f"{now:%Y-%m-%d}", now.isoformat(timespec="seconds"), command, here, versions())
        folder = cls(path, facts)
        folder._write("run.json", facts)
        return folder

    def stored(self, section: str) -> Stored | None:
        """What a section found; None: it is not done."""
        try:
            return msgspec.json.decode((self.path / f"{section}.json").read_bytes(), type=Stored)
        except FileNotFoundError:
            return None

    def store(self, section: str, found: Stored) -> None:
        """Keep it."""
        self._write(f"{section}.json", found)

    def finish(self) -> None:
        """Every section is done, or cannot be had here."""
        self.facts.finished = True
        self._write("run.json", self.facts)

    def _write(self, name: str, value: msgspec.Struct) -> None:
        # Whole or not at all: a run that is killed here has to be continued.
        part = self.path / f".{name}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
        part.replace(self.path / name)


def runs(output: Path = RESULTS) -> list[Folder]:
    """Every run there, the newest first."""
    found = []
    for path in output.glob("*/run.json"):
        try:
            found.append(Folder.read(path.parent))
        except (OSError, msgspec.DecodeError):
            continue  # of an earlier form
    return sorted(found, key=lambda folder: folder.facts.time, reverse=True)


def newest(output: Path = RESULTS) -> Folder | None:
    """What the documentation shows: the newest finished whole run, else the newest finished one."""
    finished = [folder for folder in runs(output) if folder.facts.finished]
    real = [folder for folder in finished if folder.facts.plan.whole and not folder.facts.plan.quick]
    return next(iter(real or finished), None)


def revision(checkout: Path = CHECKOUT) -> str:
    """The commit, and a digest of what was changed since; `unknown` outside of git."""
    commit = _git(checkout, "describe", "--always", "--abbrev=10", "--exclude=*")
    if not commit:
        return "unknown"
    changes = _git(checkout, "diff", "HEAD", "--", *_MEASURED)
    return commit + (f"+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    return re.sub(r"\s+\Z", "", done.stdout) if not done.returncode else ""
