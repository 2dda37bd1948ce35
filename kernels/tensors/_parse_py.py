"""JSON arrays to raw tensors in plain Python: the specification that `_parse_c` is compared with.

Contract: the same values, the same exceptions and the same messages as the C++ twin. Clear before fast.
"""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from typing import Final

import numpy as np

from kernels.tensors import _faults
from kernels.tensors._datatypes import NUMBER_TYPES
from kernels.tensors._faults import MAX_DEPTH, fault
from kernels.tensors._tokens_py import LITERAL, number_end, read_string, skip

_NUMBER_STARTS: Final = frozenset({b"-", *(b"%d" % digit for digit in range(10))})
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_LONGEST_INTEGER: Final = len(str(-(2**64)))
"""Digits and sign beyond which an integer without leading zeros fits no datatype."""


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
    position = skip(source, 1)
    after_comma = False
    while True:
        mark = source[position : position + 1]
        if mark == b"[":
            depth += 1
            if depth > MAX_DEPTH:
                raise fault(f"Nested deeper than {MAX_DEPTH}.", position)
            position = skip(source, position + 1)
            after_comma = False
            continue
        if mark != b"]" or after_comma:
            if count >= expected:
                raise ValueError(f"Shape does not match true shape of 'data' field: more than {expected} elements")
            position = _element(source, position, datatype, count, out)
            count += 1
            position = skip(source, position)
            mark = source[position : position + 1]
        while mark == b"]":
            depth -= 1
            position = skip(source, position + 1)
            if not depth:
                if position != len(source):
                    raise fault(_faults.AFTER_ROOT, position)
                if count != expected:
                    raise ValueError(
                        f"Shape does not match true shape of 'data' field: expecting {expected} elements, got {count}"
                    )
                return bytes(out)
            mark = source[position : position + 1]
        if mark != b",":
            raise fault(_faults.NO_COMMA_ARRAY, position)
        position = skip(source, position + 1)
        after_comma = True


def _element(source: bytes, position: int, datatype: str, index: int, out: bytearray) -> int:
    """Append one element to `out`; where it ends."""
    if datatype == "BYTES":
        if source[position : position + 1] != b'"':
            raise ValueError(f"element {index}: attempt to access JSON non-string as string")
        value, end = read_string(source, position)
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
    literal = LITERAL.match(source, position)
    form = "<f" if code == "<f4" else "<d"
    if literal is not None and literal.group()[-1:] in b"Nyf":
        name = literal.group()
        number = float("nan") if name.endswith(b"NaN") else float("-inf" if name[:1] == b"-" else "inf")
        out += struct.pack(form, number)
        return literal.end()
    if literal is not None or source[position : position + 1] not in _NUMBER_STARTS:
        raise ValueError(f"element {index}: attempt to access JSON non-number as double")
    end = number_end(source, position)
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
