"""Every answer carries `x-request-id`: pages outside of `/v2`, refusals of the server itself, unknown gRPC methods."""

from __future__ import annotations

import socket

import grpc
import pytest

PAGES = (
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/gateway/v1/snapshot", 200),
    ("GET", "/gateway/v1/nothing", 404),
    ("DELETE", "/healthz", 405),
    ("GET", "/v2", 200),
    ("GET", "/v2/health/live", 200),
    ("GET", "/v2/nothing", 404),
    ("GET", "/", 404),
)


@pytest.mark.parametrize(("method", "path", "status"), PAGES)
def test_pages(shared_gateway, method, path, status):
    """Taken over when sent, made when not or when it is none."""
    for sent, taken in (("a-1", True), (None, False), ("no blank", False), ("x" * 129, False)):
        answer = shared_gateway.request(method, path, headers={} if sent is None else {"x-request-id": sent})
        assert answer.status == status
        assert (answer.headers["x-request-id"] == sent) is taken
        assert 1 <= len(answer.headers["x-request-id"]) <= 128


@pytest.mark.parametrize(
    ("data", "status", "mine"),
    [
        (b"GET /healthz HTTP/1.1\r\nX-Request-Id: a-2\r\nHost: a\r\nHost: b\r\n\r\n", b"400", True),
        (b"POST /v2/x HTTP/1.1\r\nHost: a\r\nx-request-id: a-2\r\nTransfer-Encoding: gzip\r\n\r\n", b"400", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx-request-id: a-2\r\nx: " + b"y" * 16_000 + b"\r\n\r\n", b"431", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx-request-id: a b\r\nx: \0\r\n\r\n", b"400", False),
        (b"\x16\x03\x01", b"400", False),
    ],
    ids=["host", "framing", "size", "no id", "no request"],
)
def test_refusals_of_the_server(shared_gateway, data, status, mine):
    host, port = shared_gateway.http.split(":")
    before = b"GET /healthz HTTP/1.1\r\nHost: a\r\nx-request-id: before\r\n\r\n"
    for prefix in (b"", before):  # another request's id on the same connection is not taken for this one's
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(prefix + data)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        last = answer[answer.rindex(b"HTTP/1.1 ") :].lower()
        assert last.startswith(b"http/1.1 " + status)
        (line,) = [line for line in last.split(b"\r\n") if line.startswith(b"x-request-id: ")]
        assert (line == b"x-request-id: a-2") is mine
        assert line != b"x-request-id: before"


@pytest.mark.parametrize("many", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/Nothing", "/other.Service/Call"])
def test_unknown_methods(shared_gateway, method, many):
    with grpc.insecure_channel(shared_gateway.grpc) as channel:
        for sent in ("a-3", None):
            metadata = () if sent is None else (("x-request-id", sent),)
            if many:
                call = channel.stream_stream(method)(iter([b""]), timeout=60, metadata=metadata)
                with pytest.raises(grpc.RpcError) as raised:
                    list(call)
            else:
                with pytest.raises(grpc.RpcError) as raised:
                    channel.unary_unary(method)(b"", timeout=60, metadata=metadata)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
            got = dict(raised.value.initial_metadata())["x-request-id"]
            assert (got == sent) or sent is None
            assert got
