"""HTML pages that stand alone: no script, no other file, no network; readable aloud and on paper.

Contract: text is escaped wherever it comes from, unless it is `Safe`, which only this package makes. Nothing is said
by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 500
"""Rows of one table; how many were left out is said. The JSON has them all."""
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid } h3 { margin-top: 2rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { text-align: left; padding: .25rem .6rem; vertical-align: top; overflow-wrap: anywhere }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent) }
code, pre { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
pre { white-space: pre-wrap; padding: .6rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent) }
.first { border-left: .4rem solid; padding-left: .8rem }
@media print { body { max-width: none } h3 { break-after: avoid } tr { break-inside: avoid } }
"""


class Safe(str):
    """HTML that is one already."""

    __slots__ = ()


def text(value: str) -> str:
    """A text as HTML."""
    return value if isinstance(value, Safe) else escape(value)


def document(title: str, parts: Iterable[str]) -> bytes:
    """The page; `parts` are HTML."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
    )
    # A record may hold what UTF-8 cannot: a lone surrogate comes out as a question mark.
    return "\n".join([head, *(part for part in parts if part), "</main></body></html>\n"]).encode("utf-8", "replace")


def paragraph(value: str) -> str:
    """A paragraph."""
    return f"<p>{text(value)}</p>"


def code(value: str) -> Safe:
    """Code within a line."""
    return Safe(f"<code>{text(value)}</code>")


def link(to: str, words: str) -> Safe:
    """A link to a file of the bundle, or to a source on the web."""
    return Safe(f'<a href="{escape(to)}">{text(words)}</a>')


def items(values: Sequence[str]) -> str:
    """A list; nothing where there is nothing."""
    return f"<ul>{''.join(f'<li>{text(value)}</li>' for value in values)}</ul>" if values else ""


def labelled(label: str, values: Sequence[str]) -> str:
    """A list below its label; nothing where there is nothing."""
    return f"<p><strong>{text(label)}</strong></p>{items(values)}" if values else ""


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in rows)}</dl>"


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose rows begin with what they are about; a sentence where there is none."""
    if not rows:
        return f"<p><strong>{text(caption)}:</strong> none.</p>"
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    body = "".join(_row(row) for row in rows[:MOST_ROWS])
    left = len(rows) - MOST_ROWS
    more = f"<p>{left} more rows are in the JSON beside this page.</p>" if left > 0 else ""
    return f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _row(cells: Sequence[str]) -> str:
    first, *rest = map(text, cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
