"""Certificates for tests: CAs of the test's own, and what they sign. Nothing outlives the test."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import ipaddress
import json
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """`NAME.pem` and `NAME.key`, each renamed over what was there; their paths."""
        return put(folder / f"{name}.pem", self.cert), put(folder / f"{name}.key", self.key, mode=0o600)


class Authority:
    """A CA."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * HOUR)
            .not_valid_after(now + dt.timedelta(days=60))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        cn: str | None = "someone",
        dns: tuple[str, ...] = (),
        uri: tuple[str, ...] = (),
        ip: tuple[str, ...] = (),
        days: float = 30,
        client: bool = False,
        key: Any = None,
        raw_san: bytes | None = None,
    ) -> Issued:
        """A certificate; `days` below 0: expired. `raw_san`: the extension's bytes, however wrong."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        names = [x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn is not None else []
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=40))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        sans: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        sans += [x509.UniformResourceIdentifier(name) for name in uri]
        sans += [x509.IPAddress(ipaddress.ip_address(name)) for name in ip]
        if raw_san is not None:
            san_oid = x509.SubjectAlternativeName.oid
            builder = builder.add_extension(x509.UnrecognizedExtension(san_oid, raw_san), critical=False)
        elif sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.PEM), pem_key(key))

    def server(self, **more: Any) -> Issued:
        """For 127.0.0.1 and localhost."""
        return self.issue(**{"cn": "server", "dns": ("localhost",), "ip": ("127.0.0.1",), **more})

    def client(self, **more: Any) -> Issued:
        """For a client."""
        return self.issue(client=True, **more)


def pem_key(key: Any, passphrase: bytes | None = None) -> bytes:
    """A private key as PKCS #8."""
    sealed = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def put(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write a new file and rename it over the old one."""
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(data)
    aside.chmod(mode)
    aside.replace(path)
    return path


@pytest.fixture(scope="session")
def authority() -> Authority:
    """One CA for the run."""
    return Authority()


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """A CA that nobody trusts, of the same name."""
    return Authority()


def trusting(ca: bytes, own: Issued | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """A client's context that trusts `ca` alone; `own` is written to `folder` to be loaded."""
    context = ssl.create_default_context(cadata=ca.decode())
    if own is not None:
        assert folder is not None
        context.load_cert_chain(*own.write(folder, f"own{secrets.token_hex(4)}"))
    return context


def https(
    address: str,
    context: ssl.SSLContext,
    method: str = "GET",
    path: str = "/v2",
    document: Any = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPSConnection(address, timeout=30, context=context)
    try:
        body = None if document is None else json.dumps(document).encode()
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def served_certificate(address: str) -> bytes:
    """The certificate (DER) that a new connection is shown, whoever made it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as raw, context.wrap_socket(raw) as secure:
        shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def der(issued: Issued) -> bytes:
    """Its certificate in DER."""
    return ssl.PEM_cert_to_DER_cert(issued.cert.decode())


@contextlib.contextmanager
def secure_channel(address: str, ca: bytes, own: Issued | None = None) -> Iterator[grpc.Channel]:
    """A gRPC channel over TLS with connections of its own."""
    pair = (None, None) if own is None else (own.key, own.cert)
    credentials = grpc.ssl_channel_credentials(ca, *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options=options) as made:
        yield made
