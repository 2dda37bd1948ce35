"""Streams: what a message costs a proxy.

Requests on one `ModelStreamInfer`, answers of a decoupled model there, and the same answers as server-sent events of
`generate_stream`. Each way carries the same messages of the same Triton.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Semaphore

import grpc
from tritonclient.grpc import service_pb2

from bench import configs, proc
from bench.latency import check_http
from bench.load import KEY, MODEL, grpc_message
from bench.peers import Missing, Running, _tidegate, peers
from bench.ports import free_ports
from bench.proxies import GOVERNED
from bench.section import Bar, Bench, Cell, Chart, Result, Table, middle, spread
from bench.sink import otlp_sink
from bench.upstream import Server, triton

DECOUPLED = "repeat_int32"
ANSWERS = 100
"""Of each request to the decoupled model."""
_WINDOW = 8
"""Requests under way on a stream."""
_WARM_S = 5
"""Of messages that are not counted: a worker's own work in its first second after a start is as much as theirs."""
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_KINDS = {
    "requests": "ModelStreamInfer, FP32[1,32]: request and answer",
    "answers": f"ModelStreamInfer, {ANSWERS} answers a request: an answer",
    "events": f"generate_stream, {ANSWERS} events a request: an event",
}


def run(bench: Bench) -> Result:
    """Every way by turns."""
    count = max(bench.requests // 4, 500)
    found: dict[str, dict[str, list[dict[str, float]]]] = {kind: {} for kind in _KINDS}
    skipped: list[str] = []
    with otlp_sink() as sink, triton(bench.folder, MODEL, DECOUPLED) as upstream:
        for number in range(1 if bench.quick else 2):
            for peer in peers():
                if peer.share < 1:
                    continue
                try:
                    peer.find()
                except Missing as reason:
                    skipped += [f"{peer.name}: {reason}"] if not number else []
                    continue
                folder = bench.folder / f"{number}-{peer.name.replace(', ', '-').lower()}"
                folder.mkdir()
                otlp = f"http://127.0.0.1:{sink.server_port}"
                started = _GOVERNED.get(peer.name, peer.start)
                with started(upstream, folder, otlp) as proxy:
                    check_http(proxy.http)
                    for kind, send in _senders(proxy, count, peer.protocols):
                        one = _measured(proxy, send)
                        found[kind].setdefault(peer.name, []).append(one)
                        bench.say(f"{peer.name}, {kind}: {one['rate']:,.0f}/s, {one['cpu_us']:.1f} us CPU each")
    return Result(
        tables=[
            Table(
                title,
                ["way", "CPU us/message", "runs", "x Envoy", "messages/s"],
                list(_rows(found[kind])),
            )
            for kind, title in _KINDS.items()
        ],
        charts=[
            Chart(
                f"CPU: {title} (us)",
                [Bar(n, [r["cpu_us"] for r in runs]) for n, runs in found[kind].items() if n != "direct"],
            )
            for kind, title in _KINDS.items()
        ],
        notes=[f"{count:,} messages a run on one stream, {_WINDOW} requests under way; client grpcio, or one socket."],
        skipped=skipped,
        versions={"Triton": upstream.version},
        data=found,
    )


def _rows(found: dict[str, list[dict[str, float]]]) -> Iterator[list[Cell]]:
    envoy = found.get("Envoy")
    base = middle([run["cpu_us"] for run in envoy], 1) if envoy else None
    for name, runs in found.items():
        rate = round(middle([run["rate"] for run in runs], 0))
        if name == "direct":
            yield [name, None, None, None, rate]
            continue
        cpu = [run["cpu_us"] for run in runs]
        ratio = round(middle(cpu, 1) / base, 2) if base else None
        yield [name, middle(cpu, 1), spread(cpu, 1), ratio, rate]


def _measured(proxy: Running, send: Callable[[], int]) -> dict[str, float]:
    before = 0.0 if proxy.pid is None else proc.cpu_seconds(proxy.pid)
    began = time.perf_counter()
    messages = send()
    seconds = time.perf_counter() - began
    used = 0.0 if proxy.pid is None else proc.cpu_seconds(proxy.pid) - before
    return {"messages": messages, "rate": round(messages / seconds, 1), "cpu_us": round(used / messages * 1e6, 1)}


def _senders(proxy: Running, count: int, protocols: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], int]]]:
    """Each kind, after messages that are not counted."""
    if "grpc" in protocols:
        over = time.monotonic() + _WARM_S
        while time.monotonic() < over:
            _stream(proxy.grpc, grpc_message(), 50, 1)
        yield "requests", lambda: _stream(proxy.grpc, grpc_message(), count, 1)
        yield "answers", lambda: _stream(proxy.grpc, _repeat(), count // ANSWERS, ANSWERS)
    if "http" in protocols:
        _events(proxy.http, 1)
        yield "events", lambda: _events(proxy.http, count // ANSWERS)


def _repeat() -> bytes:
    request = service_pb2.ModelInferRequest(model_name=DECOUPLED)
    for name, datatype, count in (("IN", "INT32", ANSWERS), ("DELAY", "UINT32", ANSWERS), ("WAIT", "UINT32", 1)):
        request.inputs.add(name=name, datatype=datatype, shape=[count])
        request.raw_input_contents.append(bytes(4 * count))
    return bytes(request.SerializeToString())


def _stream(address: str, message: bytes, requests: int, answers: int) -> int:
    """So many requests on one stream; the answers that came. RuntimeError with the error of one that failed."""
    window, got = Semaphore(_WINDOW), 0

    def sent() -> Iterator[bytes]:
        for _ in range(requests):
            window.acquire()
            yield message

    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(
            _STREAM,
            request_serializer=bytes,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        for answer in call(sent(), metadata=(("x-api-key", KEY),), timeout=600):
            if answer.error_message:
                raise RuntimeError(answer.error_message)
            if not answer.infer_response.outputs:
                continue  # an empty final response
            got += 1
            if got % answers == 0:
                window.release()
    if got != requests * answers:
        raise RuntimeError(f"{got} answers came to {requests} requests of {answers} each")
    return got


def _events(address: str, requests: int) -> int:
    """So many requests one after the other; the events that came."""
    body = json.dumps({"IN": [0] * ANSWERS, "DELAY": [0] * ANSWERS, "WAIT": [0]}).encode()
    head = (
        f"POST /v2/models/{DECOUPLED}/generate_stream HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, _, port = address.rpartition(":")
    events = 0
    with socket.create_connection((host, int(port)), 60) as connection:
        for _ in range(requests):
            connection.sendall(head + body)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                more = connection.recv(1 << 18)
                if not more:
                    raise RuntimeError(f"the connection was closed amid the events: {data[-200:]!r}")
                data += more
            found = data.count(b"data:")
            if not data.startswith(b"HTTP/1.1 200") or found != ANSWERS:
                raise RuntimeError(f"{found} events came where {ANSWERS} were asked for: {data[:200]!r}")
            events += found
    return events


@contextmanager
def _governed(upstream: Server, folder: Path, otlp: str, engine: str = "") -> Iterator[Running]:
    """As everywhere, with a route for the decoupled model."""
    http, grpc_ = (f"127.0.0.1:{port}" for port in free_ports(2))
    (folder / "policy.csv").write_text(f"{configs.policy()}p, role:bench, acme, model:{DECOUPLED}, infer, allow\n")
    settings = json.loads(configs.tidegate_governed(upstream, http, grpc_, folder, otlp, engine))
    settings["routes"][DECOUPLED] = {"variants": [{"name": "only", "model": DECOUPLED, "weight": 1}]}
    with _tidegate(json.dumps(settings), folder, http, None) as pid:
        yield Running(pid, http, grpc_)


_GOVERNED = {GOVERNED: _governed, f"{GOVERNED}, grpcio": partial(_governed, engine="grpcio")}
"""With a route for the decoupled model, which the other sections do not need."""
