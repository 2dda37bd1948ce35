"""B-spline basis functions of the specification."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

LINEAR, CONTINUE, PERIODIC = 0, 1, 2
"""What happens outside of the knots: a straight line, the outermost polynomials, all over again."""


def basis(x: float, knots: Sequence[float], degree: int) -> tuple[int, list[float]]:
    """The basis functions that are not 0 at x, and the number of the first of them.

    De Boor's recurrence (A Practical Guide to Splines, 1978, chapter X) in the order of operations of scipy's BSpline.

    Args:
        x: outside of the inner knots the outermost polynomials go on.
        knots: ascending, `degree` of them before the first inner one and after the last.
        degree: of the polynomials.
    """
    at = max(degree, min(len(knots) - degree - 2, bisect_right(knots, x) - 1))
    h = [1.0] + [0.0] * degree
    for j in range(1, degree + 1):
        before = h[:j]
        h[0] = 0.0
        for n in range(1, j + 1):
            right, left = knots[at + n], knots[at + n - j]
            if right == left:
                h[n] = 0.0
                continue
            w = before[n - 1] / (right - left)
            h[n - 1] += w * (right - x)
            h[n] = w * (x - left)
    return at - degree, h


def spline(x: float, numbers: Sequence[float], integers: Sequence[int]) -> float:
    """One column of a spline basis; NaN stays.

    Args:
        x: the value.
        numbers: the knots; then value and slope at the first inner knot and at the last, for LINEAR.
        integers: degree, column, number of columns, one of LINEAR, CONTINUE, PERIODIC. Where there are fewer columns
            than basis functions, the functions beyond the last are the first columns again.
    """
    if math.isnan(x):
        return x
    degree, column, columns, outside = integers
    knots = numbers[:-4]
    first, last = knots[degree], knots[len(knots) - degree - 1]
    if outside == PERIODIC:
        over = x - first
        if math.isinf(over):
            return math.nan
        over = math.fmod(over, last - first)
        x = first + (over + (last - first) if over < 0 else over)
    elif outside == LINEAR and not first <= x <= last:
        value, slope = numbers[-4:-2] if x < first else numbers[-2:]
        return value + (x - (first if x < first else last)) * slope if slope else value
    start, found = basis(x, knots, degree)
    total = 0.0
    for at, one in enumerate(found):
        if (start + at) % columns == column:
            total += one
    return total
