"""Large tensors: FP32[1,150528] in binary over HTTP, direct, through nginx and through the gateway.

`python -m bench.large_tensors`: one connection, one request at a time, the ways by turns within each round, so that
noise falls on all of them. Time is the median of the requests; CPU is user and system time of the proxy's processes,
and of Triton's, over all requests. nginx stands twice: as its documentation says, and tuned for large bodies (no
temporary files, nothing held back). Tidegate stands twice: with shared memory to Triton and without.
"""

import argparse
import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import configs, proc
from bench.load import PATH
from bench.peers import Missing, Running, _nginx_binary, _process, _tidegate
from bench.ports import free_ports
from bench.upstream import Server, triton

ELEMENTS = 150_528
"""One image of 224x224x3."""
ROUNDS = 8
_BODY = "client_max_body_size 64m;"
_TUNED = (
    f"{_BODY} client_body_buffer_size 64k; proxy_request_buffering off;"
    " proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k;"
)


class Client:
    """One kept-alive connection that sends one request again and again; blocking, no copy but the kernel's."""

    def __init__(self, address: str, elements: int) -> None:
        self.tensor = struct.pack(f"<{elements}f", *(i / 7 for i in range(elements)))
        shape = {"name": "INPUT0", "shape": [1, elements], "datatype": "FP32"}
        head = json.dumps({
            "inputs": [shape | {"parameters": {"binary_data_size": len(self.tensor)}}],
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
        }).encode()  # fmt: skip
        self._request = (
            f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(self.tensor)}\r\n\r\n"
        ).encode() + head + self.tensor  # fmt: skip
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = memoryview(bytearray(len(self._request) + 64 * 1024))

    def infer(self) -> memoryview:
        """One inference; the tensor that came back."""
        self._socket.sendall(self._request)
        got, end = 0, -1
        while end < 0:
            got += self._more(got)
            end = bytes(self._answer[:4096]).find(b"\r\n\r\n", 0, got)
        head = bytes(self._answer[:end]).lower().split(b"\r\n")
        if b" 200 " not in head[0]:
            raise RuntimeError(f"answered {bytes(self._answer[:got])[:300]!r}")
        length = next(int(line.partition(b":")[2]) for line in head if line.startswith(b"content-length:"))
        while got < end + 4 + length:
            got += self._more(got)
        return self._answer[got - len(self.tensor) : got]

    def _more(self, got: int) -> int:
        count = self._socket.recv_into(self._answer[got:])
        if not count:
            raise RuntimeError("the connection was closed amid an answer")
        return count

    def close(self) -> None:
        self._socket.close()


@dataclass
class Way:
    """One way to the model server, and what was found of it."""

    name: str
    client: Client
    pid: int | None
    times: list[float] = field(default_factory=list)
    """Seconds of each request."""
    cpu: float = 0.0
    """Seconds, of the proxy."""
    triton_cpu: float = 0.0
    """Seconds, of Triton and its backends."""


@contextmanager
def _nginx(upstream: Server, directory: Path, body: str) -> Iterator[Running]:
    directory.mkdir()
    http = f"127.0.0.1:{free_ports(1)[0]}"
    config = directory / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(user + configs.nginx(directory, upstream, http).replace(_BODY, body))
    with _process([_nginx_binary(), "-c", str(config), "-p", str(directory)], directory / "nginx.out", http) as pid:
        yield Running(pid, http, "")


@contextmanager
def _gateway(
    upstream: Server, directory: Path, shared_memory: str | None, checkout: Path | None = None
) -> Iterator[Running]:
    directory.mkdir()
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    settings: dict[str, Any] = json.loads(configs.tidegate_plain(upstream, http, grpc, directory))
    if shared_memory is not None:
        settings["upstreams"]["triton"]["shared_memory"] = shared_memory
    with _tidegate(json.dumps(settings), directory, http, checkout) as pid:
        yield Running(pid, http, grpc)


def _starts(
    directory: Path, upstream: Server, baseline: Path | None
) -> dict[str, Callable[[], AbstractContextManager[Running]]]:
    found = {
        "nginx": lambda: _nginx(upstream, directory / "nginx", _BODY),
        "nginx, tuned": lambda: _nginx(upstream, directory / "nginx-tuned", _TUNED),
        "Tidegate, copied": lambda: _gateway(upstream, directory / "copied", "off"),
        "Tidegate": lambda: _gateway(upstream, directory / "shared", "auto"),
    }
    if baseline is not None:
        found["baseline"] = lambda: _gateway(upstream, directory / "baseline", None, baseline.resolve())
    return found


def run(
    elements: int = ELEMENTS, requests: int = 2000, wanted: Sequence[str] = (), baseline: Path | None = None
) -> list[Way]:
    """Every way that this machine has, `requests` each; ways whose names hold none of `wanted` are left out."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        upstream = stack.enter_context(triton(directory))
        started = [("direct", Running(None, upstream.http, upstream.grpc))]
        for way, start in _starts(directory, upstream, baseline).items():
            if wanted and not any(part in way for part in wanted):
                continue
            try:
                started.append((way, stack.enter_context(start())))
            except Missing as reason:
                print(f"==> skipping {way}: {reason}", flush=True)
        # Only now: connections that idle while others start would be closed.
        ways = [Way(way, Client(running.http, elements), running.pid) for way, running in started]
        for each in ways:
            stack.callback(each.client.close)
        _measure(ways, requests, server_pid())
        return ways


def server_pid() -> int:
    """The Triton that this process started."""
    children = proc.tree(os.getpid())
    return next(pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver")


def _measure(ways: list[Way], requests: int, server: int) -> None:
    for way in ways:
        for _ in range(60):  # connections, code paths, what is learnt of the model
            try:
                back = way.client.infer()
            except (OSError, RuntimeError) as error:
                raise RuntimeError(f"{way.name}: {error}") from error
        if back != way.client.tensor:
            raise RuntimeError(f"{way.name} answered another tensor than was sent")
    for _ in range(ROUNDS):
        for way in ways:
            before = 0.0 if way.pid is None else proc.cpu_seconds(way.pid), proc.cpu_seconds(server)
            for _ in range(requests // ROUNDS):
                began = time.perf_counter()
                way.client.infer()
                way.times.append(time.perf_counter() - began)
            if way.pid is not None:
                way.cpu += proc.cpu_seconds(way.pid) - before[0]
            way.triton_cpu += proc.cpu_seconds(server) - before[1]


def table(ways: list[Way]) -> str:
    """In Markdown."""
    direct = statistics.median(ways[0].times)
    lines = ["| way | p50 ms | of direct | CPU of the proxy, us | CPU of Triton, us |", "|---|---|---|---|---|"]
    for way in ways:
        p50, count = statistics.median(way.times), len(way.times)
        cpu = "" if way.pid is None else f"{way.cpu / count * 1e6:,.0f}"
        lines.append(
            f"| {way.name} | {p50 * 1e3:.2f} | {p50 / direct:.2f} | {cpu} | {way.triton_cpu / count * 1e6:,.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.large_tensors", description=__doc__)
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="of the tensor (default 150528)")
    parser.add_argument("--requests", type=int, default=2000, help="of each way (default 2000)")
    parser.add_argument("--ways", default="", help="comma-separated parts of names, such as `nginx,copied`")
    parser.add_argument("--baseline", type=Path, help="checkout of another revision to measure in the same run")
    given = parser.parse_args()
    wanted = [part for part in given.ways.split(",") if part]
    print(table(run(given.elements, given.requests, wanted, given.baseline)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
