"""Gateways that change under load: streams beside `driving.Load`, and the processes of one `state_dir`."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
from driving import STREAM, Clients, channel, repeat
from gateway_fixture import Gateway, start_gateway
from triton_fixture import RunningTriton, free_ports
from tritonclient.grpc import service_pb2 as pb


def quick(folder: Path, triton: RunningTriton, text: str, *, age: str = "1s", **options) -> Gateway:
    """A gateway whose gRPC connections come of age soon; `text` holds all but `listen` and `upstreams`."""
    http_, grpc_ = (f"127.0.0.1:{port}" for port in free_ports(2))
    head = f"listen: {{http: '{http_}', grpc: '{grpc_}', grpc_connection_age: {age}}}\n"
    head += f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}\n"
    one = start_gateway(folder, head + text, wait="", **options)
    one.http, one.grpc = http_, grpc_
    one.wait_ready()
    return one


def another(one: Gateway, *args: str) -> Gateway:
    """A second `serve` with the same files; its log is a file of its own."""
    log = one.folder / f"gateway-{len(list(one.folder.glob('gateway*.log')))}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(one.config), *args],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **one.env},
        )
    return Gateway(one.folder, process, one.http, one.grpc, log, one.env)


class Streams(Clients):
    """gRPC streams and server-sent events, one after another, until the block ends."""

    def __init__(self, one: Gateway, *, count: int = 4, pause_ms: int = 60) -> None:
        self._one = one
        self._count, self._pause = count, pause_ms
        super().__init__((self._grpc, self._sse))
        self.errors: list[str] = []
        self.done = 0

    def _grpc(self) -> None:
        with channel(self._one.grpc) as made:
            stub = made.stream_stream(
                STREAM,
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            while not self._stop.is_set():
                try:
                    answers = list(stub(iter([repeat(self._count, self._pause)]), timeout=30))
                    bad = [answer.error_message for answer in answers if answer.error_message]
                    if bad or len(answers) < self._count:
                        self.errors.append(f"stream {len(answers)} {bad}")
                except grpc.RpcError as error:
                    self.errors.append(f"stream {error.code()} {error.details()}")
                self.done += 1

    def _sse(self) -> None:
        inputs = [
            {"name": "IN", "datatype": "INT32", "shape": [self._count], "data": list(range(self._count))},
            {"name": "DELAY", "datatype": "UINT32", "shape": [self._count], "data": [self._pause] * self._count},
            {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
        ]
        body = json.dumps({"inputs": inputs})
        connection = http.client.HTTPConnection(self._one.http, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v2/models/repeat_int32/infer", body, {"accept": "text/event-stream"})
                response = connection.getresponse()
                text = response.read().decode()
                if response.status != 200 or text.count("data:") < self._count:
                    self.errors.append(f"sse {response.status} {text[:200]}")
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"sse {error!r}")
                connection.close()
            self.done += 1
        connection.close()
