"""The overload curves as SVG: goodput above, p99 on a logarithmic scale below, over the offered load."""

from html import escape
from math import log10
from typing import Any

_WIDTH, _LEFT, _RIGHT, _HEIGHT, _GAP, _TOP = 760, 70, 190, 200, 60, 60
_COLOURS = ("#868e96", "#c2410c", "#0b7285")


def curves(ways: dict[str, list[dict[str, Any]]], capacity: float) -> str:
    """The picture; `ways` as `bench.overload` finds them, `capacity` in requests a second."""
    most: float = max(row["times"] for rows in ways.values() for row in rows)
    latencies = [row["p99_ms"] for rows in ways.values() for row in rows if row["p99_ms"]]
    low, high = log10(min(latencies) / 1.5), log10(max(latencies) * 1.2)
    goodput = 1.15 * max(row["goodput"] for rows in ways.values() for row in rows)
    below = _TOP + _HEIGHT + _GAP
    parts = [_text(16, 28, "Overload: offered load against goodput and latency", 18, weight="bold")]

    def x(times: float) -> float:
        return _LEFT + times / most * (_WIDTH - _LEFT - _RIGHT)

    for top, title in ((_TOP, "goodput, requests a second"), (below, "p99 of what was served, ms")):
        parts += [
            _text(_LEFT, top - 6, title, 12),
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT}" fill="none" '
            'stroke="#adb5bd"/>',
            f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{top}" y2="{top + _HEIGHT}" stroke="#adb5bd" '
            'stroke-dasharray="4 4"/>',
        ]
        marks = [t for t in (0.5, 1, 1.5, 2, 3) if t <= most]
        parts += [_text(x(t), top + _HEIGHT + 16, f"{t:g}x", 11, anchor="middle") for t in marks]
    for value in (0.5 * capacity, capacity):
        parts.append(_text(_LEFT - 8, _TOP + _HEIGHT * (1 - value / goodput) + 4, f"{value:.0f}", 11, anchor="end"))
    for value in (10, 30, 100, 300, 1000, 3000, 10000):
        if low <= log10(value) <= high:
            y = below + _HEIGHT * (1 - (log10(value) - low) / (high - low))
            parts.append(_text(_LEFT - 8, y + 4, str(value), 11, anchor="end"))
    for number, (way, rows) in enumerate(ways.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        above = [(x(r["times"]), _TOP + _HEIGHT * (1 - r["goodput"] / goodput)) for r in rows]
        under = [
            (x(r["times"]), below + _HEIGHT * (1 - (log10(r["p99_ms"]) - low) / (high - low)))
            for r in rows
            if r["p99_ms"]
        ]
        parts += [_line(above, colour), _line(under, colour)]
        parts.append(
            f'<rect x="{_WIDTH - _RIGHT + 20}" y="{_TOP + 22 * number}" width="14" height="4" fill="{colour}"/>'
        )
        parts.append(_text(_WIDTH - _RIGHT + 40, _TOP + 22 * number + 6, way, 12))
    height = below + _HEIGHT + 40
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" fill="#212529">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _line(points: list[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'


def _text(x: float, y: float, text: str, size: int, *, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
