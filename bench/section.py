"""What a section of the suite is: one question, asked of running programs, answered with tables and pictures.

A section is a function `run(bench: Bench) -> Result`, named in `bench.sections` as `MODULE:FUNCTION`. Rules:

- It starts what it needs and ends it, also when it fails. It writes nothing outside `bench.folder`.
- It measures ratios within itself: whatever is compared runs by turns in the same call.
- It tells `bench.say` what it is at. It raises `Skipped` when the machine lacks what it needs, RuntimeError or
  OSError when a program failed; the suite then goes on with the next section and tries it again on the next run.
- A part that is left out (a peer that cannot be had) is named in `Result.skipped`.
- What it returns is all that is kept: numbers rounded for the reader, and `data` for programs.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import msgspec

Cell: TypeAlias = str | int | float | None


class Skipped(Exception):
    """Why a section cannot run here; one line."""


class Table(msgspec.Struct):
    """Rows under a title. Cells that are None show as `-`."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


class Bar(msgspec.Struct):
    """A name and the values of its runs: the bar is their mean, each run a tick."""

    name: str
    values: list[float]


class Chart(msgspec.Struct):
    """Bars on one scale."""

    title: str
    bars: list[Bar]


class Goal(msgspec.Struct):
    """What was promised, and what was found."""

    what: str
    got: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.got >= self.limit if self.at_least else self.got <= self.limit


class Result(msgspec.Struct):
    """What a section found."""

    tables: list[Table] = []
    charts: list[Chart] = []
    goals: list[Goal] = []
    notes: list[str] = []
    """Sentences for the page: the load, what a figure means, a bias."""
    skipped: list[str] = []
    versions: dict[str, str] = {}
    """Of the programs that took part."""
    data: Any = None
    """Everything measured, as JSON."""


class Bench(msgspec.Struct):
    """What the suite tells a section."""

    folder: Path
    """Empty, and removed afterwards."""
    quick: bool = False
    """A look, not a figure: the whole suite has three minutes."""
    requests: int = 20_000
    """Of each run of a proxy."""
    say: Callable[[str], None] = print
    peers: str | None = None
    """Comma-separated parts of the names of the proxies that take part; None: all."""
    baseline: Path | None = None
    """Checkout of another revision that takes part."""


class Section(msgspec.Struct, frozen=True):
    """One line of the suite."""

    name: str
    """Of its files and on the command line."""
    title: str
    run: str
    """`MODULE:FUNCTION`."""
    seconds: tuple[int, int]
    """What it takes, whole and quick: the estimate of the time left starts from these."""
    asks: str
    """What it answers, for `--help`."""


def spread(values: list[float], digits: int = 2) -> str:
    """The runs as text, smallest to largest."""
    low, high = min(values), max(values)
    return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f}-{high:.{digits}f}"


def middle(values: list[float], digits: int = 2) -> float:
    """The median, rounded."""
    return round(median(values), digits)
