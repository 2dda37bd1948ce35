"""Attacks on the gRPC door: raw HTTP/2 frames (RFC 9113) and protobuf messages."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

import grpc
from cases_http import many_idle
from hostile_site import BODY_LIMIT, TENSORS, UNARY, Case, Site, pieces, read_all, sent
from tritonclient.grpc import service_pb2 as pb

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """An HPACK string without Huffman (RFC 7541, 5.2)."""
    size, out = len(value), bytearray()
    if size < 127:
        return bytes([size]) + value
    out.append(127)
    size -= 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + value


def field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + text(name) + text(value)


CALL = b"".join(
    field(*pair)
    for pair in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", UNARY.encode()),
        (b":authority", b"gateway"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)
STATUS = (b"grpc-status", b"\x9a\xca\xc8\xb2\x124\xda\x8f")
"""The name of the status as HPACK has it: as it is, and in Huffman's code (RFC 7541, appendix B)."""
HELLO = PREFACE + frame(SETTINGS, 0, 0)
OPEN = frame(HEADERS, END_HEADERS, 1, CALL)


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, stream and payload of each whole frame."""
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3])
        if len(data) < 9 + size:
            break
        found.append((data[3], int.from_bytes(data[5:9]) & 0x7FFFFFFF, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def greet(connection: socket.socket) -> None:
    """A proper beginning: without the acknowledgement of its settings the server leaves, whatever the attack."""
    after, seen = connection.gettimeout(), b""
    connection.settimeout(30)  # the attacks' own are shorter than an accept on a busy machine
    connection.sendall(HELLO)
    while SETTINGS not in {kind for kind, _, _ in frames(seen)}:
        seen += connection.recv(65536)
    connection.sendall(frame(SETTINGS, 1, 0))
    connection.settimeout(after)


def verdict(data: bytes, ended: bool) -> str:
    """What the server made of it: GOAWAY, a status, a reset, or silence."""
    kinds = {kind for kind, _, _ in frames(data)}
    statuses = [
        payload.partition(name)[2]
        for kind, _, payload in frames(data)
        for name in STATUS
        if kind == HEADERS and name in payload
    ]
    if 7 in kinds:
        return "GOAWAY"
    if statuses:
        return f"status {statuses[0][1 : 1 + statuses[0][0]].decode('latin-1')}"
    if RST in kinds:
        return "RST_STREAM"
    return "closed" if ended else "no answer"


def raw(start: bytes, repeat: bytes = b"", count: int = 0, wait: float = 8.0) -> Callable[[Site], str]:
    """Send frames, a flood of them, then listen for up to `wait` seconds; closing afterwards is the client's part."""

    def run(site: Site) -> str:
        out, ended = b"", False
        with site.connect("grpc", timeout=wait) as connection:
            with contextlib.suppress(ConnectionError, TimeoutError):
                greet(connection)
                connection.sendall(start)
                for _ in range(count):
                    connection.sendall(repeat)
            until = time.monotonic() + wait
            with contextlib.suppress(ConnectionError, TimeoutError):
                while time.monotonic() < until:
                    piece = connection.recv(65536)
                    if not piece:
                        ended = True
                        break
                    out += piece
                    if verdict(out, ended) != "no answer":  # what else it has to say comes soon
                        connection.settimeout(0.2)
        return verdict(out, ended)

    return run


swallowed = partial(raw, wait=2.0)
"""For what may get no answer."""


def rapid_reset(site: Site) -> str:
    """CVE-2023-44487: streams opened and reset at once, 20,000 of them."""
    out = b""
    with site.connect("grpc", timeout=5) as connection:
        greet(connection)
        try:
            for first in range(1, 40_001, 200):
                ids = range(first, first + 200, 2)
                connection.sendall(
                    b"".join(frame(HEADERS, END_HEADERS, n, CALL) + frame(RST, 0, n, b"\0\0\0\x08") for n in ids)
                )
        except (ConnectionError, TimeoutError):
            return "closed"
        connection.settimeout(2)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(65536):
                out += piece
    return "GOAWAY" if 7 in {kind for kind, _, _ in frames(out)} else "bounded"


def slow_body(site: Site) -> str:
    """A message that comes a byte at a time: grpcio has no clock for it, and holds the call like any other."""
    out = b""
    with site.connect("grpc", timeout=0.3) as connection:
        greet(connection)
        connection.sendall(OPEN + frame(DATA, 0, 1, struct.pack(">BI", 0, 1000)))
        for _ in range(10):
            try:
                connection.sendall(frame(DATA, 0, 1, b"\0"))
                out += connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return "closed"
    return verdict(out, False)


def half_open(site: Site) -> str:
    """The client's half is closed in the middle of a message: the server closes its own."""
    with site.connect("grpc") as connection:
        greet(connection)
        connection.sendall(OPEN + frame(DATA, 0, 1, struct.pack(">BI", 0, 100) + b"half"))
        connection.shutdown(socket.SHUT_WR)
        return verdict(read_all(connection), True)


def many_calls(site: Site) -> str:
    """Twice as many calls as one connection may have at a time, all without their message."""
    with site.connect("grpc", timeout=2) as connection:
        greet(connection)
        out = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(b"".join(frame(HEADERS, END_HEADERS, n, CALL) for n in range(1, 4097, 2)))
            while piece := connection.recv(65536):
                out += piece
    return verdict(out, False)


def infer(stream: int, floats: int) -> bytes:
    """A whole call; its answer is as long as it is."""
    message = pb.ModelInferRequest(model_name="identity_fp32", raw_input_contents=[bytes(4 * floats)])
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, floats])
    data = message.SerializeToString()
    data = struct.pack(">BI", 0, len(data)) + data
    parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    return frame(HEADERS, END_HEADERS, stream, CALL) + b"".join(
        frame(DATA, END_STREAM if part is parts[-1] else 0, stream, part) for part in parts
    )


def drips(site: Site) -> str:
    """An answer that is taken four bytes at a time: the call's window opens by no more."""
    out, until = b"", time.monotonic() + 15
    with site.connect("grpc") as connection:
        greet(connection)
        connection.settimeout(0.1)
        connection.sendall(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0") + infer(1, 20_000))
        while verdict(out, False) == "no answer" and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                connection.sendall(frame(WINDOW, 0, 1, struct.pack(">I", 4)))
                out += connection.recv(65536)
            time.sleep(0.05)
    return verdict(out, False)


def reads(nbytes: int, seconds: float) -> Callable[[Site], str]:
    """Windows as wide as they can be, and a client that takes so many bytes four times a second: whether it is cut."""
    wide = frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFF0000 - 65535))
    requests = wide + b"".join(infer(stream, 20_000) for stream in range(1, 129, 2))

    def run(site: Site) -> str:
        with site.connect("grpc", receive=4096) as connection:
            greet(connection)
            connection.setblocking(False)
            until, sent = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                try:
                    with contextlib.suppress(BlockingIOError):
                        while sent < len(requests):
                            sent += connection.send(requests[sent : sent + 65536])
                    with contextlib.suppress(BlockingIOError):
                        wanted = nbytes
                        while wanted > 0:
                            taken = len(connection.recv(wanted))
                            if not taken:
                                return "closed"
                            wanted -= taken
                except ConnectionError:
                    return "closed"
                # What came before a reset would have to be read first for `recv` to say so.
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return "closed"
                time.sleep(0.25)
        return "open"

    return run


ENGINE = os.environ.get("TIDEGATE_TEST_GRPC_ENGINE", "nghttp2")
"""grpcio has no floor: docs/hostile-wire.md, "What remains"."""
FLOOR = ENGINE == "nghttp2"
ANY = (
    "GOAWAY",
    "RST_STREAM",
    "closed",
    "status 1",
    "status 2",
    "status 3",
    "status 5",
    "status 8",
    "status 12",
    "status 13",
    "status 14",
)
BOUNDED = (*ANY, "no answer", "bounded")
"""Harmless floods may be swallowed, as long as the good client is served and memory stays within bounds."""
BOMB = b"\x40" + text(b"x") + text(b"y" * 4000) + b"\xbe" * 30_000
MESSAGE = struct.pack(">BI", 0, 10) + b"x" * 10

FRAMES = [
    Case("garbage in place of the preface", sent(bytes(range(256)) * 16, "grpc"), ("closed",), door="grpc"),
    Case(
        "HTTP/1.1 on the gRPC port", sent(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "grpc"), ("closed", "400"), door="grpc"
    ),
    Case("a connection that says nothing", sent(b"", "grpc"), ("closed",), 20, door="grpc", waits=True),
    Case("half of the preface, then nothing", sent(PREFACE[:10], "grpc"), ("closed",), 20, door="grpc", waits=True),
    Case(
        "the preface, a byte each 0.1 s",
        pieces(b"P", *(PREFACE[n : n + 1] for n in range(1, 24)), b"\0", pause=0.1, door="grpc"),
        ("closed",),
        20,
        door="grpc",
        waits=True,
    ),
    Case("headers without their end", swallowed(frame(HEADERS, 0, 1, CALL)), BOUNDED, door="grpc", waits=True),
    Case("slow body (a byte each 0.3 s)", slow_body, BOUNDED, 20, door="grpc", waits=True),
    Case("closed half in the middle of a message", half_open, ANY, door="grpc"),
    Case("more calls at a time than allowed", many_calls, BOUNDED, 20, door="grpc"),
    Case("rapid reset, 20,000 streams", rapid_reset, BOUNDED, 30, door="grpc"),
    Case("HPACK bomb (30,000 references)", raw(frame(HEADERS, END_HEADERS, 1, CALL + BOMB[:16_000])), ANY, door="grpc"),
    Case("HPACK index that is none", raw(frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x7f")), ANY, door="grpc"),
    Case("HPACK integer of 100 bytes", raw(frame(HEADERS, END_HEADERS, 1, b"\xff" * 100)), ANY, door="grpc"),
    Case(
        "CONTINUATION flood",
        swallowed(frame(HEADERS, 0, 1, CALL), frame(CONTINUATION, 0, 1, field(b"x", b"y" * 1000)), 20_000),
        BOUNDED,
        20,
        door="grpc",
    ),
    Case(
        "empty CONTINUATION flood",
        swallowed(frame(HEADERS, 0, 1, CALL), frame(CONTINUATION, 0, 1) * 100, 2_000),
        BOUNDED,
        20,
        door="grpc",
    ),
    Case(
        "SETTINGS flood",
        swallowed(b"", frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64") * 100, 1_000),
        BOUNDED,
        20,
        door="grpc",
    ),
    Case("PING flood", swallowed(b"", frame(PING, 0, 0, bytes(8)) * 100, 1_000), BOUNDED, 20, door="grpc"),
    Case("empty DATA flood", swallowed(OPEN, frame(DATA, 0, 1) * 100, 1_000), BOUNDED, 20, door="grpc"),
    Case(
        "WINDOW_UPDATE beyond 2^31",
        swallowed(OPEN, frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff"), 3),
        BOUNDED,
        door="grpc",
        waits=True,
    ),
    Case("WINDOW_UPDATE of 0", raw(OPEN + frame(WINDOW, 0, 1, bytes(4))), ANY, door="grpc"),
    Case(
        "a window of 0, the answer not taken",
        swallowed(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0") + OPEN + frame(DATA, END_STREAM, 1, MESSAGE)),
        BOUNDED,
        door="grpc",
        waits=True,
    ),
    Case(
        "an answer taken four bytes at a time",
        drips,
        ("RST_STREAM",) if FLOOR else ("no answer",),
        25,
        door="grpc",
        waits=True,
    ),
    Case(
        "a client that reads 2 KiB a second",
        reads(512, 20),
        ("closed",) if FLOOR else ("open",),
        25,
        door="grpc",
        waits=True,
    ),
    Case("a client that reads 64 KiB a second", reads(16 * 1024, 8), ("open",), 25, door="grpc", waits=True),
    Case("a frame larger than allowed", raw(frame(DATA, 0, 1, bytes(17_000_000 - 300_000))), ANY, 20, door="grpc"),
    Case("DATA on a stream that is none", swallowed(frame(DATA, 0, 7, b"x")), BOUNDED, door="grpc", waits=True),
    Case("an even stream id", swallowed(frame(HEADERS, END_HEADERS, 2, CALL)), BOUNDED, door="grpc", waits=True),
    Case("SETTINGS of a wrong length", raw(frame(SETTINGS, 0, 0, b"xxx")), ANY, door="grpc"),
    Case(
        "length beyond the message",
        swallowed(OPEN + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, 1000) + b"x")),
        BOUNDED,
        door="grpc",
        waits=True,
    ),
    Case(
        "length beyond the limit",
        raw(OPEN + frame(DATA, 0, 1, struct.pack(">BI", 0, 2**32 - 1) + b"x")),
        ANY,
        door="grpc",
    ),
    Case(
        "compressed flag, no encoding",
        raw(OPEN + frame(DATA, END_STREAM, 1, struct.pack(">BI", 1, 10) + b"x" * 10)),
        ANY,
        door="grpc",
    ),
    Case(
        "a flag that is none",
        raw(OPEN + frame(DATA, END_STREAM, 1, struct.pack(">BI", 77, 10) + b"x" * 10)),
        ANY,
        door="grpc",
    ),
    Case(
        "gzip bomb in a message",
        lambda site: bomb(site),  # noqa: PLW0108  defined below
        ANY,
        20,
        door="grpc",
    ),
    Case("more idle connections than allowed", many_idle("grpc"), ("closed",), 20, door="grpc"),
]


def bomb(site: Site) -> str:
    """A message that inflates to sixteen times the limit."""
    encoded = frame(HEADERS, END_HEADERS, 1, CALL + field(b"grpc-encoding", b"gzip"))
    return raw(encoded + compressed(bytes(16 * BODY_LIMIT)))(site)


def compressed(plain: bytes) -> bytes:
    body = gzip.compress(plain, 1)
    body = struct.pack(">BI", 1, len(body)) + body
    parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    return b"".join(frame(DATA, END_STREAM if part is parts[-1] else 0, 1, part) for part in parts)


def called(data: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> Callable[[Site], str]:
    """A whole call with these bytes as its message; the status is the answer."""

    def run(site: Site) -> str:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 1 << 26),
            ("grpc.absolute_max_metadata_size", 1 << 26),
        ]
        with grpc.insecure_channel(site.gateway.grpc, options=options) as made:
            try:
                made.unary_unary(UNARY)(data, timeout=20, metadata=metadata)
            except grpc.RpcError as error:
                return error.code().name
        return "OK"

    return run


def request(**fields: object) -> bytes:
    message = pb.ModelInferRequest(model_name="identity_fp32")
    base: dict = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2]} | fields
    message.inputs.add(**base).contents.fp32_contents.extend([1, 2])
    return message.SerializeToString()


def raw_contents(*contents: bytes, **fields: object) -> bytes:
    """A request whose data stand in `raw_input_contents`."""
    message = pb.ModelInferRequest(model_name="identity_fp32", raw_input_contents=contents)
    message.inputs.add(**({"name": "INPUT0", "datatype": "FP32", "shape": [1, 2]} | fields))
    return message.SerializeToString()


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def nested(depth: int) -> bytes:
    """Groups of an unknown field within each other."""
    return b"\xa3\x06" * depth + b"\xa4\x06" * depth


BAD = ("INVALID_ARGUMENT",)
MESSAGES = [
    Case(name, called(data), expect, seconds, door="grpc")
    for name, data, expect, seconds in (
        ("no protobuf", b"\xff" * 100, BAD, 30),
        ("protobuf cut off", request()[:-3], BAD, 30),
        ("unknown groups nested 100,000 deep", nested(100_000), BAD, 30),
        ("2,000,000 unknown fields", request() + b"\xa0\x06\x01" * 1_000_000, (*BAD, "OK"), 30),
        ("1,900,000 empty raw contents", request() + b"\x3a\x00" * 1_900_000, BAD, 30),
        ("1,900,000 empty inputs", request() + b"\x2a\x00" * 1_900_000, BAD, 30),
        (f"{TENSORS + 1} inputs", request() * (TENSORS + 1), BAD, 30),
        ("a field length beyond 2^32", b"\x0a" + varint(2**35) + b"x", BAD, 30),
        ("a varint of 11 bytes", b"\x0a" + b"\xff" * 11, BAD, 30),
        ("invalid UTF-8 in a name", b"\x0a\x02\xff\xfe", BAD, 30),
        ("a shape beyond 2^63", request(shape=[2**40, 2**40]), BAD, 30),
        ("a dimension below zero", request(shape=[-1, -2]), BAD, 30),
        ("a shape of 3,000,000 dimensions", request(shape=[1] * 3_000_000), BAD, 30),
        ("more contents than the shape says", request(shape=[1, 1]), BAD, 30),
        ("raw contents shorter than the shape", raw_contents(bytes(7)), BAD, 30),
        ("raw contents longer than the shape", raw_contents(bytes(9)), BAD, 30),
        ("more raw contents than inputs", raw_contents(bytes(8), bytes(8)), BAD, 30),
        ("no raw contents and no data", raw_contents(), BAD, 30),
        ("raw strings that say too much", raw_contents(b"\xff" * 8, datatype="BYTES"), BAD, 30),
        ("a shape of 2^63 - 1 strings", raw_contents(b"", datatype="BYTES", shape=[2**63 - 1]), BAD, 30),
        ("a message beyond limits.body", request() + bytes(BODY_LIMIT), ("RESOURCE_EXHAUSTED",), 30),
        ("a message far beyond limits.body", request() + bytes(4 * BODY_LIMIT), ("RESOURCE_EXHAUSTED",), 30),
    )
]
METADATA = [
    Case(
        "metadata of 1 MiB",
        called(request(), tuple((f"k{n}", "v" * 1000) for n in range(1000))),
        ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED"),
        door="grpc",
    ),
    Case(
        "one value of 100 KiB",
        called(request(), (("k", "v" * 100_000),)),
        ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED"),
        door="grpc",
    ),
]
CASES = [*FRAMES, *MESSAGES, *METADATA]
