"""Times as people give them, and as records have them.

Contract: a time has its zone, or is a day and then begins at midnight UTC. Records carry RFC 3339 in UTC with nine
digits, so that their order is that of the texts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from governance.audit.record import timestamp

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_WIDTH = len("2026-11-30T00:00:00.000000000Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Period(msgspec.Struct, frozen=True):
    """From the first moment on, up to the second and without it."""

    begin: datetime
    end: datetime

    @property
    def texts(self) -> tuple[str, str]:
        """As records have them."""
        return text_of(self.begin), text_of(self.end)


def moment(text: str) -> datetime:
    """The moment that a person wrote, in UTC. Raises ValueError, which says what to write."""
    wanted = "write a day (2026-11-30) or RFC 3339 with its zone (2026-11-30T12:00:00Z)"
    try:
        found = datetime.fromisoformat(text + "T00:00:00Z" if _DAY.fullmatch(text) else text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: {wanted}") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no zone: {wanted}")
    try:
        found = found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is out of range: {wanted}") from None
    if found < _EPOCH:
        raise ValueError(f"{text!r} is before 1970: {wanted}")
    return found


def span(text: str) -> timedelta:
    """A duration like `90s`, `15m`, `2h`, `3d`. Raises ValueError, which says what to write."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None or not int(match[1]):
        raise ValueError(f"{text!r} is no duration: write it like 90s, 15m, 2h or 3d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def text_of(time: datetime) -> str:
    """As records have it."""
    since = time - _EPOCH
    return timestamp((since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)


def short(time: datetime) -> str:
    """For people: to the second, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def of_record(text: str) -> datetime | None:
    """The moment in a record's time, to the second; None: it is none."""
    try:
        return moment(text[:19] + "Z")
    except ValueError:
        return None


def is_record_time(text: object) -> bool:
    """Whether it has the form whose order is that of the texts."""
    return isinstance(text, str) and len(text) == _WIDTH and text.endswith("Z") and text[10] == "T"
