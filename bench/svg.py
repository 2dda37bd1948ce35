"""A bar chart as SVG, nothing else: one bar for each proxy, a tick for each of its runs."""

from html import escape
from statistics import fmean

_WIDTH, _LEFT, _RIGHT = 760, 170, 70
_BAR, _STEP = 22, 34
_COLOURS = {"Tidegate": "#0b7285", "Envoy": "#8f7a4a", "nginx": "#4a7a55"}
_OTHER = "#868e96"

Chart = tuple[str, list[tuple[str, list[float]]]]
"""Title; names and the values of their runs."""


def bars(title: str, subtitle: str, charts: list[Chart]) -> str:
    """The picture. All charts share one scale, so that they can be compared."""
    most = max((value for _, rows in charts for _, values in rows for value in values), default=1.0)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    parts, y = [_text(16, 28, title, 18, "bold"), _text(16, 48, subtitle, 11)], 76
    for name, rows in charts:
        parts.append(_text(16, y, name, 14, "bold"))
        y += 12
        for peer, values in rows:
            parts += _bar(peer, values, y, scale)
            y += _STEP
        y += 22
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        f'font-family="system-ui, sans-serif" fill="#212529">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _bar(peer: str, values: list[float], y: int, scale: float) -> list[str]:
    mean = fmean(values)
    colour = next((c for start, c in _COLOURS.items() if peer.startswith(start)), _OTHER)
    ticks = [
        f'<line x1="{_LEFT + v * scale:.1f}" x2="{_LEFT + v * scale:.1f}" y1="{y - 2}" y2="{y + _BAR + 2}" '
        'stroke="#212529" stroke-width="1.5"/>'
        for v in values
    ]
    end = _LEFT + max(values) * scale + 8
    return [
        _text(_LEFT - 10, y + 15, peer, 12, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{mean * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
        *ticks,
        _text(round(end), y + 15, f"{mean:.0f}", 12, "bold"),
    ]


def _text(x: int, y: int, text: str, size: int, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'
    )
