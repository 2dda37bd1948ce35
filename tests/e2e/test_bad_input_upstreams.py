"""Model servers that are not there, hang, die or talk nonsense: the right status on both protocols, in time."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import grpc
import pytest
from driving import (
    MODEL_PAGE,
    STREAM,
    Background,
    RawUpstream,
    ask,
    call,
    channel,
    children,
    descriptors,
    fp32,
    http_answer,
    message,
    pages,
    until,
)
from gateway_fixture import start_gateway
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2 as pb

TIMEOUT = 1.0
OUTPUT = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}


def sends(data: bytes, *, close: bool = False):
    def infer(connection: socket.socket) -> None:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_RDWR)

    return pages(infer)


def silent(_: bytes, __: socket.socket) -> None:
    """Accept and never answer."""


def answered(**changes) -> bytes:
    return http_answer(json.dumps({"model_name": "m", "model_version": "1", "outputs": [OUTPUT | changes]}).encode())


# How the server behaves, and what clients are told: HTTP statuses, gRPC codes. JSON tensors that nobody inspects
# reach HTTP clients as the server wrote them; for gRPC they are read.
CASES = {
    "mute": (silent, {504}, {"DEADLINE_EXCEEDED"}),
    "hung": (pages(lambda _: None), {504}, {"DEADLINE_EXCEEDED"}),
    "trickle": (sends(b"HTTP/1.1 200 OK\r\ncontent-"), {504}, {"DEADLINE_EXCEEDED"}),
    "closes": (sends(b"", close=True), {503}, {"UNAVAILABLE"}),
    "closes_in_head": (sends(b"HTTP/1.1 200 OK\r\ncont", close=True), {502, 503}, {"INTERNAL", "UNAVAILABLE"}),
    "closes_in_body": (
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{", close=True),
        {502, 503},
        {"INTERNAL", "UNAVAILABLE"},
    ),
    "garbage": (sends(b"\x00\x01 what is this\r\n\r\n"), {502}, {"INTERNAL"}),
    "not_json": (sends(http_answer(b"<html>")), {502}, {"INTERNAL"}),
    "other_json": (sends(http_answer(b'{"predictions":[1]}')), {502}, {"INTERNAL"}),
    "wrong_size": (sends(answered(shape=[1, 3])), {200, 502}, {"INTERNAL"}),
    "wrong_type": (sends(answered(datatype="QUX")), {200, 502}, {"INTERNAL"}),
    "bad_length": (
        sends(http_answer(b"{}", headers="inference-header-content-length: 99\r\n")),
        {502},
        {"INTERNAL"},
    ),
    "error_page": (
        sends(http_answer(b"<html>no</html>", "500 Oops", "content-type: text/html\r\n")),
        {502},
        {"INTERNAL"},
    ),
    "unavailable": (sends(http_answer(b'{"error":"not now"}', "503 Service Unavailable")), {503}, {"UNAVAILABLE"}),
    "good": (sends(answered()), {200}, {"OK"}),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton):
    """A route for each kind of upstream, and one for nobody at all."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(RawUpstream(case[0])).address for name, case in CASES.items()}
        servers["unreachable"] = f"127.0.0.1:{free_ports(1)[0]}"
        servers["no_grpc"] = triton.http
        upstreams = "".join(f"  {name}: {{http: '{address}'}}\n" for name, address in servers.items())
        routes = "".join(
            f"  {name}: {{variants: [{{name: only, model: m, upstream: {name}}}], timeout: {TIMEOUT:g}s}}\n"
            for name in servers
        )
        routes += (
            "  plain: {variants: [{name: only, model: identity_fp32, upstream: no_grpc}]}\n"
            "  repeated: {variants: [{name: only, model: repeat_int32, upstream: no_grpc}]}\n"
        )
        gateway = start_gateway(tmp_path_factory.mktemp("upstreams"), f"upstreams:\n{upstreams}routes:\n{routes}")
        yield gateway
        assert gateway.stop() == 0
        text = gateway.log.read_text()
        assert "Traceback" not in text, text
        assert "never retrieved" not in text


EXPECTED = {name: case[1:] for name, case in CASES.items()} | {"unreachable": ({503}, {"UNAVAILABLE"})}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_right_status_in_time(site, name):
    statuses, codes = EXPECTED[name]
    with channel(site.grpc) as made:
        request = message(name, fp32())
        over_grpc = Background(lambda: ask(made, request))
        began = time.monotonic()
        answer = site.post(f"/v2/models/{name}/infer", fp32())
        took = time.monotonic() - began
        other = over_grpc.result()
    assert answer.status in statuses, answer
    assert other.code in codes, other
    assert took < TIMEOUT + 20
    if other.code == "OK":
        assert answer.json()["outputs"][0]["data"] == [1.0, 1.0]
        return
    if answer.status == 200:
        return
    if answer.status == 504:
        assert took > TIMEOUT - 0.1
    for text in (answer.error, other.details):
        assert text
        assert "127.0.0.1" not in text, "no addresses to clients"
        assert "Traceback" not in text


def test_the_clients_deadline_is_shorter_than_the_routes(site):
    with channel(site.grpc) as made:
        assert ask(made, message("hung", fp32()), timeout=0.3).code == "DEADLINE_EXCEEDED"


def test_without_a_grpc_address_unary_calls_go_over_http(site):
    with channel(site.grpc) as made:
        assert call(made, message("plain", fp32(2.5))).response.raw_output_contents
    assert site.post("/v2/models/plain/infer", fp32()).status == 200
    with channel(site.grpc) as made:
        stub = made.stream_stream(
            STREAM,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        answers = list(stub(iter([message("plain", fp32())]), timeout=60))
        assert len(answers) == 1
        assert "gRPC address" in answers[0].error_message
        with pytest.raises(grpc.RpcError) as raised:
            list(stub(iter([message("plain", fp32())]), timeout=60, metadata=(("triton_grpc_error", "true"),)))
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    events = site.request(
        "POST", "/v2/models/plain/infer", json.dumps(fp32()).encode(), {"accept": "text/event-stream"}
    )
    assert events.status == 501, events
    assert "gRPC address" in events.error


def test_nothing_leaks(site):
    """Connections and descriptors after many failures are those of before."""
    worker = children(site.process.pid)[0]
    names = ("closes", "closes_in_body", "garbage", "not_json", "unreachable", "bad_length", "unavailable")

    def round_of(count: int) -> None:
        with channel(site.grpc) as made:
            for name in names:
                for _ in range(count):
                    site.post(f"/v2/models/{name}/infer", fp32())
                    ask(made, message(name, fp32()))

    def settled() -> int:
        time.sleep(0.3)
        return descriptors(worker)

    round_of(2)
    before = settled()
    round_of(15)
    until(lambda: settled() <= before + 2, 5, "descriptors are given back")


def test_what_comes_back_to_life_is_used_again(site, tmp_path):
    port = free_ports(1)[0]
    text = (
        f"upstreams: {{a: {{http: '127.0.0.1:{port}'}}}}\n"
        "routes: {m: {variants: [{name: only, model: m}], timeout: 1s}}\n"
    )
    one = start_gateway(tmp_path, text, wait="live")
    try:
        assert one.post("/v2/models/m/infer", fp32()).status == 503
        with RawUpstream(sends(answered()), port):
            one.wait_ready(5)
            assert one.post("/v2/models/m/infer", fp32()).status == 200
        assert one.post("/v2/models/m/infer", fp32()).status == 503
        with RawUpstream(sends(answered()), port):
            assert one.post("/v2/models/m/infer", fp32()).status == 200, "at once: no circuit stays open"
    finally:
        assert one.stop() == 0
    assert json.loads(MODEL_PAGE)["name"] == "m"
