"""HTTP/2 frames by hand (RFC 9113; HPACK without tables or Huffman, RFC 7541, 6.2.2)."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 2, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
UNARY = "/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _text(value: str) -> bytes:
    data = value.encode("latin-1")
    size, out = len(data), bytearray()
    if size < 127:
        return bytes([size]) + data
    out.append(127)
    size -= 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + data


def block(*pairs: tuple[str, str]) -> bytes:
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def head(stream: int, *more: tuple[str, str], path: str = UNARY, flags: int = END_HEADERS) -> bytes:
    """The header block of a call."""
    pairs = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    return frame(HEADERS, flags, stream, block(*pairs, *more))


def message(data: bytes, flag: int = 0) -> bytes:
    """gRPC's length-prefixed message."""
    return struct.pack(">BI", flag, len(data)) + data


def window(stream: int, more: int) -> bytes:
    return frame(WINDOW, 0, stream, struct.pack(">I", more))


HELLO = PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK)
"""What a client says before its first call, our settings acknowledged."""


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame; there must be nothing behind the last."""
    found = []
    while data:
        size = int.from_bytes(data[:3])
        found.append((data[3], data[4], int.from_bytes(data[5:9]) & 0x7FFFFFFF, data[9 : 9 + size]))
        assert len(data) >= 9 + size
        data = data[9 + size :]
    return found
