"""Large bodies over HTTP, however they arrive: read past the parser, and what is around them is read as ever."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from driving import children, until
from gateway_fixture import START_SECONDS, start_gateway
from tls_fixture import authority, trusting
from triton_fixture import free_ports, repository, running_triton

from gateway.doors.http_connection import LARGE

__all__ = ["authority"]

SECONDS = 60


@dataclass
class Door:
    """A gateway whose clients have a second for each KiB, over plain TCP or TLS."""

    address: str
    context: ssl.SSLContext | None
    process: int


@pytest.fixture(scope="module")
def model_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large-bodies")
    with running_triton([repository(folder / "models", "identity_fp32")], folder / "triton.log") as server:
        yield server


@pytest.fixture(scope="module", params=["plain", "tls"])
def door(request, model_server, authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    text = f"upstreams: {{t: {{http: '{model_server.http}'}}}}\nlimits: {{body: 4MiB, body_timeout: 1s}}\n"
    context = None
    if request.param == "tls":
        cert, key = authority.server().write(folder, "server")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        text += f"listen: {{http: '{address}', grpc: null, tls: {{cert: {cert}, key: {key}}}}}\n"
        context = trusting(authority.pem)
    gateway = start_gateway(folder / "gateway", text, wait="" if context else "ready")
    if context is not None:
        gateway.http = address
        until(lambda: ready(address, context), START_SECONDS)
    yield Door(gateway.http, context, gateway.process.pid)
    assert gateway.stop() == 0, gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


def ready(address: str, context: ssl.SSLContext) -> bool:
    with contextlib.suppress(OSError), Client(Door(address, context, 0)) as client:
        client.send(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        return client.answer()[0] == 200
    return False


class Client:
    """One connection, with what was read behind an answer."""

    def __init__(self, door: Door) -> None:
        host, _, port = door.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), SECONDS)
        if door.context is not None:
            self.socket = door.context.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(pause)

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next one."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, data = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        while len(data) < size:
            data += self._more()
        self._rest = data[size:]
        return int(head[9:12]), data[:size]

    def ended(self) -> bool:
        return self.socket.recv(1) == b""

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        assert data, "the connection was closed"
        return data


def request(nbytes: int, number: int = 0, *headers: str) -> tuple[bytes, bytes, bytes]:
    """Head and body of one whose body has so many bytes, and the tensor in it."""
    count = (nbytes - 200) // 4
    values = np.full(count, number + 0.5, np.float32).tobytes()
    document = {
        "inputs": [
            {"name": "INPUT0", "shape": [1, count], "datatype": "FP32", "parameters": {"binary_data_size": len(values)}}
        ],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(document).encode()
    text += b" " * (nbytes - len(values) - len(text))
    lines = [
        "POST /v2/models/identity_fp32/infer HTTP/1.1",
        "host: x",
        f"inference-header-content-length: {len(text)}",
        f"content-length: {nbytes}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode(), text + values, values


def right(answer: tuple[int, bytes], values: bytes) -> None:
    status, body = answer
    assert status == 200, body[:300]
    assert body.endswith(values)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 3 * LARGE, 2_000_000])
def test_in_one_piece_and_in_many(door, size):
    with Client(door) as client:
        for number, step in enumerate((size, 50_000, 65_536, 1_000_000)):
            head, body, values = request(size, number)
            client.send(head + body[:step], *(body[at : at + step] for at in range(step, size, step)))
            right(client.answer(), values)
            client.send(head, body)  # as most clients do
            right(client.answer(), values)


def test_head_in_pieces_and_body_in_crumbs(door):
    with Client(door) as client:
        head, body, values = request(LARGE + 5000, 7)
        client.send(*(head[at : at + 40] for at in range(0, len(head), 40)), pause=0.01)
        client.send(body[:-3000], *(body[at : at + 1 or None] for at in range(-3000, -2990)), pause=0.01)
        client.send(body[-2990:])
        right(client.answer(), values)


def test_pipelined_before_and_behind(door):
    small = [request(600, number) for number in range(3)]
    large = [request(LARGE + 1000 * number, number) for number in range(1, 4)]
    order = [small[0], large[0], small[1], large[1], large[2], small[2]]
    with Client(door) as client:
        client.send(b"".join(head + body for head, body, _ in order))
        for _, _, values in order:
            right(client.answer(), values)
    with Client(door) as client:
        for head, body, _ in order:
            client.send(head, body)
        for _, _, values in order:
            right(client.answer(), values)


def test_pipelined_before_the_first_is_served(door):
    """All is there when the worker comes to read: the next head is read before the request in front of it begins."""
    (worker,) = [
        pid for pid in children(door.process) if b"gateway.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    order = [request(LARGE + 1000, 1), request(600, 2), request(LARGE, 3), request(600, 4)]
    with Client(door) as client:
        head, body, values = request(600, 0)
        client.send(head + body)
        right(client.answer(), values)
        os.kill(worker, signal.SIGSTOP)
        client.send(*(part for head, body, _ in order for part in (head, body)))
        os.kill(worker, signal.SIGCONT)
        for _, _, values in order:
            right(client.answer(), values)


def test_a_client_that_waits_to_be_told_to_continue(door):
    with Client(door) as client:
        head, body, values = request(200_000, 3, "expect: 100-continue")
        client.send(head)
        assert client.answer() == (100, b"")
        client.send(body)
        right(client.answer(), values)


def test_a_body_that_stops_coming(door):
    with Client(door) as client:
        head, body, _ = request(500_000)
        client.send(head, body[:300_000])
        status, said = client.answer()
        assert status == 408
        assert json.loads(said) == {"error": "the request body did not arrive in time"}
        assert client.ended()


def test_a_body_that_is_too_large_or_chunked(door):
    with Client(door) as client:
        head, body, _ = request(5_000_000)
        client.send(head)
        assert client.answer()[0] == 413
    with Client(door) as client:
        head, body, values = request(300_000)
        head = head.replace(b"content-length: 300000", b"transfer-encoding: chunked")
        client.send(
            head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:200_000], body[200_000:])), b"0\r\n\r\n"
        )
        right(client.answer(), values)


def test_what_is_wrong_with_a_large_request_is_said_and_the_connection_goes_on(door):
    with Client(door) as client:
        for path in (b"/v2/models/nobody/infer", b"/v2/models/identity_fp32/versions/x/infer"):
            head, body, values = request(300_000, 1)
            client.send(head.replace(b"/v2/models/identity_fp32/infer", path), body)
            assert client.answer()[0] in (400, 404)
        client.send(head, body)
        right(client.answer(), values)
