"""A drift report as one page: a small chart for each column, and its figures as a table for whoever reads no charts.

Contract: that of `governance.compliance.markup`, whose pages stand alone and escape what they are given. The reference
is drawn as outlines and what is now as filled bars, so that nothing is said by colour. Columns come as the report has
them; the table at the top ranks them by PSI.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from governance.compliance.markup import document, facts, paragraph, table
from governance.monitor.multivariate import Together
from governance.monitor.quality import Constraint, Quality
from governance.monitor.report import ColumnReport, Report

MOST_BARS = 14
"""Of one chart: of categories those with the largest shares, the rest as one."""
_WIDTH, _HEIGHT = 280, 96
_STEP = 0.9
"""Of a bar's place, its width."""
_NOW = 'fill="currentColor" fill-opacity="0.35"'
_BEFORE = 'fill="none" stroke="currentColor" stroke-width="1.5"'
_GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1.5rem;align-items:start"

Share = tuple[str, float, float]
"""A cell's name, and its share of the reference and of what is now."""


def write(report: Report, reference: str, current: str, quality: Quality | None = None) -> bytes:
    """The page.

    Args:
        report: of two tables.
        reference: the name of what is normal.
        current: the name of what was compared with it.
        quality: what was found of constraints; None: there were none.
    """
    ranked = sorted(report.columns, key=lambda column: -(column.statistics["psi"] or 0.0))
    title = f"Drift of {current}"
    return document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            facts(
                [
                    ("Reference", f"{reference}, {report.rows['reference']} rows"),
                    ("Now", f"{current}, {report.rows['current']} rows"),
                ]
            ),
            table(
                "Columns, those that moved most first",
                ("Column", "Kind", "Status", "PSI", "Jensen-Shannon", "Missing in the reference", "Missing now", "p"),
                [_row(column, report) for column in ranked],
            ),
            paragraph(
                "PSI and the Jensen-Shannon distance (base 2, 0 to 1) are of the cells below. A p-value is of one "
                "column alone: of a hundred columns five are below 0.05 when nothing has changed. A column with too "
                "few values is insufficient, which is not the same as unchanged."
            ),
            table(
                "All columns together",
                ("Statistic", "Status", "Columns", "Rows of the reference", "Rows now", "Value", "Effect", "p"),
                [_together(found) for found in report.together],
            ),
            paragraph(
                "What no column shows alone, such as a changed correlation. The reconstruction error is the distance "
                "of rows from the principal components of the reference; the classifier's value is the area under its "
                "ROC curve, 0.5 where it cannot tell the tables apart; MMD is the squared distance of the tables' "
                "kernel means."
            ),
            *_constraints(quality),
            "<h2>Shares of each column</h2>",
            paragraph("Outlines are the reference, filled bars are now. Bins of numbers are fixed by the reference."),
            f'<div style="{_GRID}">',
            *(_figure(column) for column in report.columns if column.bins is not None),
            "</div>",
        ],
    )


def _constraints(quality: Quality | None) -> list[str]:
    if quality is None:
        return []
    rows = [
        (
            one.column,
            one.constraint,
            said_of(one),
            one.status,
            "-" if one.broken is None else str(one.broken),
            "-" if one.share is None else f"{one.share:.1%}",
        )
        for one in quality.constraints
    ]
    return [
        "<h2>Constraints</h2>",
        table(
            "What columns were declared to be", ("Column", "Constraint", "Declared", "Status", "Rows", "Share"), rows
        ),
        paragraph("Rows and share are of what broke it; of `unique` the share is that of different values."),
    ]


def said_of(one: Constraint) -> str:
    """What was declared, in one line."""
    return ", ".join(
        f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in one.declared.items()
    )


def _row(column: ColumnReport, report: Report) -> list[str]:
    p_values = [f"{name} {value:.2g}" for name, value in column.p_values.items() if value is not None]
    sides = ((column.missing_reference, report.rows["reference"]), (column.missing_current, report.rows["current"]))
    return [
        column.name,
        column.kind,
        column.status,
        *("-" if (value := column.statistics[name]) is None else f"{value:.4f}" for name in ("psi", "js")),
        *(f"{count / rows:.1%}" if rows else "-" for count, rows in sides),
        ", ".join(p_values) or "-",
    ]


def _together(found: Together) -> list[str]:
    return [
        found.name,
        found.status,
        *(str(count) for count in (found.columns, found.n_reference, found.n_current)),
        *("-" if value is None else f"{value:.4f}" for value in (found.statistic, found.effect)),
        "-" if found.p_value is None else f"{found.p_value:.2g}",
    ]


def shares(column: ColumnReport) -> list[Share]:
    """Of every cell, without categories that neither side has."""
    assert column.bins is not None
    if "edges" in column.bins:
        edges = ["-inf", *(f"{edge:g}" for edge in column.bins["edges"]), "inf"]
        names = [f"({low}, {high}]" for low, high in zip(edges, edges[1:], strict=False)]
    else:
        names = column.bins["categories"]
    before, now = column.bins["reference"], column.bins["current"]
    total = (max(1, sum(before)), max(1, sum(now)))
    found = [(name, a / total[0], b / total[1]) for name, a, b in zip(names, before, now, strict=True)]
    return found if "edges" in column.bins else [share for share in found if share[1] or share[2]]


def _figure(column: ColumnReport) -> str:
    every = shares(column)
    drawn = every
    if len(every) > MOST_BARS:
        ranked = sorted(every, key=lambda share: -max(share[1:]))
        kept, rest = ranked[: MOST_BARS - 1], ranked[MOST_BARS - 1 :]
        drawn = [*kept, (f"{len(rest)} more", sum(share[1] for share in rest), sum(share[2] for share in rest))]
    rows = [(name, f"{a:.1%}", f"{b:.1%}") for name, a, b in every]
    psi = column.statistics["psi"]
    says = column.status if psi is None else f"PSI {psi:.3f}"
    return (
        f'<figure style="margin:0"><figcaption><strong>{escape(column.name)}</strong>, {says}</figcaption>'
        f"{_svg(column.name, drawn)}"
        f"<details><summary>Figures of {escape(column.name)}</summary>"
        f"{table(f'Shares of {column.name}', ('Cell', 'Reference', 'Now'), rows)}</details></figure>"
    )


def _svg(name: str, drawn: Sequence[Share]) -> str:
    most = max((max(share[1:]) for share in drawn), default=0.0) or 1.0
    place = _WIDTH / max(1, len(drawn))
    parts = []
    for at, (cell, before, now) in enumerate(drawn):
        x, width = at * place + place * (1 - _STEP) / 2, place * _STEP
        title = f"<title>{escape(cell)}: {before:.1%} in the reference, {now:.1%} now</title>"
        parts.append(f"<g>{title}{_bar(x, width, now / most, _NOW)}{_bar(x, width, before / most, _BEFORE)}</g>")
    moved = max(drawn, key=lambda share: abs(share[2] - share[1]), default=None)
    words = f"Shares of {name}" + (
        "" if moved is None else f"; most moved: {moved[0]}, from {moved[1]:.1%} to {moved[2]:.1%}"
    )
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {_WIDTH} {_HEIGHT + 2}" width="100%">'
        f'{"".join(parts)}<path d="M0 {_HEIGHT}H{_WIDTH}" stroke="currentColor"/></svg>'
    )


def _bar(x: float, width: float, share: float, look: str) -> str:
    height = share * (_HEIGHT - 4)
    return f'<rect x="{x:.1f}" y="{_HEIGHT - height:.1f}" width="{width:.1f}" height="{height:.1f}" {look}/>'
