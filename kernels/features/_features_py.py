"""The specification of feature programs, in Python: what `_features_c` does, bit for bit and refusal for refusal.

One row after the other: its inputs are loaded in order, then the instructions run in order. The first thing that is
refused ends it. All arithmetic is float64, in the order in which scikit-learn's `transform` does it, and is rounded to
a tensor's datatype once, at the end; integer tensors take whole numbers only.
"""

from __future__ import annotations

import math
import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kernels.features._program import (
    COLUMN_DATATYPES,
    DATATYPES,
    FUNCTIONS,
    OPS,
    PERIODS,
    REFUSE_INFINITE,
    REFUSE_MISSING,
    REFUSE_NOT_POSITIVE,
    Input,
    Instruction,
    Refused,
    Tensor,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAN = math.nan
_FORMATS = dict(zip(COLUMN_DATATYPES, ["d", "f", "q", "i", "h", "b", "Q", "I", "H", "B", "?", "", "e"], strict=True))
_OUT = dict(zip(DATATYPES, "fdiq", strict=True))
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOSE = 1e-7  # scikit-learn's BOUNDS_THRESHOLD of QuantileTransformer
_LOWEST, _HIGHEST = -5.199337582605575, 5.19933758270342  # its norm.ppf(_CLOSE - np.spacing(1)), and of 1 minus that


def _row_values(row: Any, inputs: Sequence[Input], positions: Sequence[int] | None) -> list[Any]:
    if positions is not None:
        return [None if place < 0 else row[place] for place in positions]
    return [row.get(one.name) for one in inputs]


class Program:
    """See `_program.py`."""

    def __init__(
        self, inputs: Sequence[Input], tensors: Sequence[Tensor], code: Sequence[Instruction], numbers: int, texts: int
    ) -> None:
        """Takes what refers to nothing that is not there.

        Args:
            inputs: the columns.
            tensors: what they become.
            code: how.
            numbers: how many number registers there are.
            texts: how many text registers.

        Raises:
            ValueError: an operation that there is none of, a register, input or tensor out of range, a register that
                is read before it is written.
        """
        self.inputs, self.tensors = tuple(inputs), tuple(tensors)
        self._code = tuple(code)
        self._numbers, self._texts = numbers, texts
        judge(self.inputs, self.tensors, self._code, numbers, texts)

    def rows(
        self, rows: Sequence[Any], positions: Sequence[int] | None = None, *, empty_is_missing: bool = True
    ) -> list[bytes]:
        """The tensors' bytes, from rows of Python values.

        Args:
            rows: mappings from a column's name to its value, or, with `positions`, lists. None and a name that is not
                there are missing.
            positions: for each input where its value is in a row; -1: nowhere.
            empty_is_missing: whether an empty text is.

        Raises:
            Refused: a row cannot be taken.
        """
        written = [[0.0] * (tensor.width * len(rows)) for tensor in self.tensors]
        names = {one.name for one in self.inputs}
        for at, row in enumerate(rows):
            if positions is None and not isinstance(row, dict):
                raise TypeError("a row is a dict")
            numbers: list[float] = [NAN] * self._numbers
            texts: list[bytes | None] = [None] * self._texts
            values = _row_values(row, self.inputs, positions)
            for one, value in zip(self.inputs, values, strict=True):
                try:
                    if one.kind == "string":
                        texts[one.register] = _text(value, empty_is_missing)
                    else:
                        numbers[one.register] = _number(value, one.kind, empty_is_missing)
                except _WrongValue as wrong:
                    raise Refused(at, one.name, wrong.args[0]) from None
            if positions is None:
                for name in row:
                    if name not in names:
                        raise Refused(at, str(name), "column")
            self._run(at, numbers, texts, written)
        return self._packed(written)

    def columns(self, count: int, columns: Sequence[tuple[str, ReadableBuffer] | None]) -> list[bytes]:
        """The tensors' bytes, from whole columns.

        Args:
            count: of rows.
            columns: datatype and raw little-endian bytes for each input; None: all of it is missing. An empty text is.

        Raises:
            Refused: a row cannot be taken.
            ValueError: a datatype that the input does not take, or another number of values.
        """
        read = [_column(one, column, count) for one, column in zip(self.inputs, columns, strict=True)]
        positions = range(len(read))
        return self.rows(list(zip(*read, strict=True)) if read else [()] * count, positions)

    def _packed(self, written: list[list[float]]) -> list[bytes]:
        found = []
        for tensor, values in zip(self.tensors, written, strict=True):
            if tensor.datatype == "FP32":
                values = [_float32(value) for value in values]  # noqa: PLW2901
            elif tensor.datatype != "FP64":
                values = [int(value) for value in values]  # noqa: PLW2901
            found.append(struct.pack(f"<{len(values)}{_OUT[tensor.datatype]}", *values))
        return found

    def _run(self, at: int, numbers: list[float], texts: list[bytes | None], written: list[list[float]]) -> None:
        for one in self._code:
            refused = self._step(one, at, numbers, texts, written)
            if refused:
                raise Refused(at, self.inputs[one.column].name, refused)

    def _step(
        self, one: Instruction, at: int, numbers: list[float], texts: list[bytes | None], written: list[list[float]]
    ) -> str | None:
        op = one.op
        if op == "store":
            tensor = self.tensors[one.integers[0]]
            return _put(written[one.integers[0]], at * tensor.width + one.integers[1], numbers[one.a], tensor)
        if op == "scatter":
            if not 0 <= numbers[one.a] < len(one.integers) - 1:
                return None
            tensor = self.tensors[one.integers[0]]
            column = one.integers[1 + int(numbers[one.a])]
            if column < 0:
                return None
            value = 1.0 if one.b < 0 else numbers[one.b]
            return _put(written[one.integers[0]], at * tensor.width + column, value, tensor)
        if op in ("text_fill", "text_fill_value"):
            text = texts[one.a]
            hit = text is None if op == "text_fill" else text == one.texts[1].encode()
            texts[one.dst] = one.texts[0].encode() if hit else text
            return None
        if op == "check":
            return _checked(numbers[one.a], one.integers[0])
        if op == "text_check":
            return "missing" if texts[one.a] is None else None
        found = _text_op(one, texts) if op in _OF_TEXT else _number_op(one, numbers)
        if isinstance(found, str):
            return found
        numbers[one.dst] = found
        return None


_OF_TEXT = frozenset({"lookup_text", "text_is_missing", "text_equals", "bucket_of_text", "sign_of_text"})
_TO_TEXT = frozenset({"text_fill", "text_fill_value"})
_NO_DST = frozenset({"store", "scatter", "check", "text_check"})
_BINARY = frozenset({"add", "subtract", "multiply", "divide", "power"})
_LENGTHS = {
    "fill": (1, 0, 0), "fill_value": (2, 0, 0), "equals": (1, 0, 0), "check": (0, 1, 0), "subtract_divide": (2, 0, 0),
    "multiply_add": (2, 0, 0), "clip": (2, 0, 0), "function": (0, 1, 0), "yeo_johnson": (1, 0, 0),
    "box_cox": (1, 0, 0), "constant": (1, 0, 0), "phase": (0, 1, 0), "text_fill": (0, 0, 1),
    "text_fill_value": (0, 0, 2), "text_equals": (0, 0, 1), "bucket_of_text": (0, 1, 0), "store": (0, 2, 0),
}  # fmt: skip
"""Numbers, integers and texts; operations of other lengths are judged one by one."""


_CHOICES = {"function": len(FUNCTIONS), "phase": len(PERIODS)}


def judge(
    inputs: Sequence[Input], tensors: Sequence[Tensor], code: Sequence[Instruction], numbers: int, texts: int
) -> None:
    """ValueError unless all that the parts of a program refer to is there, and written before it is read."""
    written: dict[bool, set[int]] = {True: set(), False: set()}
    for one in inputs:
        is_text = one.kind == "string"
        if not 0 <= one.register < (texts if is_text else numbers):
            raise ValueError("an input's register is out of range")
        written[is_text].add(one.register)
    for step in code:
        _judge(step, inputs, tensors, numbers, texts)
        from_text = step.op in _OF_TEXT or step.op in _TO_TEXT or step.op == "text_check"
        for read in (step.a, step.b) if step.op != "constant" else ():
            if read >= 0 and read not in written[from_text]:
                raise ValueError(f"{step.op}: register {read} is read before it is written")
        if step.op not in _NO_DST:
            written[step.op in _TO_TEXT].add(step.dst)


def _judge(one: Instruction, inputs: Sequence[Input], tensors: Sequence[Tensor], numbers: int, texts: int) -> None:  # noqa: C901, PLR0912
    """ValueError where an instruction refers to what is not there."""
    if one.op not in OPS:
        raise ValueError(f"{one.op} is no operation")
    wrong = ValueError(f"{one.op}: out of range")
    from_text = one.op in _OF_TEXT or one.op in _TO_TEXT or one.op == "text_check"
    if one.op != "constant" and not 0 <= one.a < (texts if from_text else numbers):
        raise wrong
    if one.op not in _NO_DST and not 0 <= one.dst < (texts if one.op in _TO_TEXT else numbers):
        raise wrong
    if one.op in _BINARY and not 0 <= one.b < numbers:
        raise wrong
    if one.op == "scatter" and not -1 <= one.b < numbers:
        raise wrong
    if not -1 <= one.column < len(inputs):
        raise wrong
    lengths = len(one.numbers), len(one.integers), len(one.texts)
    if one.op in _LENGTHS and lengths != _LENGTHS[one.op]:
        raise wrong
    if one.op in ("store", "scatter"):
        if not one.integers or not 0 <= one.integers[0] < len(tensors):
            raise wrong
        width = tensors[one.integers[0]].width
        lowest = 0 if one.op == "store" else -1
        if not all(lowest <= column < width for column in one.integers[1:]):
            raise wrong
    elif one.op in _CHOICES:
        if not 0 <= one.integers[0] < _CHOICES[one.op]:
            raise wrong
    elif one.op == "bucket_of_text":
        if one.integers[0] < 1:
            raise wrong
    elif one.op == "quantile":
        if lengths[1] != 2 or one.integers[0] < 1 or lengths[0] != 2 * one.integers[0]:
            raise wrong
    elif one.op == "lookup_number":
        if lengths[1] != 3 or one.integers[2] < 0 or lengths[0] != 2 * one.integers[2] + 2:
            raise wrong
    elif one.op == "lookup_text" and (lengths[1] != 2 or lengths[0] != lengths[2] + 2):
        raise wrong


class _WrongValue(Exception):
    """A value that an input does not take; the argument is the reason."""


def _text(value: Any, empty_is_missing: bool, reason: str = "text") -> bytes | None:
    """A text as a register holds it; it may be UTF-8 already."""
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError:  # a lone surrogate
            raise _WrongValue(reason) from None
    if value is None or (value == b"" and empty_is_missing):
        return None
    if not isinstance(value, bytes):
        raise _WrongValue(reason)
    return value


def _number(value: Any, kind: str, empty_is_missing: bool) -> float:
    """A number as a register holds it."""
    if kind == "timestamp":
        text = _text(value, empty_is_missing, "time")
        found = NAN if text is None else seconds_of(text.decode("ascii", "replace"))
        if found is None:
            raise _WrongValue("time")
        return found
    if value is None:
        return NAN
    if isinstance(value, bool) != (kind == "boolean") or not isinstance(value, (int, float)):
        raise _WrongValue(kind)
    try:
        return float(value)
    except OverflowError:
        raise _WrongValue("number") from None


def _column(one: Input, column: tuple[str, ReadableBuffer] | None, count: int) -> list[Any]:
    """A column's values; numbers of booleans as booleans."""
    if column is None:
        return [None] * count
    datatype, raw = column
    data = bytes(raw)
    wanted = {"boolean": "BOOL", "string": "BYTES", "timestamp": "BYTES"}.get(one.kind)
    if datatype not in _FORMATS or (datatype != wanted if wanted else datatype in ("BOOL", "BYTES")):
        raise ValueError(f"'{one.name}' does not take {datatype}")
    if datatype != "BYTES":
        if len(data) != count * struct.calcsize("<" + _FORMATS[datatype]):
            raise ValueError(f"'{one.name}' has another number of values")
        return list(struct.unpack(f"<{count}{_FORMATS[datatype]}", data))
    found: list[Any] = []
    at = 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little") if at + 4 <= len(data) else len(data)
        if at + 4 + size > len(data):
            raise ValueError(f"'{one.name}' has another number of values")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise ValueError(f"'{one.name}' has another number of values")
    return found


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


def _put(values: list[float], at: int, value: float, tensor: Tensor) -> str | None:
    if tensor.datatype in ("INT32", "INT64"):
        limit = 2.0 ** (31 if tensor.datatype == "INT32" else 63)
        if not (-limit <= value < limit and value == math.floor(value)):
            return "range"
    values[at] = value
    return None


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _checked(value: float, bits: int) -> str | None:
    if bits & REFUSE_INFINITE and math.isinf(value):
        return "infinite"
    if bits & REFUSE_MISSING and math.isnan(value):
        return "missing"
    if bits & REFUSE_NOT_POSITIVE and value <= 0:
        return "not_positive"
    return None


def _text_op(one: Instruction, texts: list[bytes | None]) -> float | str:
    text = texts[one.a]
    if one.op == "text_is_missing":
        return float(text is None)
    if one.op == "text_equals":
        return float(text == one.texts[0].encode())
    if one.op == "lookup_text":
        if text is None:
            return "missing" if one.integers[0] else one.numbers[-2]
        listed = [each.encode() for each in one.texts]
        if text in listed:
            return one.numbers[listed.index(text)]
        return "unknown" if one.integers[1] else one.numbers[-1]
    if text is None:
        return -1.0 if one.op == "bucket_of_text" else 1.0
    hashed = murmur3(text)
    if one.op == "sign_of_text":
        return 1.0 if hashed >= 0 else -1.0
    buckets = one.integers[0]
    # Where abs() does not fit 32 bits, as scikit-learn's FeatureHasher has it.
    return float((2**31 - 1 - (buckets - 1)) % buckets if hashed == -(2**31) else abs(hashed) % buckets)


def _number_op(one: Instruction, numbers: list[float]) -> float | str:  # noqa: C901, PLR0912
    op, k = one.op, one.numbers
    if op == "constant":
        return k[0]
    a = numbers[one.a]
    if op in _BINARY:
        return _binary(op, a, numbers[one.b])
    match op:
        case "fill":
            return k[0] if math.isnan(a) else a
        case "fill_value":
            return k[0] if a == k[1] else a
        case "is_missing":
            return float(math.isnan(a))
        case "equals":
            return float(a == k[0])
        case "subtract_divide":
            return _binary("divide", a - k[0], k[1])
        case "multiply_add":
            return a * k[0] + k[1]
        case "clip":
            if a < k[0]:
                return k[0]
            return k[1] if a > k[1] else a  # noqa: FURB136 - NaN stays
        case "function":
            return _function(FUNCTIONS[one.integers[0]], a)
        case "bucket":
            return NAN if math.isnan(a) else float(bisect_right(k, a))
        case "yeo_johnson":
            return _yeo_johnson(a, k[0])
        case "box_cox":
            return _box_cox(a, k[0])
        case "quantile":
            return _quantile(a, k, one.integers[0], normal=one.integers[1] == 1)
        case "lookup_number":
            return _lookup(one, a)
    return _phase(a, PERIODS[one.integers[0]])


def _lookup(one: Instruction, a: float) -> float | str:
    count, k = one.integers[2], one.numbers
    if math.isnan(a):
        return "missing" if one.integers[0] else k[-2]
    place = bisect_right(k, a, 0, count) - 1
    if place >= 0 and k[place] == a:
        return k[count + place]
    return "unknown" if one.integers[1] else k[-1]


def _binary(op: str, a: float, b: float) -> float:
    if op == "add":
        return a + b
    if op == "subtract":
        return a - b
    if op == "multiply":
        return a * b
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


def _function(name: str, a: float) -> float:
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
        return _binary("divide", 1.0, a)
    if name == "negative":
        return -a
    if name == "sign":
        return a if a == 0 or math.isnan(a) else math.copysign(1.0, a)
    return a if a == 0 or not math.isfinite(a) else float(math.floor(a))


def _yeo_johnson(a: float, power: float) -> float:
    if math.isnan(a):
        return a
    if a >= 0:
        if abs(power) < 2.220446049250313e-16:
            return _function("log1p", a)
        return _binary("divide", _function("expm1", power * _function("log1p", a)), power)
    if abs(power - 2) > 2.220446049250313e-16:
        return _binary("divide", -_function("expm1", (2 - power) * _function("log1p", -a)), 2 - power)
    return -_function("log1p", -a)


def _box_cox(a: float, power: float) -> float:
    logarithm = _function("log", a)
    if abs(power) < 1e-19:
        return logarithm
    scaled = power * logarithm
    if scaled < 709.78:
        return _function("expm1", scaled) / power
    grown = _function("exp", scaled - math.log(abs(power)))
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


def _quantile(a: float, k: Sequence[float], count: int, *, normal: bool) -> float:
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


def _phase(seconds: float, period: str) -> float:
    if not math.isfinite(seconds):
        return NAN
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
        return NAN
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
