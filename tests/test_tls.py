"""Certificates and keys as files, contexts, and the names in certificates: tables and Hypothesis."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tls_fixture import Authority, authority, der, pem_key, put, stranger

from gateway.errors import Unauthenticated
from gateway.identity import Identifier
from gateway.settings import Anonymous, ApiKey, Identity, Listen, Mtls, Settings, Tls, Upstream, UpstreamTls
from gateway.settings.file import load
from gateway.tls import (
    PeerCertificate,
    certificate_of,
    client_certificates,
    read_material,
    server_context,
    user_of,
    watched,
)

__all__ = ["authority", "stranger"]
_LATER = 4e9


def settings_of(tls: Tls) -> Settings:
    return Settings(listen=Listen(tls=tls), upstreams={"t": Upstream(http="127.0.0.1:1")})


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> Tls:
    cert, key = authority.server().write(tmp_path, "server")
    return Tls(cert=cert, key=key, client_ca=put(tmp_path / "ca.pem", authority.pem))


def codes(tls: Tls) -> list[tuple[str, str]]:
    material, problems = read_material(settings_of(tls))
    wrong = [(problem.place[-1], problem.code) for problem in problems]
    assert (material.listen is None) == any(problem.severity == "error" for problem in problems)
    return wrong


def test_a_good_pair(tls: Tls) -> None:
    material, problems = read_material(settings_of(tls))
    assert not problems
    assert material.listen is not None
    assert material.digest == read_material(settings_of(tls))[0].digest
    assert "PRIVATE" not in repr(material)
    assert list(watched(settings_of(tls))) == [tls.cert, tls.key, tls.client_ca]
    context = server_context(material.listen, "optional", alpn="h2")
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda t, a: t.cert.unlink(), [("cert", "unreadable-file")]),
        (lambda t, a: t.key.unlink(), [("key", "unreadable-file")]),
        (lambda t, a: t.client_ca.unlink(), [("client_ca", "unreadable-file")]),
        (lambda t, a: put(t.cert, b"nothing"), [("cert", "no-certificate")]),
        (lambda t, a: put(t.cert, b""), [("cert", "no-certificate")]),
        (lambda t, a: put(t.client_ca, b"\xff\0"), [("client_ca", "no-certificate")]),
        (lambda t, a: put(t.key, b"nothing", 0o600), [("key", "wrong-key")]),
        (lambda t, a: put(t.key, a.server().key, 0o600), [("key", "key-mismatch")]),
        (lambda t, a: put(t.cert, a.server().cert), [("key", "key-mismatch")]),
        (lambda t, a: t.key.chmod(0o640), [("key", "open-key")]),
        (lambda t, a: t.key.chmod(0o604), [("key", "open-key")]),
        (lambda t, a: a.server(days=-1).write(t.cert.parent, "server"), [("cert", "expired")]),
        (lambda t, a: a.server(days=13).write(t.cert.parent, "server"), [("cert", "expires-soon")]),
        (
            lambda t, a: a.server(key=rsa.generate_private_key(65537, 1024)).write(t.cert.parent, "server"),
            [("key", "weak-key")],
        ),
        (
            lambda t, a: put(t.key, pem_key(ec.generate_private_key(ec.SECP256R1()), b"pass"), 0o600),
            [("key", "wrong-key")],
        ),
        (
            lambda t, a: put(t.key, pem_key(ed25519.Ed25519PrivateKey.generate()), 0o600),
            [("key", "wrong-key")],
        ),
        (lambda t, a: put(t.cert, b"x" * (5 << 20)), [("cert", "too-large")]),
    ],
)
def test_what_is_wrong_with_files(tls: Tls, authority: Authority, damage, found) -> None:
    damage(tls, authority)
    assert codes(tls) == found


def test_not_yet_valid_and_now(tls: Tls) -> None:
    from gateway.tls.files import TlsFileError, read_chain

    early = dt.datetime.now(dt.UTC) - dt.timedelta(days=100)
    with pytest.raises(TlsFileError, match="clock"):
        read_chain(tls.cert, early)


def test_check_names_the_line(tls: Tls, tmp_path: Path) -> None:
    tls.key.chmod(0o644)
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        f"listen:\n  tls:\n    cert: {tls.cert}\n    key: {tls.key}\n"
        "upstreams:\n  t:\n    http: 127.0.0.1:1\n    tls: {cert: a.pem}\n"
        "identity:\n  mtls: {tenant: acme}\n"
    )
    settings, findings = load(file)
    assert settings is None
    found = {finding.code: finding for finding in findings}
    assert found["open-key"].line == 4
    assert f"chmod 600 {tls.key}" in found["open-key"].message
    assert found["half-pair"].line == 8
    assert found["no-client-ca"].line == 10


@pytest.mark.parametrize(
    ("client_ca", "identity", "asked"),
    [
        (False, None, "none"),
        (True, None, "required"),
        (True, Identity(anonymous=Anonymous()), "required"),
        (True, Identity(mtls=Mtls(tenant="a")), "required"),
        (True, Identity(mtls=Mtls(tenant="a"), anonymous=Anonymous()), "optional"),
        (True, Identity(mtls=Mtls(tenant="a"), api_keys=(ApiKey(sha256="0" * 64, user="u", tenant="a"),)), "optional"),
    ],
)
def test_who_must_show_a_certificate(client_ca: bool, identity: Identity | None, asked: str) -> None:
    tls = Tls(cert=Path("c"), key=Path("k"), client_ca=Path("ca") if client_ca else None)
    made = Settings(listen=Listen(tls=tls), identity=identity, upstreams={"t": Upstream(http="127.0.0.1:1")})
    assert client_certificates(made) == asked


def test_names_of_a_certificate(authority: Authority) -> None:
    issued = authority.client(cn="bob", uri=("spiffe://a/b",), dns=("x.example", "y.example"), ip=("127.0.0.1",))
    for encoded in (issued.cert, der(issued)):
        names = certificate_of(encoded)
        assert (names.san_uri, names.san_dns, names.cn) == (("spiffe://a/b",), ("x.example", "y.example"), ("bob",))
    assert certificate_of(authority.client(cn=None).cert).cn == ()
    # A SAN that is no SEQUENCE: verified by nobody's eyes, so it has no names.
    assert certificate_of(authority.client(raw_san=b"\x04\x01x").cert).san_uri == ()


@pytest.mark.parametrize(
    ("names", "user_from", "user"),
    [
        ({"san_uri": ("spiffe://a/b",)}, "san_uri", "spiffe://a/b"),
        ({"san_uri": ("spiffe://a/b", "spiffe://a/c")}, "san_uri", None),
        ({"san_dns": ("a.example", "b.example")}, "san_dns", "a.example"),
        ({"san_dns": ("*.example",)}, "san_dns", None),
        ({"cn": ("bob",)}, "cn", "bob"),
        ({"cn": ("bob", "alice")}, "cn", None),
        ({"cn": ("alice\0.evil",)}, "cn", None),
        ({"cn": ("alice\nx",)}, "cn", None),
        ({"cn": (" alice",)}, "cn", None),
        ({"cn": ("",)}, "cn", None),
        ({"cn": ("a" * 2049,)}, "cn", None),
        ({}, "san_uri", None),
        ({"cn": ("bob",), "not_after": 1.0}, "cn", None),
    ],
)
def test_user_of_a_certificate(names: dict, user_from, user: str | None) -> None:
    assert user_of(PeerCertificate(**{"not_after": _LATER, **names}), user_from) == user


@given(st.text())
def test_a_user_is_the_name_whole_or_nobody(name: str) -> None:
    user = user_of(PeerCertificate(cn=(name,), not_after=_LATER), "cn")
    assert user in (name, None)
    assert user is None or (user.isprintable() and user.strip() == user and "*" not in user)


def test_which_credential_wins() -> None:
    identity = Identity(mtls=Mtls(tenant="acme", user_from="cn"), anonymous=Anonymous())
    identifier = Identifier(identity)
    shown = PeerCertificate(cn=("bob",), not_after=_LATER)
    subject = identifier.identify({}, shown)
    assert (subject.user, subject.tenant, subject.method) == ("bob", "acme", "mtls")
    assert identifier.identify({}).user == "anonymous"
    with pytest.raises(Unauthenticated):
        identifier.identify({}, PeerCertificate(not_after=_LATER))
    with pytest.raises(Unauthenticated):
        identifier.identify({"x-api-key": "wrong"}, shown)
    # Without `mtls` in the settings a certificate names nobody.
    assert Identifier(Identity(anonymous=Anonymous())).identify({}, shown).user == "anonymous"


def test_upstream_files(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.client().write(tmp_path, "own")
    upstream = Upstream(
        http="127.0.0.1:1", tls=UpstreamTls(ca=put(tmp_path / "ca.pem", authority.pem), cert=cert, key=key)
    )
    made = Settings(upstreams={"t": upstream})
    material, problems = read_material(made)
    assert not problems
    assert material.upstreams["t"].ca == authority.pem
    key.chmod(0o666)
    material, [problem] = read_material(made)
    assert problem.place == ("upstreams", "t", "tls", "key")
    assert not material.upstreams
