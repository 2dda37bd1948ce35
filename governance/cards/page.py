"""A card as one HTML page that needs nothing else: no script, no style sheet, no picture from elsewhere.

Charts are SVG with their values as text, so that a screen reader and a printer have them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from governance.cards.card import Card, Metric
from governance.cards.complete import missing
from governance.cards.text import bounds

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1,h2{line-height:1.2}h2{margin-top:2rem;border-bottom:1px solid #767676}
table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{border:1px solid #767676;padding:.3rem .6rem;text-align:left}
.missing{background:#fff3cd;border-left:.3rem solid #7a5b00;padding:.5rem 1rem}
"""
_WIDTH, _BAR, _GAP, _LEFT = 640, 18, 14, 220


def write(card: Card) -> str:
    """The page."""
    details, parameters, considerations = card.model_details, card.model_parameters, card.considerations
    name = escape(details.name or "Model")
    body = [f"<h1>{name}</h1>", f"<p>{escape(details.overview)}</p>" if details.overview else "", _missing(card)]
    body += _list(
        "Who and what",
        [
            f"version {details.version}" if details.version else "",
            f"released {details.released}" if details.released else "",
            *(f"owner {one.name} {one.contact}" for one in details.owners),
            *(f"licence {one.identifier}" for one in details.licenses),
            f"risk {card.risk.rating}: {card.risk.explanation}" if card.risk.rating else "",
        ],
    )
    body += _list("For whom", considerations.users)
    body += _list("For what", considerations.use_cases)
    body += _list("Limits", [*considerations.limitations, *considerations.tradeoffs])
    body += _list(
        "What it may do to people",
        [
            *(f"{one.name}: {one.mitigation_strategy}" for one in considerations.ethical_considerations),
            *(
                f"{one.group_at_risk}: {one.benefits} {one.harms} {one.mitigation_strategy}"
                for one in considerations.fairness_assessments
            ),
        ],
    )
    body += _measured(card.quantitative_analysis.performance_metrics)
    body += _list(
        "How it was made",
        [
            parameters.approach or "",
            parameters.architecture_family,
            parameters.model_architecture,
            parameters.library_name,
            *(f"{key}: {value}" for key, value in parameters.hyperparameters.items()),
            *(f"data {one.name} ({one.type}): {one.description}" for one in parameters.datasets),
            *(f"input {one.name}: {one.format}" for one in parameters.inputs),
            *(f"output {one.name}: {one.format}" for one in parameters.outputs),
        ],
    )
    body += _list("References", [one.reference for one in details.references])
    language = escape(details.language[0]) if len(details.language) == 1 else "en"
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main>\n{chr(10).join(part for part in body if part)}\n</main></body></html>\n"
    )


def _missing(card: Card) -> str:
    paths = missing(card)
    if not paths:
        return ""
    items = "".join(f"<li><code>{escape(path)}</code></li>" for path in paths)
    return f'<div class="missing" role="note"><p>This card does not say:</p><ul>{items}</ul></div>'


def _list(title: str, items: Iterable[str]) -> list[str]:
    there = [f"<li>{escape(item.strip())}</li>" for item in items if item.strip(" :()")]
    return [f"<h2>{title}</h2>", f"<ul>{''.join(there)}</ul>"] if there else []


def _measured(metrics: Iterable[Metric]) -> list[str]:
    there = [metric for metric in metrics if metric.value is not None]
    if not there:
        return []
    rows = "".join(
        f"<tr><th scope=row>{escape(one.type)}</th><td>{one.value:g}</td><td>{bounds(one)}</td>"
        f"<td>{escape(one.slice)}</td><td>{escape(one.dataset)}</td></tr>"
        for one in there
    )
    head = "".join(f"<th scope=col>{title}</th>" for title in ("metric", "value", "interval", "slice", "data"))
    table = f"<table><caption>Measured values</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return ["<h2>Measured</h2>", _chart([one for one in there if 0 <= (one.value or 0.0) <= 1]), table]


def _chart(metrics: list[Metric]) -> str:
    """Bars of the metrics that are shares."""
    if not metrics:
        return ""
    height = len(metrics) * (_BAR + _GAP)
    scale = _WIDTH - _LEFT - 60
    parts = []
    for at, one in enumerate(metrics):
        value, top = one.value or 0.0, at * (_BAR + _GAP)
        label = escape(f"{one.type} {one.slice}".strip())
        parts.append(
            f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{label}</text>'
            f'<rect x="{_LEFT}" y="{top}" width="{value * scale:.1f}" height="{_BAR}" fill="#2a5d9c"/>'
            f'<text x="{_LEFT + value * scale + 6:.1f}" y="{top + 14}">{value:.3g}</text>'
        )
        interval = one.confidence_interval
        if interval is not None and interval.lower_bound is not None and interval.upper_bound is not None:
            low, high = (
                _LEFT + min(max(bound, 0.0), 1.0) * scale for bound in (interval.lower_bound, interval.upper_bound)
            )
            middle = top + _BAR / 2
            parts.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#b35900" stroke-width="3"/>'
            )
    said = escape("; ".join(f"{one.type} {one.slice} {one.value:g}" for one in metrics))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" role="img" aria-label="{said}" '
        f'font-family="system-ui,sans-serif" font-size="13">{"".join(parts)}</svg>'
    )
