"""Until when somebody has to be told of an incident, by the packs.

Contract: counted from the moment of becoming aware, in hours and days of 24 hours, without weekends and holidays. How a
law counts (for the European Union Regulation 1182/71) may end later and never ends earlier than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from governance.compliance.pack import Pack
from governance.compliance.times import short


class Due(msgspec.Struct, frozen=True):
    """One clock, running."""

    due: str
    left: str
    """Of the time when this was made; or how long ago it ended."""
    name: str
    when: str
    """Which incidents it is for: that is for people to say."""
    tell: str
    text: str
    citation: str


def due(packs: Sequence[Pack], aware: datetime, now: datetime) -> list[Due]:
    """Every clock of the packs, the first to end first.

    Args:
        packs: whose duties.
        aware: when the incident became known.
        now: for what is left.
    """
    found = []
    for pack in packs:
        for duty in pack.duties:
            for clock in duty.clocks:
                end = aware + timedelta(hours=clock.hours or 0, days=clock.days or 0)
                one = Due(short(end), _left(end - now), clock.name, clock.when, clock.tell, pack.title, clock.citation)
                found.append((end, one))
    return [one for _, one in sorted(found, key=lambda item: item[0])]


def _left(rest: timedelta) -> str:
    minutes = int(abs(rest).total_seconds()) // 60
    days, minutes = divmod(minutes, 24 * 60)
    text = f"{days} d {minutes // 60} h {minutes % 60} min"
    return f"{text} left" if rest >= timedelta(0) else f"ended {text} ago"
