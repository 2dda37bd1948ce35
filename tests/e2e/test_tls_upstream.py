"""TLS to model servers: Triton's own on gRPC, a terminator in front of its HTTP port."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from driving import ask, channel, fp32, message, repeat, until
from gateway_fixture import GatewayFactory
from tls_fixture import Authority, Issued, authority, put, stranger
from triton_fixture import RunningTriton, repository, running_triton
from tritonclient.grpc import service_pb2 as pb

__all__ = ["authority", "stranger"]
INFER = "/v2/models/identity_fp32/infer"


class Terminator:
    """Ends TLS and passes bytes on to `behind`; remembers whose certificates it saw."""

    def __init__(self, context: ssl.SSLContext, behind: str) -> None:
        self.seen: list[str] = []
        self._behind = behind
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def cut_idle(self) -> None:
        """Close every connection in order."""

        def close() -> None:
            for writer in tuple(self._open):
                writer.close()

        self._loop.call_soon_threadsafe(close)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._one, "127.0.0.1", 0, ssl=self._context)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stop.wait()
        server.close()
        for writer in tuple(self._open):
            writer.close()
        await asyncio.sleep(0.2)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        shown = writer.get_extra_info("peercert")
        self.seen.append(str((shown or {}).get("subject", "")))
        host, port = self._behind.split(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, ssl.SSLError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        self._open.discard(writer)


def terminating(issued: Issued, folder: Path, clients: Authority | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*issued.write(folder, "terminator"))
    if clients is not None:
        context.load_verify_locations(cadata=clients.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def secure_triton(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[tuple[RunningTriton, Authority]]:
    """A Triton whose gRPC speaks TLS and demands certificates of `clients`."""
    folder = tmp_path_factory.mktemp("secure-triton")
    clients = Authority("clients of triton")
    cert, key = authority.issue(cn="triton", dns=("triton.example",)).write(folder, "server")
    root = put(folder / "clients.pem", clients.pem)
    flags = ["--grpc-use-ssl=1", "--grpc-use-ssl-mutual=1", f"--grpc-server-cert={cert}", f"--grpc-server-key={key}"]
    models = repository(folder / "models", "identity_fp32", "repeat_int32")
    with running_triton([models], folder / "log", extra=[*flags, f"--grpc-root-cert={root}"]) as server:
        yield server, clients


def test_both_ways_to_triton(
    gateway: GatewayFactory, secure_triton: tuple[RunningTriton, Authority], authority: Authority, tmp_path: Path
) -> None:
    """Inference over HTTP, streams over gRPC; own certificate, a name that the address is not; renewal."""
    server, clients = secure_triton
    ca = put(tmp_path / "ca.pem", authority.pem)
    cert, key = clients.client(cn="gateway one").write(tmp_path, "own")
    issued = authority.issue(cn="t", dns=("triton.example",))
    with Terminator(terminating(issued, tmp_path, clients), server.http) as front:
        tls = f"tls: {{ca: {ca}, cert: {cert}, key: {key}, server_name: triton.example}}"
        running = gateway(f"upstreams: {{t: {{http: '{front.address}', grpc: '{server.grpc}', {tls}}}}}\n")
        assert running.post(INFER, fp32()).status == 200
        request = repeat(3, 1)
        with channel(running.grpc) as made:
            stub = made.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            assert all(not one.error_message for one in stub(iter([request]), timeout=30))
            assert ask(made, message("identity_fp32", fp32())).code == "OK"
            # A stream goes on over the old connection while certificates change, and new ones are taken.
            long = stub(iter([repeat(20, 200)]), timeout=60)
            next(long)
            renewed = clients.client(cn="gateway two")
            put(key, renewed.key, 0o600)
            put(cert, renewed.cert)
            until(lambda: any("gateway two" in one for one in front.seen), 15, "the new certificate is shown")
            assert running.post(INFER, fp32()).status == 200
            assert sum(1 for one in long if not one.error_message) >= 19
            assert all(not one.error_message for one in stub(iter([request]), timeout=30))
        # Connections that the server closes while idle cost no request.
        for _ in range(20):
            assert running.post(INFER, fp32()).status == 200
            front.cut_idle()
            time.sleep(0.1)
            assert running.post(INFER, fp32()).status == 200


@pytest.mark.parametrize("wrong", ["ca", "name", "no own certificate", "plain text"])
def test_wrong_servers_are_unreachable(
    gateway: GatewayFactory,
    triton: RunningTriton,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
    wrong: str,
) -> None:
    clients = Authority("clients")
    ca = put(tmp_path / "ca.pem", (stranger if wrong == "ca" else authority).pem)
    cert, key = clients.client().write(tmp_path, "own")
    own = "" if wrong == "no own certificate" else f", cert: {cert}, key: {key}"
    name = ", server_name: other.example" if wrong == "name" else ""
    with Terminator(terminating(authority.server(), tmp_path, clients), triton.http) as front:
        address = triton.http if wrong == "plain text" else front.address
        running = gateway(f"upstreams: {{t: {{http: '{address}', tls: {{ca: {ca}{own}{name}}}}}}}\n", wait="live")
        answer = running.post(INFER, fp32())
        assert answer.status == 503, answer
        assert address not in answer.error
        assert "certificate" not in answer.error.lower()
