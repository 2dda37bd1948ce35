"""The tensor kernels in plain Python: the specification that `_tensors_c` is compared with.

Contract: the same values, the same exceptions and the same messages as the C++ twin. Clear before fast.

Messages of syntax errors are RapidJSON's, which clients of Triton know; positions are byte offsets of the
token that is wrong (Triton's point a few bytes further on).
"""

from __future__ import annotations

import json
import re
import struct
from fractions import Fraction
from typing import Any, Final

import numpy as np

MAX_DEPTH: Final = 1000
"""Upper bound for `max_depth`: the C++ twin keeps its stack of that size."""

NUMBER_TYPES: Final[dict[str, str]] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatypes that have a JSON form, besides BYTES, as numpy type strings. FP16 and BF16 have none in
Triton."""

_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_STARTS: Final = frozenset({b"-", *(b"%d" % digit for digit in range(10))})
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_LITERAL = re.compile(rb"true|false|null|-?NaN|-?Infinity|-?Inf")
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES: Final = {
    b'"': b'"',
    b"\\": b"\\",
    b"/": b"/",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
}

_EMPTY = "The document is empty."
_AFTER_ROOT = "The document root must not be followed by other values."
_VALUE = "Invalid value."
_NO_NAME = "Missing a name for object member."
_NO_COLON = "Missing a colon after a name of object member."
_NO_COMMA = (
    "Missing a comma or ']' after an array element.",
    "Missing a comma or '}' after an object member.",
)
_DUPLICATE = "Duplicate name of an object member."
_NO_FRACTION = "Miss fraction part in number."
_NO_EXPONENT = "Miss exponent in number."
_NO_QUOTE = "Missing a closing quotation mark in string."
_ENCODING = "Invalid encoding in string."
_ESCAPE = "Invalid escape character in string."
_NO_HEX = "Incorrect hex digit after \\u escape in string."
_SURROGATE = "The surrogate pair in string is invalid."

_LONGEST_INTEGER = len(str(-(2**64)))
"""Digits and sign beyond which an integer without leading zeros fits no datatype."""
_TENSOR_DEPTH = 3
"""Containers around tensor data: the root, its array of tensors, the tensor."""


def _at(reason: str, position: int) -> ValueError:
    return ValueError(f"{reason} at {position}")


def _skip(text: bytes, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _string(text: bytes, start: int) -> tuple[bytes, int]:
    """The string whose opening quote is at `start` as UTF-8, and where it ends. The first fault decides."""
    value = bytearray()
    position = start + 1
    while True:
        char = text[position : position + 1]
        if char == b'"':
            return bytes(value), position + 1
        if not char:
            raise _at(_NO_QUOTE, start)
        if char == b"\\":
            code, position = _escape(text, position + 1, start)
            value += code
        elif char < b" ":
            raise _at(_ENCODING, start)
        else:
            width = 1 if char < b"\x80" else 2 if char < b"\xe0" else 3 if char < b"\xf0" else 4
            try:
                text[position : position + width].decode("utf-8", "strict")
            except UnicodeDecodeError:
                raise _at(_ENCODING, start) from None
            value += text[position : position + width]
            position += width


def _escape(text: bytes, position: int, start: int) -> tuple[bytes, int]:
    """What the escape after the backslash stands for as UTF-8, and where it ends."""
    char = text[position : position + 1]
    if not char:
        raise _at(_NO_QUOTE, start)
    if char in _ESCAPES:
        return _ESCAPES[char], position + 1
    if char != b"u":
        raise _at(_ESCAPE, start)
    code = _hex(text, position + 1, start)
    position += 5
    if 0xD800 <= code <= 0xDFFF:
        if code >= 0xDC00 or text[position : position + 2] != b"\\u":
            raise _at(_SURROGATE, start)
        low = _hex(text, position + 2, start)
        if not 0xDC00 <= low <= 0xDFFF:
            raise _at(_SURROGATE, start)
        position += 6
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
    return chr(code).encode(), position


def _hex(text: bytes, position: int, start: int) -> int:
    match = _HEX.match(text, position)
    if match is None:
        raise _at(_NO_HEX, start)
    return int(match.group(), 16)


def _number(text: bytes, position: int) -> int:
    """Where the number that starts at `position` ends."""
    match = _NUMBER.match(text, position)
    if match is None:
        raise _at(_VALUE, position)
    follows = text[match.end() : match.end() + 1]
    if follows == b"." and match.group(1) is None and match.group(2) is None:
        raise _at(_NO_FRACTION, position)
    if follows in {b"e", b"E"} and match.group(2) is None:
        raise _at(_NO_EXPONENT, position)
    return match.end()


def _scalar(text: bytes, position: int) -> int:
    """Where the string, number or literal that starts at `position` ends."""
    if text[position : position + 1] == b'"':
        return _string(text, position)[1]
    literal = _LITERAL.match(text, position)
    return literal.end() if literal is not None else _number(text, position)


def _name(text: bytes, position: int, names: set[bytes]) -> tuple[bytes, int]:
    """The name of an object's member, and where its value starts."""
    if text[position : position + 1] != b'"':
        raise _at(_NO_NAME, position)
    key, after = _string(text, position)
    if key in names:
        raise _at(_DUPLICATE, position)
    names.add(key)
    after = _skip(text, after)
    if text[after : after + 1] != b":":
        raise _at(_NO_COLON, after)
    return key, _skip(text, after + 1)


def scan_json(  # noqa: C901, PLR0912, PLR0915 # one pass without recursion, as the C++ twin
    buf: bytes | memoryview, max_depth: int, tensors: bytes = b""
) -> list[tuple[int, int]]:
    """Check a whole JSON text and find the tensor data in it.

    Raises ValueError for what is no JSON, for a name given twice in one object, for strings that are no
    UTF-8 or hold half a surrogate pair, and for more than `max_depth` containers within each other. `NaN`,
    `Infinity` and `Inf` count as numbers.

    Returns (start, end) of each `data` member of the objects in the root's array member `tensors`, in
    order: the values that a caller will want to cut out and read on their own. Nesting inside those is
    counted from their own start, and may reach `max_depth` - 1.
    """
    if not 1 <= max_depth <= MAX_DEPTH:
        raise ValueError(f"max_depth must be within 1 and {MAX_DEPTH}")
    text = bytes(buf)
    spans: list[tuple[int, int]] = []
    stack: list[set[bytes] | None] = []  # the names seen in each open object; None for an array
    in_tensors = False  # the root's member `tensors` is open
    data_from = -1  # where the tensor data that is open started
    key = b""
    position = _skip(text, 0)
    if position == len(text):
        raise _at(_EMPTY, position)
    while True:
        # A value starts here.
        start = position
        mark = text[position : position + 1]
        is_data = len(stack) == _TENSOR_DEPTH and in_tensors and stack[-1] is not None and key == b"data"
        complete = mark not in {b"{", b"["}
        if complete:
            position = _scalar(text, position)
            if is_data:
                spans.append((start, position))
        else:
            if is_data:
                data_from = start
            if len(stack) >= (max_depth if data_from < 0 else max_depth + _TENSOR_DEPTH - 1):
                raise _at(f"Nested deeper than {max_depth}.", position)
            if len(stack) == 1 and stack[0] is not None and tensors and key == tensors and mark == b"[":
                in_tensors = True
            names: set[bytes] | None = set() if mark == b"{" else None
            stack.append(names)
            position = _skip(text, position + 1)
            if text[position : position + 1] != (b"]" if names is None else b"}"):
                if names is not None:
                    key, position = _name(text, position, names)
                continue
        # What follows a value: containers that end, then a comma and the next member.
        while stack:
            position = _skip(text, position)
            mark = text[position : position + 1]
            is_object = stack[-1] is not None
            if mark == b"," and complete:
                break
            if mark != (b"}" if is_object else b"]"):
                raise _at(_NO_COMMA[is_object], position)
            position += 1
            stack.pop()
            complete = True
            if data_from >= 0 and len(stack) == _TENSOR_DEPTH:
                spans.append((data_from, position))
                data_from = -1
            in_tensors = in_tensors and len(stack) > 1
        else:
            position = _skip(text, position)
            if position != len(text):
                raise _at(_AFTER_ROOT, position)
            return spans
        position = _skip(text, position + 1)
        names = stack[-1]
        if names is not None:
            key, position = _name(text, position, names)


def count_bytes_elements(buf: bytes | memoryview) -> int:
    """How many elements a raw BYTES tensor holds: 4-byte little-endian length and content, repeated.

    ValueError when a length or a content is cut off, in Triton's words.
    """
    count = position = 0
    size = len(buf)
    while position < size:
        if size - position < 4:
            raise ValueError(
                f"incomplete string length indicator, expecting 4 bytes but only {size - position} bytes available"
            )
        length = struct.unpack_from("<I", buf, position)[0]
        position += 4
        if length > size - position:
            raise ValueError(
                f"incomplete string data, expecting string of length {length} "
                f"but only {size - position} bytes available"
            )
        position += length
        count += 1
    return count


def parse_array(text: bytes | memoryview, datatype: str, expected: int) -> bytes:  # noqa: C901 # likewise
    """The JSON array `text`, flat or nested, as raw little-endian tensor bytes.

    `expected` elements, read in order whatever the nesting. FP32 is the float32 nearest to the decimal text.
    ValueError names the element (counted from 0) that is of the wrong type or out of the datatype's range, or
    says that there are more or fewer than expected.
    """
    if datatype != "BYTES" and datatype not in NUMBER_TYPES:
        raise ValueError(f"no JSON form for {datatype}")
    source = bytes(text)
    if source[:1] != b"[":
        raise ValueError("attempt to access JSON non-array as array")
    out = bytearray()
    count = 0
    depth = 1
    position = _skip(source, 1)
    after_comma = False
    while True:
        mark = source[position : position + 1]
        if mark == b"[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _at(f"Nested deeper than {MAX_DEPTH}.", position)
            position = _skip(source, position + 1)
            after_comma = False
            continue
        if mark != b"]" or after_comma:
            if count >= expected:
                raise ValueError(f"Shape does not match true shape of 'data' field: more than {expected} elements")
            position = _element(source, position, datatype, count, out)
            count += 1
            position = _skip(source, position)
            mark = source[position : position + 1]
        while mark == b"]":
            depth -= 1
            position = _skip(source, position + 1)
            if not depth:
                if position != len(source):
                    raise _at(_AFTER_ROOT, position)
                if count != expected:
                    raise ValueError(
                        f"Shape does not match true shape of 'data' field: expecting {expected} elements, got {count}"
                    )
                return bytes(out)
            mark = source[position : position + 1]
        if mark != b",":
            raise _at(_NO_COMMA[0], position)
        position = _skip(source, position + 1)
        after_comma = True


def _element(source: bytes, position: int, datatype: str, index: int, out: bytearray) -> int:
    """Append one element to `out`; where it ends."""
    if datatype == "BYTES":
        if source[position : position + 1] != b'"':
            raise ValueError(f"element {index}: attempt to access JSON non-string as string")
        value, end = _string(source, position)
        out += struct.pack("<I", len(value)) + value
        return end
    code = NUMBER_TYPES[datatype]
    if code[1] == "b":
        for literal, byte in ((b"true", 1), (b"false", 0)):
            if source.startswith(literal, position):
                out.append(byte)
                return position + len(literal)
        raise ValueError(f"element {index}: attempt to access JSON non-boolean as boolean")
    if code[1] == "f":
        return _float(source, position, code, index, out)
    wrong = "unsigned-integer as unsigned-integer" if code[1] == "u" else "signed-integer as signed-integer"
    match = _INTEGER.match(source, position)
    if match is None or source[match.end() : match.end() + 1] in {b".", b"e", b"E"}:
        raise ValueError(f"element {index}: attempt to access JSON non-{wrong}")
    value_of = int(match.group()) if match.end() - position <= _LONGEST_INTEGER else None
    info = np.iinfo(code)
    if value_of is None or not int(info.min) <= value_of <= int(info.max):
        raise ValueError(f"element {index}: {match.group()[:40].decode()} is out of range for {datatype}")
    out += value_of.to_bytes(int(code[2]), "little", signed=code[1] == "i")
    return match.end()


def _float(source: bytes, position: int, code: str, index: int, out: bytearray) -> int:
    literal = _LITERAL.match(source, position)
    form = "<f" if code == "<f4" else "<d"
    if literal is not None and literal.group()[-1:] in b"Nyf":
        name = literal.group()
        number = float("nan") if name.endswith(b"NaN") else float("-inf" if name[:1] == b"-" else "inf")
        out += struct.pack(form, number)
        return literal.end()
    if literal is not None or source[position : position + 1] not in _NUMBER_STARTS:
        raise ValueError(f"element {index}: attempt to access JSON non-number as double")
    end = _number(source, position)
    token = source[position:end].decode()
    double = float(token)
    if double in {float("inf"), float("-inf")}:
        raise ValueError(f"element {index}: Number too big to be stored in double.")
    out += struct.pack("<d", double) if code == "<f8" else nearest_float32(token, double).tobytes()
    return end


def nearest_float32(token: str, double: float) -> np.float32:
    """The float32 nearest to the decimal `token`, without rounding twice.

    `double` is the nearest double. Only when it lies exactly between two float32 can the decimal itself be on
    the other side of the middle.
    """
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(double)
        other: np.float32 = np.nextafter(single, np.float32(np.inf if double > _exact(single) else -np.inf))
    if _exact(single) == double or Fraction(double) * 2 != _exact(single) + _exact(other):
        return single
    exact = Fraction(token)
    if exact == Fraction(double):
        return single
    up = exact > Fraction(double)
    return single if (single > other) == up else other


def _exact(single: np.float32) -> Fraction:
    """The value; infinity counts as 2^128, the float32 that would follow the largest."""
    return Fraction(float(single)) if np.isfinite(single) else Fraction(2**128) * (1 if single > 0 else -1)


def format_array(raw: bytes | memoryview, datatype: str) -> bytes:
    """Raw tensor bytes as the text of a flat JSON array.

    Floats are the shortest text that reads back as the same value of the datatype, with NaN and Infinity as
    literals, as Triton writes them; the two twins may choose different ones of equal length. ValueError when
    the bytes are no whole number of elements, or BYTES hold what is not UTF-8.
    """
    if datatype == "BYTES":
        return b"[" + b",".join(_quote(element) for element in _elements(raw)) + b"]"
    code = NUMBER_TYPES.get(datatype)
    if code is None:
        raise ValueError(f"no JSON form for {datatype}")
    size = np.dtype(code).itemsize
    if len(raw) % size:
        raise ValueError(f"{len(raw)} bytes are no whole number of {datatype} elements")
    values = np.frombuffer(raw, dtype="|u1" if code == "|b1" else code)
    if code == "|b1":
        return b"[" + b",".join(b"true" if v else b"false" for v in values) + b"]"
    if code[1] in "iu":
        return b"[" + b",".join(b"%d" % int(v) for v in values) + b"]"
    return b"[" + b",".join(_float_text(v) for v in values) + b"]"


def _float_text(value: Any) -> bytes:
    if np.isnan(value):
        return b"NaN"
    if np.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return str(value).encode()


def _elements(raw: bytes | memoryview) -> list[bytes]:
    count_bytes_elements(raw)
    found = []
    position = 0
    while position < len(raw):
        length = struct.unpack_from("<I", raw, position)[0]
        found.append(bytes(raw[position + 4 : position + 4 + length]))
        position += 4 + length
    return found


def _quote(element: bytes) -> bytes:
    try:
        return json.dumps(element.decode("utf-8", "strict"), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("BYTES that are not UTF-8 have no JSON form") from None
