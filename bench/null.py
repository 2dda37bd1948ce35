"""A model server that does nothing: what a real Triton answered, played back by a small C program.

With it the gateway is what the machine is busy with: requests a second for each core, and added latency at half of
the most that it can.
"""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import HTTP_BODY, HTTP_HEADERS, MODEL, PATH, http_request
from bench.native import compiled
from bench.ports import free_ports
from bench.upstream import Server, triton

_PAGES = (
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("POST", "/v2/repository/index"),
    *(("GET", f"/v2/models/{MODEL}{rest}") for rest in ("", "/config", "/versions/1", "/versions/1/config")),
)


@contextmanager
def null_upstream(folder: Path) -> Iterator[Server]:
    """The player, for the length of a with block; a Triton runs until the tape is made.

    Its gRPC address is nobody's: unary calls go over HTTP.
    """
    program, tape = compiled("null_upstream", folder), folder / "tape"
    with triton(folder) as upstream:
        tape.write_bytes(b"".join(_taped(upstream.http)))
    with (folder / "null.log").open("wb") as log:
        process = subprocess.Popen([str(program), str(tape)], stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield Server(f"127.0.0.1:{port}", f"127.0.0.1:{free_ports(1)[0]}", upstream.version)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _taped(address: str) -> Iterator[bytes]:
    for method, path in _PAGES:
        body = b'{"ready":true}' if method == "POST" else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
        yield _entry(method, path, _answer(address, head.encode() + body))
    # A variant of a route names its version; without a route the client's own path travels on.
    for path in (PATH, PATH.replace("/infer", "/versions/1/infer")):
        headers = "".join(f"{name}: {value}\r\n" for name, value in HTTP_HEADERS.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {len(HTTP_BODY)}\r\n\r\n"
        yield _entry("POST", path, _answer(address, head.encode() + HTTP_BODY))


def _entry(method: str, path: str, answer: bytes) -> bytes:
    return f"{method} {path}\n{len(answer)}\n".encode() + answer


def _answer(address: str, request: bytes) -> bytes:
    """The whole answer, head and body."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + _length(data[:end]):
            more = connection.recv(65536)
            if not more:
                raise RuntimeError("Triton closed the connection amid an answer")
            data += more
    return data


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Latency:
    """Of an open loop, in microseconds from the time that was planned."""

    requests: int
    p50: float
    p99: float
    p999: float
    longest: float
    late: float
    """How late the client itself was, 99th percentile."""


def open_loop(program: Path, address: str, request: Path, rate: float, seconds: float, seed: int) -> Latency:
    """`rate` requests a second for so long, after a second that is not judged. RuntimeError when one fails."""
    port = address.rpartition(":")[2]
    words = [str(program), port, str(request), f"{rate:.1f}", str(seconds), "1", "64", str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"open loop at {rate:.0f}/s: {done.stderr.strip()}")
    requests, errors, *rest = done.stdout.split()
    if int(errors):
        raise RuntimeError(f"open loop at {rate:.0f}/s: {errors} of {requests} requests failed")
    return Latency(int(requests), *map(float, rest))


def write_request(folder: Path, address: str) -> Path:
    """The request that the open loop sends."""
    path = folder / "request.http"
    path.write_bytes(http_request(address))
    return path
