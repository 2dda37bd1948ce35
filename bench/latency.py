"""What a proxy adds to one request at a time: blocking sockets, direct and through the proxy by turns."""

import http.client
import json
import re
import socket
import struct
import time
from dataclasses import dataclass

from bench.load import TENSOR, http_request

ROUNDS = 8
"""Turns; noise that lasts longer than one falls on both sides."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Added:
    """Microseconds; `added` is the difference of the percentiles."""

    direct_p50: float
    direct_p99: float
    p50: float
    p99: float
    requests: int

    @property
    def added_p50(self) -> float:
        return self.p50 - self.direct_p50

    @property
    def added_p99(self) -> float:
        return self.p99 - self.direct_p99


class Connection:
    """One keep-alive connection."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = http_request(address)

    def infer(self) -> bytes:
        """One inference: head and body of the answer."""
        self._socket.sendall(self._request)
        data = self._socket.recv(65536)
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if b" 200 " not in head[:16] or length is None:
            raise RuntimeError(f"answered {data[:300]!r}")
        while len(body) < int(length[1]):
            body += self._more()
        return body

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError("the connection was closed amid an answer")
        return data

    def close(self) -> None:
        self._socket.close()

    def times(self, count: int) -> list[int]:
        """Nanoseconds of each of `count` requests."""
        taken = []
        for _ in range(count):
            began = time.perf_counter_ns()
            self.infer()
            taken.append(time.perf_counter_ns() - began)
        return taken


def check_http(address: str, seconds: float = 30.0) -> None:
    """One inference whose tensor comes back; waits for a proxy that is not ready yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = Connection(address)
            try:
                body = connection.infer()
            finally:
                connection.close()
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            continue
        if not body.endswith(TENSOR) and not _in_json(body):
            raise RuntimeError(f"{address} answered another tensor than was sent")
        return


def _in_json(body: bytes) -> bool:
    """Whether the tensor came back as JSON, as the KServe transformer answers whatever was asked for."""
    try:
        (output,) = json.loads(body)["outputs"]
        return struct.pack("<32f", *output["data"]) == TENSOR
    except (ValueError, KeyError, TypeError, struct.error):
        return False


def get(address: str, path: str) -> str:
    """A page's text."""
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def added(direct: str, proxy: str, requests: int) -> Added:
    """The percentiles of `requests` each, taken by turns."""
    ways = [Connection(direct), Connection(proxy)]
    times: list[list[int]] = [[], []]
    for way in ways:
        way.times(50)
    for _ in range(ROUNDS):
        for way, taken in zip(ways, times, strict=True):
            taken.extend(way.times(requests // ROUNDS))
    for way in ways:
        way.close()
    (d50, d99), (p50, p99) = (_percentiles(sorted(taken)) for taken in times)
    return Added(d50, d99, p50, p99, len(times[1]))


def _percentiles(ordered: list[int]) -> tuple[float, float]:
    """The 50th and the 99th in microseconds."""
    return ordered[len(ordered) // 2] / 1000, ordered[int(len(ordered) * 0.99)] / 1000
