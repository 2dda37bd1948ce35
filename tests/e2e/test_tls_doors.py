"""TLS and mTLS on both doors of a real gateway in front of a real Triton, with real clients."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http
from driving import ask, fp32, message, repeat, until
from gateway_fixture import Gateway, GatewayFactory
from tls_fixture import (
    Authority,
    Issued,
    authority,
    der,
    https,
    put,
    secure_channel,
    served_certificate,
    stranger,
    trusting,
)
from tritonclient.grpc import service_pb2 as pb

__all__ = ["authority", "stranger"]

KEY = "tgk_key_of_a_test"
API_KEYS = f"api_keys: [{{sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, user: alice, tenant: acme}}]"
UPSTREAM = "upstreams: {t: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
INFER = "/v2/models/identity_fp32/infer"


@pytest.fixture
def secure(gateway: GatewayFactory, authority: Authority, tmp_path: Path) -> Callable[..., Gateway]:
    """Starts gateways with TLS; `identity` is the section's inside, `client_ca` the CAs of clients."""

    def start(identity: str = "", *, client_ca: Authority | None = None, more: str = "", **options) -> Gateway:
        from triton_fixture import free_ports

        http, grpc = free_ports(2)
        issued = authority.server()
        folder = tmp_path / "certificates"
        folder.mkdir(exist_ok=True)
        cert, key = issued.write(folder, "server")
        tls = f"cert: {cert}, key: {key}"
        if client_ca is not None:
            tls += f", client_ca: {put(folder / 'clients.pem', client_ca.pem)}"
        text = f"listen: {{http: '127.0.0.1:{http}', grpc: '127.0.0.1:{grpc}', tls: {{{tls}}}}}\n{UPSTREAM}{more}"
        if identity:
            text += f"identity: {{{identity}}}\n"
        running = gateway(text, wait="", **options)
        running.http, running.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        until(lambda: "serving: http" in running.log.read_text() or running.process.poll() is not None, 90, "ready")
        assert running.process.poll() is None, running.log.read_text()
        return running

    return start


def infer(gateway: Gateway, context: ssl.SSLContext, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    return https(gateway.http, context, "POST", INFER, fp32(), headers)


def test_tls_on_both_doors(secure, authority: Authority, tmp_path: Path) -> None:
    running = secure()
    context = trusting(authority.pem)
    assert infer(running, context)[0] == 200
    with secure_channel(running.grpc, authority.pem) as channel:
        assert ask(channel, message("identity_fp32", fp32())).code == "OK"
    ca = put(tmp_path / "ca.pem", authority.pem)
    with contextlib.closing(
        tritonclient.http.InferenceServerClient(running.http, ssl=True, ssl_context_factory=lambda: context)
    ) as client:
        assert client.is_server_live()
        assert client.get_server_metadata()["name"]
    with contextlib.closing(
        tritonclient.grpc.InferenceServerClient(running.grpc, ssl=True, root_certificates=str(ca))
    ) as client:
        assert client.is_model_ready("identity_fp32")


def test_only_what_is_sound_is_spoken(secure, authority: Authority) -> None:
    """TLS 1.2 and later, ALPN, no renegotiation; plain HTTP is no way in; silence ends."""
    running = secure(more="limits: {header_timeout: 1s}\n")
    for address, protocol in ((running.http, "http/1.1"), (running.grpc, "h2")):
        host, port = address.rsplit(":", 1)
        context = trusting(authority.pem)
        context.set_alpn_protocols([protocol])
        with (
            socket.create_connection((host, int(port)), 10) as raw,
            context.wrap_socket(raw, server_hostname=host) as s,
        ):
            assert s.selected_alpn_protocol() == protocol
            assert s.version() == "TLSv1.3"
        old = trusting(authority.pem)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection((host, int(port)), 10) as raw, old.wrap_socket(raw, server_hostname=host) as s:
            assert s.version() == "TLSv1.2"
            assert "ECDHE" in s.cipher()[0]
            assert "CBC" not in s.cipher()[0]
        # The client may offer what it likes: 1.1 is not taken.
        older = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        older.check_hostname, older.verify_mode = False, ssl.CERT_NONE
        older.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            older.minimum_version, older.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection((host, int(port)), 10) as raw, pytest.raises((ssl.SSLError, OSError)):
            older.wrap_socket(raw)
        with socket.create_connection((host, int(port)), 10) as raw:
            raw.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
            raw.settimeout(10)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := raw.recv(4096):
                    answer += piece
            assert b"HTTP/1.1 2" not in answer
        began = time.monotonic()
        with socket.create_connection((host, int(port)), 10) as raw:
            raw.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(4096):
                    pass
        assert time.monotonic() - began < 15, protocol
    if shutil.which("openssl") is None:
        return  # Python has no way to ask for it
    openssl = subprocess.run(
        ["openssl", "s_client", "-connect", running.http, "-tls1_2"],
        input=b"R\n", capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert b"RENEGOTIATING" in openssl.stdout + openssl.stderr
    assert b"no renegotiation" in openssl.stderr, openssl.stderr


def test_wrong_server_ca_is_noticed_by_clients(secure, stranger: Authority) -> None:
    running = secure()
    with pytest.raises(ssl.SSLCertVerificationError):
        infer(running, trusting(stranger.pem))


def refused_in_handshake(running: Gateway, authority: Authority, own: Issued | None, folder: Path) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        infer(running, trusting(authority.pem, own, folder))
    with secure_channel(running.grpc, authority.pem, own) as channel:
        assert ask(channel, message("identity_fp32", fp32()), timeout=60).code == "UNAVAILABLE"


def test_client_ca_alone_demands_a_certificate(
    secure, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    clients = Authority("clients")
    running = secure(client_ca=clients)
    good = clients.client(cn="bob")
    assert infer(running, trusting(authority.pem, good, tmp_path))[0] == 200
    with secure_channel(running.grpc, authority.pem, good) as channel:
        assert ask(channel, message("identity_fp32", fp32())).code == "OK"
    for own in (None, stranger.client(), clients.client(days=-1), clients.issue(cn="a server's")):
        refused_in_handshake(running, authority, own, tmp_path)


SPIFFE = "spiffe://example.org/ns/prod/sa/scorer"
POLICY = f"""\
p, user:{SPIFFE}, acme, model:identity_fp32, infer, allow
p, user:scorer.example, acme, model:identity_fp32, infer, allow
p, user:scorer, acme, model:identity_fp32, infer, allow
p, user:alice, acme, model:identity_fp32, infer, allow
"""


@pytest.mark.parametrize("others", ["", API_KEYS + ", "])
@pytest.mark.parametrize(
    ("user_from", "names"),
    [("san_uri", {"uri": (SPIFFE,)}), ("san_dns", {"dns": ("scorer.example", "other")}), ("cn", {"cn": "scorer"})],
)
def test_identity_from_each_name(
    secure, authority: Authority, stranger: Authority, tmp_path: Path, user_from: str, names: dict, others: str
) -> None:
    """On both doors, where a certificate is the only way in and where a key is another."""
    clients = Authority("clients")
    running = secure(
        f"{others}mtls: {{user_from: {user_from}, tenant: acme}}",
        client_ca=clients,
        more="policy: {file: policy.csv}\n",
        files={"policy.csv": POLICY},
    )
    request = message("identity_fp32", fp32())

    def both(own: Issued | None, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
        status, _ = infer(running, trusting(authority.pem, own, tmp_path), headers)
        with secure_channel(running.grpc, authority.pem, own) as channel:
            unary = ask(channel, request, {k.lower(): v for k, v in (headers or {}).items()}).code
            stub = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            metadata = tuple((k.lower(), v) for k, v in (headers or {}).items())
            try:
                answers = list(stub(iter([request]), metadata=metadata, timeout=30))
                stream = answers[0].error_message or "OK"
            except Exception as error:  # noqa: BLE001 - grpc's own; its code is looked at
                stream = error.code().name
        return status, unary, stream

    assert both(clients.client(**{"cn": "nobody", **names})) == (200, "OK", "OK")
    assert both(clients.client(**{**names, "cn": "scorer2"} if user_from == "cn" else {"cn": "x", "dns": ("y",), "uri": ("spiffe://z/z",)}))[:2] == (403, "PERMISSION_DENIED")  # fmt: skip
    # A certificate without the name that is asked for is nobody's.
    nameless = {"san_uri": {"dns": ("a",)}, "san_dns": {"uri": ("spiffe://a/b",)}, "cn": {"cn": None, "dns": ("a",)}}
    assert both(clients.client(**nameless[user_from])) == (401, "UNAUTHENTICATED", "UNAUTHENTICATED")
    refused_in_handshake(running, authority, stranger.client(**{"cn": "nobody", **names}), tmp_path)
    refused_in_handshake(running, authority, clients.client(days=-1, **{"cn": "nobody", **names}), tmp_path)
    if not others:
        refused_in_handshake(running, authority, None, tmp_path)
        return
    assert both(None) == (401, "UNAUTHENTICATED", "UNAUTHENTICATED")
    assert both(None, {"x-api-key": KEY}) == (200, "OK", "OK")
    # Headers that other proxies set are nothing here.
    forged = {"x-forwarded-client-cert": f"URI={SPIFFE}", "x-client-cert": "scorer", "x-ssl-client-s-dn": "CN=scorer"}
    assert both(None, forged) == (401, "UNAUTHENTICATED", "UNAUTHENTICATED")
    # A wrong key is not mended by a good certificate.
    good = clients.client(**{"cn": "nobody", **names})
    assert both(good, {"x-api-key": "wrong"}) == (401, "UNAUTHENTICATED", "UNAUTHENTICATED")


def test_streams_through_the_relay(secure, authority: Authority) -> None:
    """A certificate that may be left out: streams, large messages and many connections pass."""
    clients = Authority("clients")
    running = secure("anonymous: {}, mtls: {tenant: acme}", client_ca=clients)
    with secure_channel(running.grpc, authority.pem) as channel:
        stub = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        answers = list(stub(iter([repeat(20, 5)]), timeout=30))
        assert len(answers) >= 20
        assert not any(answer.error_message for answer in answers)
        rows = 500_000
        large = pb.ModelInferRequest(model_name="identity_fp32")
        large.inputs.add(name="INPUT0", datatype="FP32", shape=[rows, 2])
        large.raw_input_contents.append(b"\0\1\2\3" * rows * 2)
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    import grpc

    with grpc.secure_channel(running.grpc, grpc.ssl_channel_credentials(authority.pem), options=unlimited) as channel:
        answer = ask(channel, large)
        assert answer.code == "OK", answer
        assert answer.response.raw_output_contents[0] == large.raw_input_contents[0]
    assert running.stop() == 0
    assert not list((running.folder / "state" / "run").glob("g*")), "the relay's socket is left behind"


def test_tls_is_fixed_but_its_files_are_not(secure, authority: Authority, tmp_path: Path) -> None:
    """Another path takes effect; a broken pair does not; turning TLS off needs a restart."""
    running = secure()
    folder = tmp_path / "certificates"
    second = authority.server()
    second.write(folder, "second")
    text = running.config.read_text()
    running.config.write_text(text.replace("server.pem", "second.pem").replace("server.key", "second.key"))
    for address in (running.http, running.grpc):
        until(lambda at=address: served_certificate(at) == der(second), 10, f"{address} shows the new certificate")
    broken = authority.server()
    put(folder / "second.key", broken.key, 0o600)
    until(lambda: "key-mismatch" in running.log.read_text(), 10, "the refusal in the log")
    [line] = [line for line in running.log_lines() if "key-mismatch" in str(line)]
    assert f"{running.config}:1:" in str(line)
    assert served_certificate(running.http) == der(second)
    put(folder / "second.pem", broken.cert)
    for address in (running.http, running.grpc):
        until(lambda at=address: served_certificate(at) == der(broken), 10, "the remedy is seen without an edit")
    (folder / "second.key").chmod(0o644)
    until(lambda: "open-key" in running.log.read_text(), 10, "the refusal in the log")
    running.config.write_text("\n".join(["listen: {http: '127.0.0.1:1'}", *text.splitlines()[1:]]))
    until(lambda: "fixed-setting" in running.log.read_text(), 10, "the refusal in the log")
    secret = broken.key.decode().splitlines()[1]
    assert secret not in running.log.read_text()
