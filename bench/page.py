"""The results as Markdown and pictures: `README.md` and `SECTION[-N].svg` in a run's folder, and the tables of
`docs/performance.md`.

`python -m bench.page` writes the newest run's tables into the documentation; a test holds that it shows them.
"""

import sys
from pathlib import Path

from bench.runs import CHECKOUT, RESULTS, Folder, newest
from bench.section import Cell, Result, Section, Table
from bench.sections import sections
from bench.svg import bars

DOCS = CHECKOUT / "docs" / "performance.md"
BUSY = ("**Other programs kept the machine busy: trust the instructions here, and no time.**", "")
BEGIN, END = "<!-- results: begin (python -m bench.page) -->", "<!-- results: end -->"


def write(folder: Folder) -> Path:
    """The page of a run and its pictures."""
    for section, result in done(folder):
        for name, chart in zip(pictures(section, result), result.charts, strict=True):
            subtitle = f"{folder.facts.machine.cpu}, {folder.facts.date}, revision {folder.facts.plan.revision}"
            rows = [(bar.name, bar.values) for bar in chart.bars]
            (folder.path / name).write_text(bars(f"{section.title}: {chart.title}", subtitle, [("", rows)]))
    page = folder.path / "README.md"
    page.write_text(f"# Benchmark of {folder.facts.date}\n\n{body(folder)}")
    return page


def done(folder: Folder) -> list[tuple[Section, Result]]:
    """The sections that a run has finished, in the suite's order."""
    found = [(section, folder.stored(section.name)) for section in sections()]
    return [(section, stored.result) for section, stored in found if stored is not None]


def pictures(section: Section, result: Result) -> list[str]:
    """Names of a section's pictures, as many as it has charts."""
    return [f"{section.name}{f'-{n}' if n else ''}.svg" for n in range(len(result.charts))]


def body(folder: Folder, prefix: str = "", level: str = "##") -> str:
    """Everything below the title; `prefix` leads from the page to the pictures."""
    facts, machine = folder.facts, folder.facts.machine
    found = done(folder)
    versions: dict[str, str] = {}
    for _, result in found:
        versions |= result.versions
    versions |= facts.versions
    kind = ", a quick look and no figures" if facts.plan.quick else ""
    lines = [
        f"`{facts.command}` at {facts.time}{kind}, revision {facts.plan.revision}, on {machine.cpu}, {machine.cores} "
        f"cores, {machine.memory_gib} GiB, {machine.system}; load average before: {machine.load_average:g}.",
        "",
        *(BUSY if machine.load_average > machine.cores / 2 else ()),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        *_goals(found, level),
    ]
    for section, result in found:
        lines += [f"{level} {section.title}", ""]
        lines += [line for note in result.notes for line in (note, "")]
        shown = zip(pictures(section, result), result.charts, strict=True)
        lines += [line for name, chart in shown for line in (f"![{chart.title}]({prefix}{name})", "")]
        for table in result.tables:
            lines += _table(table)
        lines += [f"- left out: {reason}" for reason in result.skipped]
        lines += [""] if result.skipped else []
    return "\n".join(lines)


def _goals(found: list[tuple[Section, Result]], level: str) -> list[str]:
    rows: list[list[Cell]] = [
        [
            section.title,
            goal.what,
            goal.got,
            f"at {'least' if goal.at_least else 'most'} {goal.limit:g}",
            "met" if goal.met else "**not met**",
        ]
        for section, result in found
        for goal in result.goals
    ]
    if not rows:
        return []
    return [f"{level} Goals", "", *_rows(["section", "what", "found", "goal", ""], rows), ""]


def _table(table: Table) -> list[str]:
    lines = [f"**{table.title}**", ""] if table.title else []
    lines += [*_rows(table.columns, table.rows), ""]
    return [*lines, table.note, ""] if table.note else lines


def _rows(columns: list[str], rows: list[list[Cell]]) -> list[str]:
    numeric = [all(isinstance(row[n], int | float | None) for row in rows) for n in range(len(columns))]
    return [
        f"| {' | '.join(columns)} |",
        "|" + "|".join("--:" if right else "---" for right in numeric) + "|",
        *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
    ]


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:g}"
    return value.replace("|", "\\|").replace("\n", " ")


def documented(text: str, output: Path = RESULTS) -> str:
    """`text` of the documentation with the newest run's tables between its marks."""
    folder = newest(output)
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if folder is None:
        found = "No results yet: `make bench`.\n"
    else:
        prefix = f"../bench/results/{folder.path.name}/"
        found = body(folder, prefix, "###")
    return f"{before}{BEGIN}\n\n{found}\n{END}{after}"


def document() -> None:
    """Write the newest run's tables into the documentation."""
    DOCS.write_text(documented(DOCS.read_text()))


def main() -> int:
    """As the module says."""
    document()
    print(f"wrote {DOCS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
