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
from soak import rude
from soak.record import Record
from soak.site import ALICE, BOB, CAROL, SMALL_RATE, STRANGER, Site, bearer
from soak.watch import scrape
from tls_fixture import secure_channel, trusting
from tritonclient.grpc import service_pb2 as pb

PAUSE_S = 0.02
_sequences = itertools.count(1)


class Traffic:
    """Every kind at once, until `stop`."""

    def __init__(self, record: Record, site: Site) -> None:
        self._record = record
        self._site = site
        self._plain, self._tls = site.gateway, site.tls
        self._stop = threading.Event()
        self._admitted = 0
        """Of the tenant whose rate is limited."""
        self._requests_before = 0.0
        self._token: tuple[float, str] | None = None
        """Until when it is shown, and itself."""
        kinds: dict[str, Callable[[Any], str]] = {
            "http json": self._json,
            "http binary": self._binary,
            "jwt": self._jwt,
            "split and shadow": self._split,
            "sse": self._sse,
            "generate": self._generate,
            "generate_stream": self._generate_stream,
            "page": self._page,
            "refused callers": self._refused,
            "rate limit": self._limited,
        }
        works: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (self._http_loop, (name, work)) for name, work in kinds.items()
        ]
        works += [(self._grpc_loop, row) for row in (("grpc unary", self._unary), ("grpc stream", self._stream))]
        works += [
            (self._grpc_loop, row) for row in (("sequence", self._sequence), ("client leaves stream", self._leaves))
        ]
        works += [(self._http_loop, ("tls http", self._json, True)), (self._grpc_loop, ("tls grpc", self._unary, True))]
        works += [(self._tls_fresh, ()), (self._scrapes, ())]
        for door, some in ((self._plain.http, rude.HTTP), (self._plain.grpc, rude.GRPC)):
            works += [(self._rude, (door, name, act)) for name, act in some.items()]
        self._threads = [threading.Thread(target=work, args=args, name=str(args[:1])) for work, args in works]
        self._began = 0.0

    def start(self) -> None:
        """All of them."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        """End; what is wrong with the traffic as a whole."""
        self._stop.set()
        lasted = time.monotonic() - self._began
        problems = []
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                problems.append(f"a client hangs: {thread.name}")
        most = SMALL_RATE * (lasted + 2)
        if self._admitted > most:
            problems.append(f"{self._admitted} requests admitted of a tenant that may make {most:.0f}")
        return problems

    # --- loops: a problem that a work returns is a wrong answer; what it raises is a failure ---

    def _http_loop(self, kind: str, work: Callable[[http.client.HTTPConnection], str], tls: bool = False) -> None:
        connection = (
            http.client.HTTPSConnection(self._tls.http, timeout=30, context=trusting(self._site.authority.pem))
            if tls
            else http.client.HTTPConnection(self._plain.http, timeout=30)
        )
        while not self._stop.wait(PAUSE_S):
            began = self._record.begin()
            try:
                wrong = work(connection)
                self._record.call(kind, began, wrong, wrong=bool(wrong))
            except (OSError, http.client.HTTPException, Failed) as error:
                self._record.call(kind, began, f"{type(error).__name__} {error}")
                connection.close()
        connection.close()

    def _grpc_loop(self, kind: str, work: Callable[[grpc.Channel], str], tls: bool = False) -> None:
        with secure_channel(self._tls.grpc, self._site.authority.pem) if tls else channel(self._plain.grpc) as made:
            while not self._stop.wait(PAUSE_S):
                began = self._record.begin()
                try:
                    wrong = work(made)
                    self._record.call(kind, began, wrong, wrong=bool(wrong))
                except (grpc.RpcError, Failed) as error:
                    text = f"{error.code().name} {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
                    self._record.call(kind, began, text)

    def _tls_fresh(self) -> None:
        """A connection for each call: handshakes amid certificates that change."""
        context = trusting(self._site.authority.pem)
        while not self._stop.wait(5 * PAUSE_S):
            began = self._record.begin()
            connection = http.client.HTTPSConnection(self._tls.http, timeout=30, context=context)
            try:
                wrong = self._json(connection)
                self._record.call("tls handshake", began, wrong, wrong=bool(wrong))
            except (OSError, http.client.HTTPException, Failed) as error:
                self._record.call("tls handshake", began, f"{type(error).__name__} {error}")
            finally:
                connection.close()

    def _scrapes(self) -> None:
        """The metrics page, whose counters never fall, whoever dies."""
        while not self._stop.wait(1):
            began = self._record.begin()
            try:
                page = scrape(self._site.metrics_port)
            except (OSError, http.client.HTTPException) as error:
                self._record.call("metrics", began, f"{type(error).__name__} {error}")
                continue
            count = sum(value for (name, _), value in page.items() if name == "tidegate_requests_total")
            fell = f"requests fell from {self._requests_before} to {count}" if count < self._requests_before else ""
            self._requests_before = count
            self._record.call("metrics", began, fell, wrong=bool(fell))

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

    def _jwt(self, connection: http.client.HTTPConnection) -> str:
        if self._token is None or self._token[0] < time.monotonic():
            self._token = (time.monotonic() + 60, bearer())
        body = json.dumps(fp32(4.0))
        connection.request("POST", "/v2/models/plain/infer", body, {"authorization": self._token[1]})
        answer = connection.getresponse()
        text = answer.read()
        _served(answer.status, text)
        return "" if json.loads(text)["outputs"][0]["data"] == [4.0, 4.0] else "other values"

    def _limited(self, connection: http.client.HTTPConnection) -> str:
        status, headers, body = self._ask(connection, "/v2/models/plain/infer", fp32(6.0), CAROL)
        if status == 429:
            return "" if headers["retry-after"] else "no retry-after"
        _served(status, body)
        self._admitted += 1
        return ""

    def _generate(self, connection: http.client.HTTPConnection) -> str:
        body = {"IN": [9], "DELAY": [10], "WAIT": [0]}
        status, _, got = self._ask(connection, "/v2/models/stream/generate", body)
        _served(status, got)
        return "" if json.loads(got)["OUT"] == 9 else f"{got!r}"

    def _generate_stream(self, connection: http.client.HTTPConnection) -> str:
        body = {"IN": [5, 6, 7], "DELAY": [20, 20, 20], "WAIT": [0]}
        status, _, got = self._ask(connection, "/v2/models/stream/generate_stream", body)
        _served(status, got)
        events = [json.loads(line[6:]) for line in got.decode().splitlines() if line.startswith("data: {")]
        if errors := [event["error"] for event in events if "error" in event]:
            raise Failed(errors[0])
        values = [event["OUT"] for event in events]
        if len(values) < 3:
            raise Failed(f"ended after {values}")
        return "" if values == [5, 6, 7] else f"events {values}"

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

    def _leaves(self, made: grpc.Channel) -> str:
        stub = made.stream_stream(
            STREAM,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        request = repeat(4, 50)
        request.model_name = "stream"
        answers = stub(iter([request]), timeout=30, metadata=(("x-api-key", ALICE),))
        first = next(answers)
        answers.cancel()
        self._stop.wait(0.5)
        if first.error_message:
            raise Failed(first.error_message)
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

    def _rude(self, address: str, name: str, act: rude.Rude) -> None:
        host, _, port = address.rpartition(":")
        while not self._stop.wait(1.0):
            began = self._record.begin()
            try:
                with socket.create_connection((host, int(port)), timeout=5) as sock:
                    act(sock, ALICE, self._stop)
            except OSError:
                pass  # it was refused, or cut: what it asked for
            self._record.call(name, began)


class Failed(Exception):
    """A call had no answer, or an error."""


def _served(status: int, body: bytes) -> None:
    if status != 200:
        raise Failed(f"{status} {body[:200]!r}")
