"""Raw tensors to JSON arrays in plain Python: the specification that `_format_c` is compared with.

Contract: the same texts, the same exceptions and the same messages as the C++ twin. Clear before fast.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from kernels.tensors._datatypes import NUMBER_TYPES


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


def format_array(raw: bytes | memoryview, datatype: str) -> bytes:
    """Raw tensor bytes as the text of a flat JSON array.

    Floats are the shortest digits that read back as the same value of the datatype, the nearest of several, in the
    form of Python's `repr`: plain from 0.0001 to below 10^16, else with an exponent; a whole number keeps its `.0`.
    NaN and Infinity are literals, as Triton writes them. ValueError when the bytes are no whole number of elements,
    or BYTES hold what is not UTF-8.
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
    if not value:
        return b"-0.0" if np.signbit(value) else b"0.0"
    mantissa, exponent = np.format_float_scientific(abs(value), unique=True, trim="-").split("e")
    sign, digits, point = "-" if value < 0 else "", mantissa.replace(".", ""), int(exponent) + 1
    if -4 < point <= 0:
        text = "0." + "0" * -point + digits
    elif 0 < point <= 16:
        whole = digits[:point].ljust(point, "0")
        text = f"{whole}.{digits[point:] or '0'}"
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+03d}"
    return (sign + text).encode()


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
