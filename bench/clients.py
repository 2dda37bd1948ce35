"""Load generators: 8 connections unless said otherwise, one request at a time on each.

wrk drives HTTP and h2load gRPC. Where they are missing an own client takes their place and its name says so:
it is slower, so requests a second and latency are not comparable with those of wrk, CPU per request is.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from bench.load import GRPC_PATH, KEY, grpc_message, http_request

CONNECTIONS = 8
_FEW = 5_000
"""Requests below which wrk's first piece lasts one second instead of two."""


@dataclass
class Run:
    """What a client saw."""

    requests: int = 0
    seconds: float = 0.0
    errors: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0

    def add(self, other: "Run") -> None:
        """A further piece of the same run; percentiles are means weighted by requests."""
        both = self.requests + other.requests
        if both:
            self.p50_us = (self.p50_us * self.requests + other.p50_us * other.requests) / both
            self.p99_us = (self.p99_us * self.requests + other.p99_us * other.requests) / both
        self.requests, self.errors = both, self.errors + other.errors
        self.seconds += other.seconds


def http_client() -> str:
    """The name of the HTTP client."""
    return "wrk" if shutil.which("wrk") else "own asyncio client (wrk is missing: apt-get install wrk)"


def grpc_client() -> str:
    """The name of the gRPC client."""
    if shutil.which("h2load"):
        return "h2load"
    return "own grpc.aio client (h2load is missing: apt-get install nghttp2-client)"


def run_http(address: str, requests: int, files: Path, connections: int = CONNECTIONS) -> Run:
    """At least that many requests."""
    if not shutil.which("wrk"):
        return _own("http", address, requests, connections)
    total, seconds = Run(), 2 if requests >= _FEW else 1
    while total.requests < requests:
        output = _output(
            [
                "wrk",
                "-t1",
                "--timeout=20s",  # wrk's own 2 s make a failure of a busy machine
                f"-c{connections}",
                f"-d{seconds}s",
                "-s",
                str(files / "infer.lua"),
                f"http://{address}",
            ]
        )
        found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
        if found is None:
            raise RuntimeError(f"wrk printed no result:\n{output}")
        count, micros, errors, p50, p99 = map(int, found.groups())
        if not count:
            raise RuntimeError(f"{address} answered nothing:\n{output}")
        total.add(Run(count, micros / 1e6, errors, p50, p99))
        left = requests - total.requests
        seconds = max(1, round(left / total.requests * total.seconds + 0.5))
    return total


def run_grpc(address: str, requests: int, files: Path, answer_bytes: int) -> Run:
    """That many requests. h2load does not read gRPC's status, so the answers' size must be right."""
    if not shutil.which("h2load"):
        return _own("grpc", address, requests, CONNECTIONS)
    log = files / "h2load.log"
    log.unlink(missing_ok=True)
    output = _output(
        [
            *("h2load", "-t1", f"-c{CONNECTIONS}", "-m1", f"-n{requests}", "-d", str(files / "body.grpc")),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", "-H", f"x-api-key: {KEY}"),
            *(f"--log-file={log}", f"http://{address}{GRPC_PATH}"),
        ]
    )
    status = re.search(r"status codes: (\d+) 2xx", output)
    data = re.search(r"headers \(space savings .*?, [\d.]+\w+ \((\d+)\) data|\((\d+)\) data", output)
    if status is None or data is None:
        raise RuntimeError(f"h2load printed no result:\n{output}")
    answered = int(status[1])
    expected = requests * (answer_bytes + 5)
    got = int(next(group for group in data.groups() if group))
    errors = requests - answered
    if got < expected * (answered / requests):
        errors = max(errors, round((expected - got) / (answer_bytes + 5)))
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    spent = re.search(r"finished in ([\d.]+)(us|ms|s|m)", output)
    assert spent is not None
    seconds = float(spent[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[spent[2]]
    return Run(requests, seconds, errors, _at(times, 0.5), _at(times, 0.99))


def _at(ordered: list[int], share: float) -> float:
    return float(ordered[min(int(len(ordered) * share), len(ordered) - 1)]) if ordered else 0.0


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


# --- the own clients, each in a process of its own ---------------------------------------------------------


def _own(kind: str, address: str, requests: int, connections: int) -> Run:
    words = [kind, address, str(requests), str(connections)]
    return Run(**json.loads(_output([sys.executable, "-m", "bench.clients", *words])))


async def _http(address: str, requests: int, connections: int) -> Run:
    host, _, port = address.rpartition(":")
    request, times, errors = http_request(address), [], 0

    async def connection(count: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(count):
            began = time.perf_counter_ns()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            times.append((time.perf_counter_ns() - began) // 1000)
            errors += b" 200 " not in head[:16]
        writer.close()

    return await _measure([connection(requests // connections) for _ in range(connections)], times, lambda: errors)


async def _grpc(address: str, requests: int, connections: int) -> Run:
    message, times, errors = grpc_message(), [], 0

    async def connection(number: int, count: int) -> None:
        nonlocal errors
        # Channels to one address share a connection unless their arguments differ.
        async with grpc.aio.insecure_channel(address, options=[("bench.connection", number)]) as channel:
            call = channel.unary_unary(GRPC_PATH)
            for _ in range(count):
                began = time.perf_counter_ns()
                try:
                    await call(message, metadata=(("x-api-key", KEY),))
                except grpc.RpcError:
                    errors += 1
                times.append((time.perf_counter_ns() - began) // 1000)

    return await _measure([connection(i, requests // connections) for i in range(connections)], times, lambda: errors)


async def _measure(connections: list[Coroutine[None, None, None]], times: list[int], errors: Callable[[], int]) -> Run:
    began = time.perf_counter()
    await asyncio.gather(*connections)
    seconds = time.perf_counter() - began
    times.sort()
    return Run(len(times), seconds, errors(), _at(times, 0.5), _at(times, 0.99))


if __name__ == "__main__":
    _kind, _address, _requests, _connections = sys.argv[1:]
    _run = {"http": _http, "grpc": _grpc}[_kind](_address, int(_requests), int(_connections))
    print(json.dumps(asdict(asyncio.run(_run))))
