"""Durations, sizes, rates, quotas, budgets and addresses as `tidegate.yaml` writes them.

Contract: each reader takes the text of one YAML scalar and returns the value in base units (seconds, bytes,
requests a second, bytes a day), or raises ValueError whose text says what to write instead. No I/O, no
locations: `gateway/settings_convert.py` adds those. `READERS` maps the `x-form` of a type in
`gateway/settings/forms.py` to its reader.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping

_NUMBER_AND_UNIT = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]*)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DAY = 86400.0
_SPANS = {"day": _DAY, "week": 7 * _DAY, "month": 365.25 / 12 * _DAY, "year": 365.25 * _DAY}
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}

# What people write instead, by the unit that is right. Decimal prefixes are refused rather than read as
# binary ones: a limit must not differ by 5 % from what its author thinks.
_DURATION_HINTS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "msec": "ms", "millis": "ms", "milliseconds": "ms",
    "min": "m", "mins": "m", "minute": "m", "minutes": "m", "hour": "h", "hours": "h", "hr": "h", "hrs": "h",
}  # fmt: skip
_SIZE_HINTS = {
    "k": "KiB", "kb": "KiB", "ki": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mi": "MiB", "mib": "MiB",
    "g": "GiB", "gb": "GiB", "gi": "GiB", "gib": "GiB", "t": "TiB", "tb": "TiB", "ti": "TiB", "tib": "TiB",
    "b": "B", "byte": "B", "bytes": "B",
}  # fmt: skip
_MAX_BYTES = 1 << 62
_LONGEST = 64
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)


def _split(text: str, example: str) -> tuple[str, str]:
    found = _NUMBER_AND_UNIT.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"expected {example}")
    if found[1].startswith("-"):
        raise ValueError(f"must not be negative; expected {example}")
    return found[1].lstrip("+"), found[2]


def duration(text: str) -> float:
    """Seconds from `250ms`, `2s`, `5m` or `1h`.

    Raises:
        ValueError: no unit, another unit, negative, or not a number.
    """
    number, unit = _split(text, "a duration such as 250ms, 2s, 5m or 1h")
    if unit not in _SECONDS:
        if not unit:
            raise ValueError(f"a duration needs a unit: write {number}s, or {number}ms, {number}m, {number}h")
        right = _DURATION_HINTS.get(unit.lower()) or (unit.lower() if unit.lower() in _SECONDS else None)
        if right is not None:
            raise ValueError(f"unknown unit `{unit}`: write {number}{right}")
        raise ValueError(f"unknown unit `{unit}`: durations are written in ms, s, m or h, such as 2s")
    if " " in text.strip() or "\t" in text:
        raise ValueError(f"no blank between number and unit: write {number}{unit}")
    value = float(number) * _SECONDS[unit]
    if not math.isfinite(value):
        raise ValueError("too long a duration")
    return value


def _bytes(text: str, example: str, suffix: str = "") -> int:
    number, unit = _split(text, example)
    if unit and unit not in _BYTES:
        right = _SIZE_HINTS.get(unit.lower())
        if right is not None:
            raise ValueError(f"unknown unit `{unit}`: write {number}{right}{suffix} (1 KiB is 1024 bytes)")
        raise ValueError(f"unknown unit `{unit}`: sizes are written in B, KiB, MiB, GiB or TiB, such as 64MiB{suffix}")
    if " " in text.strip() or "\t" in text:
        raise ValueError(f"no blank between number and unit: write {number}{unit}{suffix}")
    value = float(number) * _BYTES.get(unit, 1) if "." in number else int(number) * _BYTES.get(unit, 1)
    if value != int(value):
        raise ValueError("not a whole number of bytes")
    if value > _MAX_BYTES:
        raise ValueError("more bytes than can be counted")
    return int(value)


def size(text: str) -> int:
    """Bytes from `64MiB`, `10KiB` or a plain `1000`.

    Raises:
        ValueError: decimal or unknown unit, negative, not whole, or not a number.
    """
    return _bytes(text, "a size such as 64MiB, 10KiB or 1000 (bytes)")


def rate(text: str) -> float:
    """Requests a second from `1000/s`, `60/m` or `5/h`.

    Raises:
        ValueError: no `/s`, another unit, zero, negative, or not a number.
    """
    example = "a rate such as 1000/s, 60/m or 5/h"
    amount, slash, unit = text.partition("/")
    if not slash:
        number, wrong = _split(text, example)
        raise ValueError(f"{'unknown unit `' + wrong + '`' if wrong else 'a rate needs its time'}: write {number}/s")
    number, extra = _split(amount, example)
    if extra or amount != amount.strip() or unit not in _PER:
        right = _DURATION_HINTS.get(unit.strip().lower(), unit.strip().lower())
        right = right if right in _PER else "s"
        raise ValueError(f"rates are written a second, minute or hour: write {number}/{right}")
    value = float(number) / _PER[unit]
    if not math.isfinite(value) or value <= 0:
        raise ValueError("a rate must be more than 0 and finite")
    return value


def quota(text: str) -> int:
    """Bytes a day from `10GiB/day`.

    Raises:
        ValueError: no `/day`, an unknown unit, or not a number.
    """
    amount, slash, unit = text.partition("/")
    if not slash or unit != "day":
        number, suffix = _split(amount.strip(), "a quota such as 10GiB/day")
        raise ValueError(f"quotas are written a day: write {number}{suffix}/day")
    return _bytes(amount, "a quota such as 10GiB/day", "/day")


def budget(text: str) -> float:
    """Times a second from `1/month`; a month is a twelfth of 365.25 days.

    Raises:
        ValueError: another form.
    """
    amount, _, span = text.partition("/")
    found = re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", amount.strip())
    if found is None or not float(amount) or span.strip() not in _SPANS:
        raise ValueError(f"expected a budget such as 1/month: a number above 0, and one of {', '.join(_SPANS)}")
    return float(amount) / _SPANS[span.strip()]


def address(text: str) -> str:
    """`HOST:PORT` as it stands; the host is a name, an IPv4 address, or an IPv6 address in brackets.

    Raises:
        ValueError: a scheme, no host, no port, a port beyond 65535, or a host that cannot be one.
    """
    if "://" in text:
        bare = text.split("://", 1)[1].split("/", 1)[0]
        raise ValueError(f"expected HOST:PORT without a scheme: write {bare}" if bare else "expected HOST:PORT")
    host, colon, port = text.rpartition(":")
    if not colon:
        if re.fullmatch("[0-9]+", text):
            raise ValueError(f"expected HOST:PORT: write 127.0.0.1:{text}")
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8080")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("the port must be a number from 0 to 65535")
    if not host:
        raise ValueError(
            f"expected HOST:PORT: write 0.0.0.0:{port} for all addresses, 127.0.0.1:{port} for this machine"
        )
    _check_host(host, port)
    return text


def target(text: str) -> str:
    """`HOST:PORT`, or `dns://NAME:PORT` for every address of a name, as it stands.

    Raises:
        ValueError: as `address`; or `dns://` before an address that is no name.
    """
    if not text.startswith("dns://"):
        return address(text)
    host = address(text.removeprefix("dns://")).rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return text
    raise ValueError(f"{host} is an address, not a name: write it without dns://")


def _check_host(host: str, port: str) -> None:
    version6 = host.startswith("[") and host.endswith("]")
    if version6 or re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise ValueError(f"`{host.strip('[]')}` is not an IPv{6 if version6 else 4} address") from None
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: write [{host}]:{port}")
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError(f"`{host}` cannot be a host name")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone. Names are not resolved: only `localhost` is known to be."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


READERS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "duration": (duration, "a duration such as 2s"),
    "size": (size, "a size such as 64MiB"),
    "rate": (rate, "a rate such as 1000/s"),
    "quota": (quota, "a quota such as 10GiB/day"),
    "budget": (budget, "a budget such as 1/month"),
    "address": (address, "HOST:PORT"),
    "target": (target, "HOST:PORT or dns://NAME:PORT"),
}
