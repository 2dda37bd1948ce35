"""A gateway under attack: the process, a good client on connections of its own, and what the worker's memory does."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from gateway_fixture import Gateway
from tritonclient.grpc import service_pb2 as pb

BODY_LIMIT = 4 * 1024 * 1024
TENSORS = 512
CONNECTIONS = 300
# What each limit is here: short, so that the table is done in minutes. The defaults are in docs/settings.md.
SETTINGS = f"""
upstreams: {{triton: {{http: "$TRITON_HTTP", grpc: "$TRITON_GRPC"}}}}
limits: {{body: {BODY_LIMIT}, header_timeout: 1s, body_timeout: 1s, send_timeout: 2s, idle_timeout: 3s,
  connections: {CONNECTIONS}, tensors: {TENSORS}}}
"""
GOOD = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}).encode()
PATH = "/v2/models/identity_fp32/infer"
UNARY = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Site:
    """The gateway as an attacker sees it."""

    gateway: Gateway
    worker: int
    ca: bytes | None = None
    """Of a gateway whose doors speak TLS."""
    other: str = ""
    """Where attacks on HTTP go when not to `listen.http`."""

    def connect(self, door: str = "http", receive: int = 0, timeout: float = 30.0) -> socket.socket:
        """A plain connection; `receive` bytes of receive buffer for clients that do not read."""
        address = self.other if door == "http" and self.other else getattr(self.gateway, door)
        host, port = address.split(":")
        made = socket.socket()
        if receive:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        made.settimeout(timeout)
        try:
            made.connect((host, int(port)))
            return made if self.ca is None else self.client_tls(door).wrap_socket(made, server_hostname=host)
        except BaseException:
            made.close()
            raise

    def client_tls(self, door: str) -> ssl.SSLContext:
        """What a client of a door needs."""
        assert self.ca is not None
        context = ssl.create_default_context(cadata=self.ca.decode())
        context.set_alpn_protocols(["h2" if door == "grpc" else "http/1.1"])
        return context


@dataclass(frozen=True)
class Case:
    """One attack: what it does, and the answers that are right."""

    name: str
    run: Callable[[Site], str]
    expect: tuple[str, ...]
    seconds: float = 30.0
    memory: int = 96 * 1024 * 1024
    """Bytes by which the worker may grow while it lasts."""
    door: str = "http"
    waits: bool = False
    """It does next to nothing but wait for a time limit: such cases run side by side."""
    slow: bool = False
    """The full size of a case that the ordinary tier has smaller."""


@dataclass
class Seen:
    """What came of an attack."""

    answer: str = ""
    seconds: float = 0.0
    grown: int = 0
    served: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def worker_of(gateway: Gateway) -> int:
    """The one worker of the supervisor."""
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return max(map(int, children), key=rss) if children else pid


class Watch:
    """A good client on each door, and the worker's greatest size, for the length of a with block."""

    def __init__(self, site: Site) -> None:
        self._site, self._stop, self.seen = site, threading.Event(), Seen()
        self._threads = [threading.Thread(target=each) for each in (self._http, self._grpc, self._memory)]

    def __enter__(self) -> Seen:
        self._base = rss(self._site.worker)
        for thread in self._threads:
            thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        # A few good requests at and after its end, however short the attack.
        enough, until = self.seen.served + 6, time.monotonic() + 30
        while self.seen.served < enough and time.monotonic() < until:
            time.sleep(0.01)
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _each(self, call: Callable[[], None]) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            try:
                call()
                self.seen.served += 1
            except Exception as error:  # noqa: BLE001  whatever it is, it is a good client's failure
                self.seen.failed.append(repr(error))
            self.seen.slowest = max(self.seen.slowest, time.monotonic() - began)

    def _http(self) -> None:
        address = self._site.gateway.http
        if self._site.ca is None:
            connection = http.client.HTTPConnection(address, timeout=30)
        else:
            connection = http.client.HTTPSConnection(address, timeout=30, context=self._site.client_tls("http"))

        last = time.monotonic()

        def call() -> None:
            nonlocal last
            # A machine that is busy may keep this thread waiting for as long as the server keeps an idle connection.
            if time.monotonic() - last > 1:
                connection.close()
            last = time.monotonic()
            connection.request("POST", PATH, GOOD)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

        self._each(call)
        connection.close()

    def _grpc(self) -> None:
        message = pb.ModelInferRequest(model_name="identity_fp32")
        message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
        data = message.SerializeToString()
        address, options = self._site.gateway.grpc, [("grpc.use_local_subchannel_pool", 1)]
        with (
            grpc.insecure_channel(address, options=options)
            if self._site.ca is None
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(self._site.ca), options=options)
        ) as made:
            stub = made.unary_unary(UNARY)
            self._each(lambda: stub(data, timeout=30))

    def _memory(self) -> None:
        while not self._stop.wait(0.01):
            self.seen.grown = max(self.seen.grown, rss(self._site.worker) - self._base)


def answered(site: Site, case: Case) -> tuple[str, float]:
    """What came of one case, and after how many seconds."""
    began = time.monotonic()
    try:
        answer = case.run(site)
    except TimeoutError:
        answer = "no answer"
    except (ConnectionError, ssl.SSLError):  # a TLS connection may end in the middle of a record
        answer = "closed"
    return answer, time.monotonic() - began


def attack(site: Site, case: Case) -> Seen:
    """Run one case beside the good clients."""
    with Watch(site) as seen:
        seen.answer, seen.seconds = answered(site, case)
    return seen


def attack_at_once(site: Site, cases: Sequence[Case]) -> list[Seen]:
    """Run these side by side, beside the good clients; memory and what was served are those of all."""
    with Watch(site) as seen, ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(lambda case: answered(site, case), cases))
    return [replace(seen, answer=answer, seconds=seconds) for answer, seconds in answers]


def read_all(connection: socket.socket, limit: int = 1 << 20) -> bytes:
    """What comes until the peer closes."""
    out = b""
    with contextlib.suppress(ConnectionError):
        while len(out) < limit and (piece := connection.recv(65536)):
            out += piece
    return out


def statuses(answer: bytes) -> str:
    """The status codes of the answers in these bytes, or `closed`."""
    found = [line.split(b" ")[1].decode() for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    # An answer's body ends without a line end, so that the next status line stands behind it.
    found += [
        part[9:12].decode()
        for line in answer.split(b"\r\n")
        for part in [line[line.find(b"}HTTP/1.1 ") + 1 :]]
        if b"}HTTP/1.1 " in line
    ]
    return "+".join(found) or "closed"


def sent(data: bytes, door: str = "http") -> Callable[[Site], str]:
    """Send this, and read to the end."""

    def run(site: Site) -> str:
        with site.connect(door) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return statuses(read_all(connection))

    return run


def pieces(*parts: bytes, pause: float, door: str = "http") -> Callable[[Site], str]:
    """Send these with pauses between, the last again and again until the peer closes."""

    def run(site: Site) -> str:
        with site.connect(door) as connection:

            def send() -> Iterator[bytes]:
                yield from parts
                while True:
                    yield parts[-1]

            connection.settimeout(pause)
            out = b""
            for part in send():
                try:
                    connection.sendall(part)
                    while True:
                        piece = connection.recv(65536)
                        if not piece:
                            return statuses(out)
                        out += piece
                except TimeoutError:
                    continue
                except ConnectionError:
                    return statuses(out)
        return statuses(out)

    return run
