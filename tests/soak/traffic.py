"""The soak's clients. Each is a closed loop in a thread of its own; every answer is held against the right values."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from driving import STREAM, ask, channel, fp32, message, repeat
from sides import joined
from soak.record import Record
from tritonclient.grpc import service_pb2 as pb

PAUSE_S = 0.02
ALICE, BOB, STRANGER = "key-of-alice", "key-of-bob", "key-of-nobody"
_sequences = itertools.count(1)


class Traffic:
    """Every kind at once, until `stop`."""

    def __init__(self, record: Record, http_address: str, grpc_address: str) -> None:
        self._record = record
        self._http_address, self._grpc_address = http_address, grpc_address
        self._stop = threading.Event()
        kinds: dict[str, Callable[[Any], str]] = {
            "http json": self._json,
            "http binary": self._binary,
            "split and shadow": self._split,
            "sse": self._sse,
            "page": self._page,
            "refused callers": self._refused,
        }
        loops = [(name, work, self._http_loop) for name, work in kinds.items()]
        loops += [("grpc unary", self._unary, self._grpc_loop), ("grpc stream", self._stream, self._grpc_loop)]
        loops += [("sequence", self._sequence, self._grpc_loop)]
        self._threads = [threading.Thread(target=loop, args=(name, work)) for name, work, loop in loops]
        self._threads += [threading.Thread(target=self._rude, args=(name,)) for name in _RUDE]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), thread

    # --- loops: a problem that a work returns is a wrong answer; what it raises is a failure ---

    def _http_loop(self, kind: str, work: Callable[[http.client.HTTPConnection], str]) -> None:
        connection = http.client.HTTPConnection(self._http_address, timeout=30)
        while not self._stop.wait(PAUSE_S):
            began = time.monotonic()
            try:
                wrong = work(connection)
                self._record.call(kind, began, wrong, wrong=bool(wrong))
            except (OSError, http.client.HTTPException, Failed) as error:
                self._record.call(kind, began, f"{type(error).__name__} {error}")
                connection.close()
        connection.close()

    def _grpc_loop(self, kind: str, work: Callable[[grpc.Channel], str]) -> None:
        with channel(self._grpc_address) as made:
            while not self._stop.wait(PAUSE_S):
                began = time.monotonic()
                try:
                    wrong = work(made)
                    self._record.call(kind, began, wrong, wrong=bool(wrong))
                except (grpc.RpcError, Failed) as error:
                    text = f"{error.code().name} {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
                    self._record.call(kind, began, text)

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: Any, key: str = ALICE, **headers: str):
        method = "GET" if body is None else "POST"
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {"x-api-key": key, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    # --- works ---

    def _json(self, connection: http.client.HTTPConnection) -> str:
        value = float(random.randrange(1 << 20))
        status, _, body = self._ask(connection, "/v2/models/plain/infer", fp32(value))
        _served(status, body)
        got = json.loads(body)["outputs"][0]["data"]
        return "" if got == [value, value] else f"sent {value}, got {got}"

    def _binary(self, connection: http.client.HTTPConnection) -> str:
        values = np.random.default_rng().random((1, 512), np.float32)
        head = {
            "inputs": [
                {"name": "INPUT0", "datatype": "FP32", "shape": [1, 512], "parameters": {"binary_data_size": 2048}}
            ],
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
        }
        body, headers = joined(head, values.tobytes())
        status, given, got = self._ask(connection, "/v2/models/plain/infer", body, BOB, **headers)
        _served(status, got)
        return "" if got[int(given["inference-header-content-length"]) :] == values.tobytes() else "other bytes"

    def _split(self, connection: http.client.HTTPConnection) -> str:
        status, headers, body = self._ask(connection, "/v2/models/split/infer", fp32(3.0))
        _served(status, body)
        if headers["x-tidegate-variant"] not in ("a", "b"):
            return f"variant {headers['x-tidegate-variant']}"
        return "" if json.loads(body)["outputs"][0]["data"] == [3.0, 3.0] else "other values"

    def _sse(self, connection: http.client.HTTPConnection) -> str:
        inputs = [
            {"name": "IN", "datatype": "INT32", "shape": [4], "data": [5, 6, 7, 8]},
            {"name": "DELAY", "datatype": "UINT32", "shape": [4], "data": [20] * 4},
            {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
        ]
        status, _, body = self._ask(
            connection, "/v2/models/stream/infer", {"inputs": inputs}, accept="text/event-stream"
        )
        _served(status, body)
        events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
        if errors := [event["error"] for event in events if "error" in event]:
            raise Failed(errors[0])
        got = [output["data"][0] for event in events for output in event["outputs"] if output["name"] == "OUT"]
        if len(got) < 4:
            raise Failed(f"ended after {got}")
        return "" if got == [5, 6, 7, 8] else f"events {got}"

    def _page(self, connection: http.client.HTTPConnection) -> str:
        path = random.choice(
            ("/v2/models/plain", "/v2/models/plain/stats", "/v2", "/gateway/v1/snapshot", "/gateway/v1/upstreams")
        )
        status, _, body = self._ask(connection, path, None)
        _served(status, body)
        json.loads(body)
        return ""

    def _refused(self, connection: http.client.HTTPConnection) -> str:
        status, _, body = self._ask(connection, "/v2/models/plain/infer", fp32(), STRANGER)
        if status != 401:
            return f"a stranger got {status} {body!r}"
        status, _, body = self._ask(connection, "/v2/models/split/infer", fp32(), BOB)
        return "" if status == 403 else f"bob got {status} {body!r}"

    def _unary(self, made: grpc.Channel) -> str:
        value = float(random.randrange(1 << 20))
        answer = ask(made, message("plain", fp32(value)), {"x-api-key": BOB})
        if answer.code != "OK":
            raise Failed(f"{answer.code} {answer.details}")
        response = answer.response
        got = (
            np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
            if response.raw_output_contents
            else list(response.outputs[0].contents.fp32_contents)
        )
        return "" if got == [value, value] else f"sent {value}, got {got}"

    def _stream(self, made: grpc.Channel) -> str:
        stub = made.stream_stream(
            STREAM,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        request = repeat(4, 20)
        request.model_name = "stream"
        answers = list(stub(iter([request]), timeout=30, metadata=(("x-api-key", ALICE),)))
        if errors := [answer.error_message for answer in answers if answer.error_message]:
            raise Failed(errors[0])
        if len(answers) < 4:
            raise Failed(f"ended after {len(answers)} answers")
        return ""

    def _sequence(self, made: grpc.Channel) -> str:
        number, total = next(_sequences), 0
        for n in range(6):
            inputs = [{"name": "INPUT", "datatype": "INT32", "shape": [1, 1], "data": [n + number % 7]}]
            document = {
                "inputs": inputs,
                "parameters": {"sequence_id": number, "sequence_start": n == 0, "sequence_end": n == 5},
            }
            answer = ask(made, message("sum", document), {"x-api-key": ALICE})
            if answer.code != "OK":
                raise Failed(f"{answer.code} {answer.details}")
            total += n + number % 7
            raw = answer.response.raw_output_contents
            contents = answer.response.outputs[0].contents.int_contents
            got = np.frombuffer(raw[0], np.int32)[0] if raw else contents[0]
            if got != total:
                return f"sequence {number} step {n}: {got}, not {total}"
            time.sleep(0.01)
        return ""

    # --- clients that do not behave: only that others are served matters ---

    def _rude(self, name: str) -> None:
        host, _, port = self._http_address.rpartition(":")
        while not self._stop.wait(1.0):
            try:
                with socket.create_connection((host, int(port)), timeout=5) as sock:
                    _RUDE[name](sock, self._stop)
            except OSError:
                pass  # it was refused, or cut: what it asked for
            self._record.call(name, time.monotonic())


class Failed(Exception):
    """A call had no answer, or an error."""


def _served(status: int, body: bytes) -> None:
    if status != 200:
        raise Failed(f"{status} {body[:200]!r}")


_BODY = json.dumps(fp32()).encode()
_HEAD = b"POST /v2/models/plain/infer HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n"


def _leaves(sock: socket.socket, _: threading.Event) -> None:
    sock.sendall(_HEAD % (ALICE.encode(), len(_BODY)) + _BODY)


def _leaves_amid(sock: socket.socket, _: threading.Event) -> None:
    sock.sendall(_HEAD % (ALICE.encode(), len(_BODY)) + _BODY[:20])


def _slow(sock: socket.socket, stop: threading.Event) -> None:
    for byte in _HEAD[:120]:
        if stop.wait(0.1):
            return
        sock.sendall(bytes([byte]))


def _hostile(sock: socket.socket, _: threading.Event) -> None:
    sock.sendall(
        random.choice(
            (
                b"POST /v2/models/plain/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                random.randbytes(4096),
                b"GET /" + b"a" * 100_000,
                _HEAD % (ALICE.encode(), 40_000) + b"[" * 40_000,
            )
        )
    )
    sock.recv(65536)


_RUDE = {"client leaves": _leaves, "client leaves amid": _leaves_amid, "slow client": _slow, "hostile bytes": _hostile}
