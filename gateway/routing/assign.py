"""Which variant a unit gets: the pinned formula, in whole numbers.

Contract: sans-IO and deterministic; the only randomness comes from the `draw` a caller hands in. The formula:

    n = first 8 bytes of SHA-256(salt + NUL + unit, both UTF-8), big-endian         (0 <= n < 2^64)
    u = n / 2^64
    variant = the first, in the order listed, whose cumulative weight share exceeds u

Shares are compared as rationals, never as floats: a weight is the decimal number its shortest text says
(0.1 is 1/10), the boundary of variant i is t_i = ceil(2^64 * (w_1 + ... + w_i) / W), and variant i is drawn
iff t_(i-1) <= n < t_i. n is whole, so n < ceil(x) holds exactly when n < x does: any language with big
integers gets the same variant for the same unit, and a weight of 0 draws nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256

import msgspec

from gateway.wire.types import Param
from governance.types import Subject

SPAN = 1 << 64
"""u has this denominator."""


class CallView(msgspec.Struct, gc=False):
    """What routing may know of a call; the pipeline makes one for each, from either door."""

    subject: Subject
    headers: Mapping[str, str] = {}
    """HTTP headers or gRPC metadata, names in lower case."""
    parameters: Mapping[str, Param] = {}
    """The request's OIP parameters, `sequence_*` included."""
    id: str = ""
    """The request's OIP `id`; "" is none."""
    version: str = ""
    """The version in the path or in `model_version`; "" is none."""
    draws: dict[str, int] | None = None
    """On a stream: its random draws by route, so that a call without a unit draws once per stream and route.
    The stream's owner hands the same dict to each of its calls."""


def unit_integer(salt: str, unit: str) -> int:
    """The formula's n: what decisions are made with.

    Lone surrogates, which JSON can spell and UTF-8 cannot, are hashed as their three bytes, not refused.
    """
    digest = sha256(f"{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def unit_fraction(salt: str, unit: str) -> float:
    """The formula's u for people to read, rounded down to 53 bits so that it stays below 1.

    Decisions use `unit_integer`: the nearest float of a u close to 1 is 1.
    """
    return (unit_integer(salt, unit) >> 11) / (1 << 53)


class Split:
    """Weights as boundaries in 64-bit whole numbers.

    Args:
        weights: proportions >= 0, in the order listed.

    Raises:
        ValueError: a weight is negative or not finite, or none is above 0.
    """

    __slots__ = ("bounds",)

    bounds: tuple[int, ...]
    """t_i of the module's formula; the last one is 2^64."""

    def __init__(self, weights: Sequence[float]) -> None:
        try:
            exact = [Fraction(str(weight)) for weight in weights]
        except ValueError:
            raise ValueError(f"weights must be finite numbers, not {list(weights)}") from None
        total = sum(exact, Fraction())
        if any(weight < 0 for weight in exact):
            raise ValueError(f"weights must not be negative: {list(weights)}")
        if not total:
            raise ValueError("no weight is above 0: nothing can be drawn")
        bounds, cumulative = [], Fraction()
        for weight in exact:
            cumulative += weight
            bounds.append(math.ceil(cumulative * SPAN / total))
        self.bounds = tuple(bounds)

    def pick(self, n: int) -> int:
        """The index of the first variant whose boundary lies above n, 0 <= n < 2^64."""
        return bisect_right(self.bounds, n)


def threshold(share: float) -> int:
    """The boundary below which that share of all n lies."""
    return math.ceil(Fraction(str(share)) * SPAN)


def header_text(value: str) -> str:
    """A header's value as text: what was sent as UTF-8 and read as Latin-1 (as HTTP stacks do) is mended."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def parameter_text(value: Param | None) -> str:
    """A parameter as the formula spells it; floats have no such text and count as absent ("")."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else ""


UnitOf = Callable[[CallView], str]
"""Finds the unit of a call; "" when it has none (an empty header, parameter or id is none)."""


def unit_of(assign_by: str) -> UnitOf | None:
    """The compiled `assign_by`; None for `request`, which has no unit.

    Raises:
        ValueError: `assign_by` is none of the forms that `settings.Route.assign_by` lists.
    """
    kind, colon, name = assign_by.partition(":")
    if colon and name and kind == "header":
        lower = name.lower()
        return lambda call: header_text(call.headers.get(lower, ""))
    if colon and name and kind == "parameter":
        return lambda call: parameter_text(call.parameters.get(name))
    if not colon:
        match kind:
            case "request":
                return None
            case "subject":
                return lambda call: call.subject.id
            case "tenant":
                return lambda call: call.subject.tenant
            case "id":
                return lambda call: call.id
    raise ValueError(
        f"assign_by must be request, header:NAME, parameter:NAME, subject, tenant or id, not {assign_by!r}"
    )
