"""Tokens of JSON in plain Python: the specification of `_tokens.pxd`.

Contract: each reader takes the whole text and where the token starts, and says where it ends. ValueError for what is no
such token, with the message of `_faults` and the offset of its start.
"""

from __future__ import annotations

import re
from typing import Final

from kernels.tensors import _faults
from kernels.tensors._faults import fault

_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LITERAL = re.compile(rb"true|false|null|-?NaN|-?Infinity|-?Inf")
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


def skip(text: bytes, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def read_string(text: bytes, start: int) -> tuple[bytes, int]:
    """The string whose opening quote is at `start` as UTF-8, and where it ends. The first fault decides."""
    value = bytearray()
    position = start + 1
    while True:
        char = text[position : position + 1]
        if char == b'"':
            return bytes(value), position + 1
        if not char:
            raise fault(_faults.NO_QUOTE, start)
        if char == b"\\":
            code, position = _escape(text, position + 1, start)
            value += code
        elif char < b" ":
            raise fault(_faults.ENCODING, start)
        else:
            width = 1 if char < b"\x80" else 2 if char < b"\xe0" else 3 if char < b"\xf0" else 4
            try:
                text[position : position + width].decode("utf-8", "strict")
            except UnicodeDecodeError:
                raise fault(_faults.ENCODING, start) from None
            value += text[position : position + width]
            position += width


def _escape(text: bytes, position: int, start: int) -> tuple[bytes, int]:
    """What the escape after the backslash stands for as UTF-8, and where it ends."""
    char = text[position : position + 1]
    if not char:
        raise fault(_faults.NO_QUOTE, start)
    if char in _ESCAPES:
        return _ESCAPES[char], position + 1
    if char != b"u":
        raise fault(_faults.ESCAPE, start)
    code = _hex(text, position + 1, start)
    position += 5
    if 0xD800 <= code <= 0xDFFF:
        if code >= 0xDC00 or text[position : position + 2] != b"\\u":
            raise fault(_faults.SURROGATE, start)
        low = _hex(text, position + 2, start)
        if not 0xDC00 <= low <= 0xDFFF:
            raise fault(_faults.SURROGATE, start)
        position += 6
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
    return chr(code).encode(), position


def _hex(text: bytes, position: int, start: int) -> int:
    match = _HEX.match(text, position)
    if match is None:
        raise fault(_faults.NO_HEX, start)
    return int(match.group(), 16)


def number_end(text: bytes, position: int) -> int:
    """Where the number that starts at `position` ends."""
    match = _NUMBER.match(text, position)
    if match is None:
        raise fault(_faults.VALUE, position)
    follows = text[match.end() : match.end() + 1]
    if follows == b"." and match.group(1) is None and match.group(2) is None:
        raise fault(_faults.NO_FRACTION, position)
    if follows in {b"e", b"E"} and match.group(2) is None:
        raise fault(_faults.NO_EXPONENT, position)
    return match.end()


def scalar_end(text: bytes, position: int) -> int:
    """Where the string, number or literal that starts at `position` ends."""
    if text[position : position + 1] == b'"':
        return read_string(text, position)[1]
    literal = LITERAL.match(text, position)
    return literal.end() if literal is not None else number_end(text, position)
