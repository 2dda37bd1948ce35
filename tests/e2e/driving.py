"""Drives a gateway for the life-cycle, reload, route and limit tests: steady load, slow calls, raw upstreams."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from gateway_fixture import Gateway
from tritonclient.grpc import service_pb2 as pb

UNARY = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


PATIENCE = 6
"""How many times longer than on a quiet machine things may take on a busy one."""


def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """The condition's first true value; fails when it takes `PATIENCE` times as long: it would never come."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def fp32(value: float = 1.0) -> dict[str, Any]:
    """A request of identity_fp32."""
    return {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [value, value]}]}


def sleeping(milliseconds: int) -> dict[str, Any]:
    """A request of the model `slow`."""
    return {"inputs": [{"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "data": [milliseconds]}]}


def word(text: str, **parameters: Any) -> dict[str, Any]:
    """A request of params_echo and of fails: one BYTES element."""
    name = parameters.pop("tensor", "INPUT0")
    made = {"inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}]}
    return made | ({"parameters": parameters} if parameters else {})


def message(model: str, document: dict[str, Any], call_id: str = "", version: str = "") -> Any:
    """A JSON request as the gRPC message."""
    made = pb.ModelInferRequest(model_name=model, id=call_id, model_version=version)
    for key, value in document.get("parameters", {}).items():
        field_name = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made.parameters[key], field_name, value)
    for item in document["inputs"]:
        tensor = made.inputs.add(name=item["name"], datatype=item["datatype"], shape=item["shape"])
        contents = tensor.contents
        if item["datatype"] == "BYTES":
            contents.bytes_contents.extend(value.encode() for value in item["data"])
        elif item["datatype"] == "FP32":
            contents.fp32_contents.extend(item["data"])
        elif item["datatype"] == "UINT32":
            contents.uint_contents.extend(item["data"])
        else:
            contents.int_contents.extend(item["data"])
    return made


def repeat(count: int, delay_ms: int) -> Any:
    """A message of the decoupled repeat_int32: `count` responses, a pause before each."""
    inputs = [
        {"name": "IN", "datatype": "INT32", "shape": [count], "data": list(range(count))},
        {"name": "DELAY", "datatype": "UINT32", "shape": [count], "data": [delay_ms] * count},
        {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
    ]
    return message("repeat_int32", {"inputs": inputs})


@dataclass
class GrpcAnswer:
    """A gRPC answer, whatever its status."""

    code: str
    details: str
    metadata: dict[str, str]
    trailers: dict[str, str]
    response: Any = None

    @property
    def variant(self) -> str:
        return self.metadata.get("x-tidegate-variant", "")


@contextlib.contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """A channel with connections of its own (grpcio shares them between channels of equal options)."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as made:
        yield made


def call(
    made: grpc.Channel,
    request: Any,
    metadata: dict[str, str] | None = None,
    timeout: float = 30,
    *,
    wait_for_ready: bool = False,
) -> GrpcAnswer:
    """One ModelInfer."""
    stub = made.unary_unary(
        UNARY,
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    response, done = stub.with_call(
        request, metadata=tuple((metadata or {}).items()), timeout=timeout, wait_for_ready=wait_for_ready
    )
    return GrpcAnswer("OK", "", _pairs(done.initial_metadata()), _pairs(done.trailing_metadata()), response)


def ask(
    made: grpc.Channel,
    request: Any,
    metadata: dict[str, str] | None = None,
    timeout: float = 30,
    *,
    wait_for_ready: bool = False,
) -> GrpcAnswer:
    """One ModelInfer; an error is an answer too."""
    try:
        return call(made, request, metadata, timeout, wait_for_ready=wait_for_ready)
    except grpc.RpcError as error:
        head = _pairs(error.initial_metadata())
        return GrpcAnswer(error.code().name, error.details() or "", head, _pairs(error.trailing_metadata()))


def _pairs(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


@dataclass
class Outcome:
    """What came of steady load."""

    statuses: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Clients:
    """Threads that each do one thing, which looks at `_stop`, until the block ends."""

    def __init__(self, work: Sequence[Callable[[], None]]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


class Load(Clients):
    """Steady load on kept-alive connections until the block ends: `http` threads and `grpc` threads."""

    def __init__(
        self,
        gateway: Gateway,
        model: str,
        document: dict[str, Any],
        *,
        http: int = 2,
        grpc: int = 1,
        patient: bool = False,
    ) -> None:
        """`patient` gRPC calls wait for a connection; others fail at once while grpcio pauses before the next try."""
        self._patient = patient
        self.outcome = Outcome()
        self._gateway = gateway
        self._path = f"/v2/models/{model}/infer"
        self._body = json.dumps(document).encode()
        self._message = message(model, document)
        super().__init__([self._http] * http + [self._grpc] * grpc)

    def answered(self) -> int:
        return sum(self.outcome.statuses.values())

    def _http(self) -> None:
        connection = http.client.HTTPConnection(self._gateway.http, timeout=30)
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", self._path, self._body)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.outcome.errors.append(f"http {error!r}")
                connection.close()
                continue
            self.outcome.seconds.append(time.perf_counter() - began)
            self.outcome.statuses[str(response.status)] += 1
            self.outcome.variants[response.headers.get("x-tidegate-variant", "")] += 1
            if response.status != 200:
                self.outcome.errors.append(f"http {response.status} {text!r}")
        connection.close()

    def _grpc(self) -> None:
        with channel(self._gateway.grpc) as made:
            while not self._stop.is_set():
                answer = ask(made, self._message, wait_for_ready=self._patient)
                self.outcome.statuses[answer.code] += 1
                self.outcome.variants[answer.variant] += 1
                if answer.code != "OK":
                    self.outcome.errors.append(f"grpc {answer.code} {answer.details}")


class Background:
    """A call in a thread; `result()` gives what it returned or raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.done_at = 0.0

        def run() -> None:
            try:
                self.value = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever asks
                self.error = error
            self.done_at = time.monotonic()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def result(self, timeout: float = 40) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "still running"
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def running(self) -> bool:
        return self._thread.is_alive()


class RawUpstream:
    """A model server that does what it is told: `answer(request line, connection)` for each request."""

    def __init__(self, answer: Callable[[bytes, socket.socket], None], port: int = 0) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A blocked accept would keep the port.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n")[1:]:
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                while len(data) < length:
                    data += connection.recv(65536)
                data = data[length:]
                self._answer(head.split(b"\r\n")[0], connection)
        except OSError:
            return


def http_answer(body: bytes, status: str = "200 OK", headers: str = "content-type: application/json\r\n") -> bytes:
    """An HTTP/1.1 response."""
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


SERVER_PAGE = b'{"name":"raw","version":"1","extensions":[]}'
MODEL_PAGE = json.dumps({
    "name": "m", "versions": ["1"], "platform": "x",
    "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, 2]}],
}).encode()  # fmt: skip


def pages(infer: Callable[[socket.socket], None]) -> Callable[[bytes, socket.socket], None]:
    """An upstream that knows one model `m` and answers inference as told."""

    def answer(line: bytes, connection: socket.socket) -> None:
        target = line.split(b" ")[1]
        if target.endswith(b"/infer"):
            infer(connection)
        elif target.startswith(b"/v2/health"):
            connection.sendall(http_answer(b""))
        elif target.endswith(b"/config"):
            connection.sendall(http_answer(b'{"error":"none"}', "404 Not Found"))
        elif target.startswith(b"/v2/models/"):
            connection.sendall(http_answer(MODEL_PAGE))
        else:
            connection.sendall(http_answer(SERVER_PAGE))

    return answer


def children(pid: int) -> list[int]:
    """Process ids of a process' children."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def replace(path: Path, text: str) -> None:
    """Rename a new file over an old one, as editors do."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text)
    aside.replace(path)


def refused_connection(address: str) -> bool:
    """Whether nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
