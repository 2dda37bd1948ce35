"""Clients that do not behave. Nothing is asked of their answers: only that everybody else is served."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable

from driving import fp32

_BODY = json.dumps(fp32()).encode()
_HEAD = b"POST /v2/models/%b/%b HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n"
_EVENTS = b'{"IN":[1,2,3,4],"DELAY":[50,50,50,50],"WAIT":[0]}'
_LARGE = 1 << 18


def _infer(key: str, body: bytes, sent: bytes) -> bytes:
    return _HEAD % (b"plain", b"infer", key.encode(), len(body)) + sent


def _leaves(sock: socket.socket, key: str, _: threading.Event) -> None:
    sock.sendall(_infer(key, _BODY, _BODY))


def _leaves_amid(sock: socket.socket, key: str, _: threading.Event) -> None:
    sock.sendall(_infer(key, _BODY, _BODY[:20]))


def _leaves_events(sock: socket.socket, key: str, _: threading.Event) -> None:
    sock.sendall(_HEAD % (b"stream", b"generate_stream", key.encode(), len(_EVENTS)) + _EVENTS)
    sock.recv(64)  # the first event, or the head


def _slow(sock: socket.socket, key: str, stop: threading.Event) -> None:
    for byte in _infer(key, _BODY, b"")[:120]:
        if stop.wait(0.1):
            return
        sock.sendall(bytes([byte]))


def _reads_slowly(sock: socket.socket, key: str, stop: threading.Event) -> None:
    values = {"name": "INPUT0", "datatype": "FP32", "shape": [1, _LARGE], "data": [0.5] * _LARGE}
    body = json.dumps({"inputs": [values]}).encode()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(_infer(key, body, body))
    for _ in range(30):
        if stop.wait(0.1):
            return
        sock.recv(1024)


def _hostile(sock: socket.socket, key: str, _: threading.Event) -> None:
    sock.sendall(
        random.choice(
            (
                b"POST /v2/models/plain/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
                b"transfer-encoding: chunked\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                random.randbytes(4096),
                b"GET /" + b"a" * 100_000,
                _infer(key, b"[" * 40_000, b"[" * 40_000),
            )
        )
    )
    sock.recv(65536)


def _hostile_frames(sock: socket.socket, _: str, __: threading.Event) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    sock.sendall(
        random.choice(
            (
                random.randbytes(4096),
                preface + random.randbytes(4096),
                preface + bytes.fromhex("000004080000000000ffffffff"),  # WINDOW_UPDATE beyond 2^31-1
                preface + bytes.fromhex("ffffff010400000001"),  # HEADERS of 16 MiB
                preface + bytes.fromhex("000004030000000001") + bytes(4),  # RST_STREAM of an idle stream
            )
        )
    )
    sock.recv(65536)


def _silent(_: socket.socket, __: str, stop: threading.Event) -> None:
    stop.wait(3)


Rude = Callable[[socket.socket, str, threading.Event], None]

HTTP: dict[str, Rude] = {
    "client leaves": _leaves,
    "client leaves amid body": _leaves_amid,
    "client leaves events": _leaves_events,
    "slow client": _slow,
    "slow reader": _reads_slowly,
    "hostile bytes": _hostile,
    "silent client": _silent,
}
GRPC: dict[str, Rude] = {"hostile frames": _hostile_frames, "silent grpc client": _silent}
