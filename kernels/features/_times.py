"""Times of feature programs: text to seconds, and how far into a period they are."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_of(text: str) -> float | None:
    """Seconds since 1970 of `YYYY-MM-DD[{T| }hh:mm[:ss[.fraction]][Z|+hh:mm]]` (ISO 8601); UTC without zone."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
        )
    except ValueError:
        return None
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if zone and zone != "Z":
        if int(zone[1:3]) > 23 or int(zone[4:6]) > 59:
            return None
        shift = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds += shift if zone[0] == "-" else -shift
    return seconds + int(fraction or 0) / 10.0 ** len(fraction or "")


def phase(seconds: float, period: str) -> float:
    """How far into one of `PERIODS` a time is, in [0, 1); NaN where it is missing or beyond any calendar."""
    if not math.isfinite(seconds):
        return math.nan
    if period in ("month", "year"):
        return _calendar(seconds, period)
    length = {"minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}[period]
    shifted = seconds + 259200.0 if period == "week" else seconds  # 1970 began on a Thursday
    return (shifted - math.floor(shifted / length) * length) / length


def _days(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month (Hinnant, days_from_civil)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def _calendar(seconds: float, period: str) -> float:
    if abs(seconds) > 1e14:
        return math.nan
    days = math.floor(seconds / 86400.0) + 719468
    era = days // 146097
    of_era = days - era * 146097
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    if period == "year":
        start, end = _days(year, 1), _days(year + 1, 1)
    else:
        start = _days(year, month)
        end = _days(year + 1, 1) if month == 12 else _days(year, month + 1)
    return (seconds - start * 86400.0) / ((end - start) * 86400.0)
