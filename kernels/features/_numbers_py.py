"""Arithmetic of the specification: functions of numbers, transforms, hashes. Float64, and never an exception."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

NAN = math.nan
_CLOSE = 1e-7  # scikit-learn's BOUNDS_THRESHOLD of QuantileTransformer
_LOWEST, _HIGHEST = -5.199337582605575, 5.19933758270342  # its norm.ppf(_CLOSE - np.spacing(1)), and of 1 minus that


def binary(op: str, a: float, b: float) -> float:
    """A sum, difference, product, quotient, power or maximum, with infinities and NaN in place of exceptions."""
    if op == "add":
        return a + b
    if op == "subtract":
        return a - b
    if op == "multiply":
        return a * b
    if op == "maximum":
        return a if math.isnan(a) or a > b else b
    if op == "divide":
        if b != 0:
            return a / b
        return NAN if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
    except ValueError:
        if a == 0:  # a negative power
            return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
        return NAN


_SIMPLE = {
    "log": math.log, "log1p": math.log1p, "log2": math.log2, "log10": math.log10, "exp": math.exp, "expm1": math.expm1,
    "sqrt": math.sqrt, "abs": abs, "sin": math.sin, "cos": math.cos, "cbrt": math.cbrt, "tanh": math.tanh,
}  # fmt: skip


def function(name: str, a: float) -> float:
    """One of FUNCTIONS, likewise."""
    if name in _SIMPLE:
        try:
            return float(_SIMPLE[name](a))  # type: ignore[operator]
        except OverflowError:
            return math.inf
        except ValueError:
            pole = (name == "log1p" and a == -1) or (name.startswith("log") and name != "log1p" and a == 0)
            return -math.inf if pole else NAN
    if name in ("sin_turn", "cos_turn"):
        if math.isinf(a):
            return NAN
        turn = 2 * math.pi * a
        return math.sin(turn) if name == "sin_turn" else math.cos(turn)
    if name == "square":
        return a * a
    if name == "reciprocal":
        return binary("divide", 1.0, a)
    if name == "negative":
        return -a
    if name == "sign":
        return a if a == 0 or math.isnan(a) else math.copysign(1.0, a)
    return a if a == 0 or not math.isfinite(a) else float(math.floor(a))


def yeo_johnson(a: float, power: float) -> float:
    """The Yeo-Johnson transform; a missing value stays."""
    if math.isnan(a):
        return a
    if a >= 0:
        if abs(power) < 2.220446049250313e-16:
            return function("log1p", a)
        return binary("divide", function("expm1", power * function("log1p", a)), power)
    if abs(power - 2) > 2.220446049250313e-16:
        return binary("divide", -function("expm1", (2 - power) * function("log1p", -a)), 2 - power)
    return -function("log1p", -a)


def box_cox(a: float, power: float) -> float:
    """The Box-Cox transform, as scipy.special has it."""
    logarithm = function("log", a)
    if abs(power) < 1e-19:
        return logarithm
    scaled = power * logarithm
    if scaled < 709.78:
        return function("expm1", scaled) / power
    grown = function("exp", scaled - math.log(abs(power)))
    return math.copysign(1.0, power) * grown - 1 / power


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """As `np.interp`."""
    at = bisect_right(xs, x) - 1
    if at < 0:
        return ys[0]
    if at >= len(xs) - 1 or xs[at] == x:
        return ys[min(at, len(xs) - 1)]
    slope = (ys[at + 1] - ys[at]) / (xs[at + 1] - xs[at])
    return slope * (x - xs[at]) + ys[at]


def quantile(a: float, k: Sequence[float], count: int, *, normal: bool) -> float:
    """As scikit-learn's QuantileTransformer, to a uniform or a normal distribution."""
    if math.isnan(a):
        return a
    xs, ys = k[:count], k[count:]
    if normal:
        low, high = a - _CLOSE < xs[0], a + _CLOSE > xs[-1]
    else:
        low, high = a == xs[0], a == xs[-1]
    backwards = _interpolate(-a, [-x for x in reversed(xs)], [-y for y in reversed(ys)])
    share = 0.0 if low else 1.0 if high else 0.5 * (_interpolate(a, xs, ys) - backwards)
    if not normal:
        return share
    return max(_LOWEST, min(_HIGHEST, normal_quantile(share)))


_NEAR = (
    (3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_MIDDLE = (
    (1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
     1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def _ratio(table: tuple[tuple[float, ...], tuple[float, ...]], r: float) -> float:
    over = under = 0.0
    for p, q in zip(reversed(table[0]), reversed(table[1]), strict=True):
        over, under = over * r + p, under * r + q
    return over / under


def normal_quantile(p: float) -> float:
    """Of the standard normal distribution: Wichura's AS 241, PPND16 (Applied Statistics 37, 1988)."""
    q = p - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(_NEAR, 0.180625 - q * q)
    r = p if q < 0 else 1 - p
    if r <= 0:
        return math.copysign(math.inf, q)
    r = math.sqrt(-math.log(r))
    found = _ratio(_MIDDLE, r - 1.6) if r <= 5 else _ratio(_FAR, r - 5)
    return -found if q < 0 else found


def murmur3(data: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0, as a signed number (Appleby, public domain)."""
    word = 0xFFFFFFFF
    h = 0
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        h ^= _scrambled(int.from_bytes(data[at : at + 4], "little"))
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & word
    if whole < len(data):
        h ^= _scrambled(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & word
    h = (h ^ h >> 13) * 0xC2B2AE35 & word
    h ^= h >> 16
    return h - 2**32 if h >= 2**31 else h


def _scrambled(k: int) -> int:
    k = k * 0xCC9E2D51 & 0xFFFFFFFF
    k = (k << 15 | k >> 17) & 0xFFFFFFFF
    return k * 0x1B873593 & 0xFFFFFFFF
