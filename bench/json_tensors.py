"""JSON in, JSON out: straight to Triton and through Tidegate, by turns in one run.

One connection, one request at a time: FP32[1,N] through an identity model, `data` as `json.dumps` of a float32
array's `tolist` (18 digits a number, what most Python clients send). `python -m bench.json_tensors`.
"""

import argparse
import json
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import proc
from bench.load import KEY, MODEL, PATH
from bench.machine import machine, versions
from bench.peers import Running, peers
from bench.upstream import triton
from gateway.triton import TritonError

SIZES = (1_000, 10_000, 150_528)
"""Floats a request; the last is one image of 224 x 224 x 3."""
GOALS = {10_000: 0.5, 150_528: 0.25}
"""Most time through Tidegate, as a share of the time without it."""
_TURNS = 12
_CPU_TICKS_WANTED = 30
"""Clock ticks (10 ms) of CPU that the gateway must have used before its CPU per request means anything."""


@dataclass(frozen=True)
class Row:
    """One size. Milliseconds a request; CPU is user and system time of the process tree."""

    floats: int
    requests: int
    """Each way."""
    direct_ms: float
    tidegate_ms: float
    """Medians."""
    direct_quick_ms: float
    tidegate_quick_ms: float
    """What a tenth of the requests stays below: on a machine with other work, those that nothing came between."""
    tidegate_cpu_ms: float | None
    """None: too little was used to be read from /proc."""

    @property
    def ratio(self) -> float:
        return self.tidegate_ms / self.direct_ms

    @property
    def quick_ratio(self) -> float:
        return self.tidegate_quick_ms / self.direct_quick_ms


class Connection:
    """One keep-alive connection that sends the same request again and again."""

    def __init__(self, address: str, body: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nX-API-Key: {KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._buffer = bytearray(len(body) * 4 + 65536)

    def infer(self) -> memoryview:
        """One inference: the body of the answer, valid until the next call."""
        self._socket.sendall(self._request)
        view = memoryview(self._buffer)
        size, begin, end = 0, -1, 0
        while begin < 0 or size < end:
            received = self._socket.recv_into(view[size:])
            if not received:
                raise RuntimeError("the connection was closed amid an answer")
            size += received
            if begin < 0 and (found := self._buffer.find(b"\r\n\r\n", 0, size)) >= 0:
                begin, end = found + 4, found + 4 + _length(self._buffer[:found])
        return view[begin:end]

    def times(self, count: int) -> list[float]:
        """Milliseconds of each of `count` requests."""
        taken = []
        for _ in range(count):
            began = time.perf_counter_ns()
            self.infer()
            taken.append((time.perf_counter_ns() - began) / 1e6)
        return taken

    def close(self) -> None:
        self._socket.close()


def _length(head: bytearray) -> int:
    lines = head.decode("latin-1").lower().split("\r\n")
    lengths = [line.partition(":")[2] for line in lines if line.startswith("content-length:")]
    if " 200 " not in lines[0] or not lengths:
        raise RuntimeError(f"answered {lines[0]!r}")
    return int(lengths[0])


def body_of(floats: int) -> bytes:
    """The request; the same for the same size."""
    rng = random.Random(floats)  # noqa: S311 # no secret
    single = struct.Struct("<f")
    data = [single.unpack(single.pack(rng.random()))[0] for _ in range(floats)]
    request = {"inputs": [{"name": "INPUT0", "shape": [1, floats], "datatype": "FP32", "data": data}]}
    return json.dumps(request).encode()


def measure(direct: str, proxy: Running, floats: int, requests: int) -> Row:
    """One size: `requests` each way in turns, after a few that are not counted."""
    body = body_of(floats)
    ways = [Connection(direct, body), Connection(proxy.http, body)]
    try:
        _same(*(bytes(way.infer()) for way in ways), floats)
        for way in ways:
            way.times(3)
        times: list[list[float]] = [[], []]
        before = proc.cpu_seconds(proxy.pid) if proxy.pid else 0.0
        for _ in range(_TURNS):
            for way, taken in zip(ways, times, strict=True):
                taken.extend(way.times(max(1, requests // _TURNS)))
        used = proc.cpu_seconds(proxy.pid) - before if proxy.pid else 0.0
    finally:
        for way in ways:
            way.close()
    known = used * 100 >= _CPU_TICKS_WANTED
    count = len(times[1])
    quick = [sorted(taken)[len(taken) // 10] for taken in times]
    return Row(floats, count, median(times[0]), median(times[1]), *quick, used / count * 1e3 if known else None)


def _same(direct: bytes, through: bytes, floats: int) -> None:
    """Both answers hold the same float32 values; their texts may differ in digits that mean nothing."""
    pack = struct.Struct(f"<{floats}f").pack
    read = [pack(*json.loads(text)["outputs"][0]["data"]) for text in (direct, through)]
    if read[0] != read[1]:
        raise RuntimeError("Tidegate's answer holds other values than Triton's")


def run(sizes: Sequence[int] = SIZES, requests: int = 240, peer: str = "Tidegate, plain") -> list[Row]:
    """Every size, on a Triton and a gateway of their own. TritonError or RuntimeError: no figures."""
    (chosen,) = (one for one in peers() if one.name == peer)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        directory = Path(name)
        folder = directory / "proxy"
        folder.mkdir()
        with triton(directory, MODEL) as upstream, chosen.start(upstream, folder, "") as proxy:
            return [measure(upstream.http, proxy, floats, requests) for floats in sizes]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| floats | direct, ms | Tidegate, ms | ratio | goal | fastest tenth: direct | Tidegate | ratio "
        "| CPU of Tidegate, ms | requests each way |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        goal = f"<= {GOALS[row.floats]}" if row.floats in GOALS else "-"
        cpu = "-" if row.tidegate_cpu_ms is None else f"{row.tidegate_cpu_ms:.2f}"
        lines.append(
            f"| {row.floats:,} | {row.direct_ms:.2f} | {row.tidegate_ms:.2f} | {row.ratio:.2f} | {goal} "
            f"| {row.direct_quick_ms:.2f} | {row.tidegate_quick_ms:.2f} | {row.quick_ratio:.2f} "
            f"| {cpu} | {row.requests} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print. 1: a goal is missed; 2: nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.json_tensors", description=__doc__)
    parser.add_argument("--requests", type=int, default=240, help="requests of each size each way (default 240)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="floats a request")
    given = parser.parse_args()
    if given.requests < _TURNS or min(given.sizes) < 1:
        parser.error(f"--requests must be at least {_TURNS} and --sizes positive")
    facts = machine()
    try:
        rows = run(given.sizes, given.requests)
    except (TritonError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_average_before']}, Python {versions()['python']}")
    print(table(rows))
    return int(any(row.floats in GOALS and row.ratio > GOALS[row.floats] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
