"""What selection rates can be at all when the group of some people is not known.

Contract: sharp for each rate and for the largest gap: there is a way to tell the unknown people apart that reaches the
bound, and none goes beyond. The smallest possible gap is exact but for the roundness of people for two groups; for more
it is a bound that may not be reached. No assumption is made of who is unknown, or why.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """From the least to the most; None: there is nobody that it could be of."""

    low: float | None
    high: float | None


def rate_bounds(rows: int, selected: int, unknown: int, unknown_selected: int) -> Interval:
    """The selection rate of a group, whoever the unknown people are.

    The least: every unknown person who was not selected is of the group, and no selected one is. The most: the other
    way round.

    Args:
        rows: people known to be of the group.
        selected: of them.
        unknown: people of unknown group.
        unknown_selected: of them.
    """
    least = rows + unknown - unknown_selected
    most = rows + unknown_selected
    return Interval(selected / least if least else None, (selected + unknown_selected) / most if most else None)


def gap_bounds(bounds: Sequence[Interval]) -> Interval:
    """The largest rate less the smallest, over at least two groups with `rate_bounds`; None: fewer have any."""
    pairs = [
        (one.low, one.high, other.low, other.high)
        for one, other in permutations(bounds, 2)
        if one.low is not None and one.high is not None and other.low is not None and other.high is not None
    ]
    if not pairs:
        return Interval(None, None)
    # The selected unknown of one group and the others of the other: both bounds are reached at once.
    most = max(high - low for _, high, low, _ in pairs)
    least = max(0.0, *(low - high for low, _, _, high in pairs))
    return Interval(least, most)
