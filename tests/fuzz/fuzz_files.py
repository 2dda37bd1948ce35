"""Files that people or another run wrote: each is read or refused with the place of the fault, and nothing else."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import functools
import json
import shutil
import tempfile
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.admission.limit_table import LimitTable, LimitTableError, forget
from gateway.settings import Settings
from gateway.settings.file import load
from gateway.tls.files import TlsFileError, read_cas, read_chain, read_key
from gateway.tls.peer import PeerCertificate, certificate_of, user_of
from gateway.upstream.desired import Wanted
from gateway.upstream.journal import Journal, Mark, pending
from governance.errors import PolicyError
from governance.policy import PolicySnapshot
from governance.policy.cases import parse_cases
from governance.policy.definition import define
from governance.policy.engine import Engine
from governance.policy.model import BUILTIN_MODEL
from governance.policy.parse import parse
from governance.types import Finding

# Of two slots: a header of 8 words, and 4097 rows of 6 words and one for each slot.
_LIMITS_SIZE = 8 * (8 + 4097 * (6 + 2))


def _located(findings: list[Finding], files: set[str], text: bytes) -> None:
    """Every fault says where it is: a line of a file that was read."""
    lines = text.count(b"\n") + text.count(b"\r") + text.count("\u2028".encode()) + text.count("\x85".encode()) + 1
    for one in findings:
        assert one.file in files, one
        assert 1 <= one.line <= lines + 1, one
        assert one.column >= 1, one
        assert one.message, one


@functools.cache
def _folder() -> Path:
    """One for all executions: to make and remove one costs more than most of them."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def policy(data: bytes) -> None:
    """The CSV, compiled with its lint; one that holds decides."""
    try:
        snapshot = PolicySnapshot.compile(data, "p.csv")
    except PolicyError as error:
        assert any(one.severity == "error" for one in error.findings)
        _located(list(error.findings), {"p.csv"}, data)
        return
    _located(list(snapshot.findings), {"p.csv"}, data)
    for rule in snapshot.rules[:4]:
        verdict = snapshot.decide(rule.sub, rule.dom, rule.obj, rule.act)
        assert verdict.line is None or any(one.line == verdict.line for one in snapshot.rules)


def policy_model(data: bytes) -> None:
    """A Casbin model; one that holds decides, rule after rule as well as by look-up."""
    definition, findings = define(data, "m.conf")
    assert (definition is None) == bool(findings)
    _located(findings, {"m.conf"}, data)
    if definition is None:
        return
    words = ["a"] * len(definition.rule)
    if definition.effect_at is not None:
        words[definition.effect_at] = "allow"
    if definition.priority_at is not None:
        words[definition.priority_at] = "1"
    parsed = parse(", ".join(("p", *words)), "p.csv", definition)
    if not parsed.broken:
        engine = Engine(parsed)
        request = ("a",) * len(definition.request)
        assert engine.decide(request) == engine.in_order(request)


def policy_tests(data: bytes) -> None:
    """The YAML of policy tests."""
    cases, findings = parse_cases(data, "t.yaml")
    assert (cases is None) == any(one.severity == "error" for one in findings)
    _located(findings, {"t.yaml"}, data)


def settings(data: bytes) -> None:
    """`tidegate.yaml`, as a file; what it names is not there."""
    path = _folder() / "tidegate.yaml"
    path.write_bytes(data)
    read, findings = load(path, {"NAME": "1"})
    errors = [one for one in findings if one.severity == "error"]
    assert (read is None) == bool(errors)
    _located([one for one in findings if one.file == str(path)], {str(path)}, data)
    if read is not None:
        assert isinstance(read, Settings)
        repr(read)


def limits_file(data: bytes) -> None:
    """`limits` of the run directory, cut short, or (after a 1) as long as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "limits")
        path.write_bytes(data[1:].ljust(_LIMITS_SIZE, b"\0") if data[:1] == b"\1" else data)
        forget(path, 1)
        with contextlib.suppress(LimitTableError):
            table = LimitTable(path, 2)
            table.row("a")
            table.clear(0)
            table.close()


def journal(data: bytes) -> None:
    """`asked` and `marks`, parted by a NUL: whatever lies there, it reads as a state that can be written again."""
    asked, _, marks = data.partition(b"\0")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "asked").write_bytes(asked)
        Path(folder, "marks").write_bytes(marks)
        found = Journal(Path(folder))
        entries = found.entries("triton")
        pending(entries, found.mark(1, 2))
        wanted = Wanted("model", "m", "load", {})
        found.record("triton", wanted, {1: 2})
        (again,) = [one for one in found.entries("triton") if one.key == wanted.key]
        assert again not in pending(found.entries("triton"), found.mark(1, 2))


def peer_certificate(data: bytes) -> None:
    """What a client's certificate says of its owner."""
    certificate_of.cache_clear()
    found = certificate_of(data)
    assert isinstance(found, PeerCertificate)
    for source in ("san_uri", "san_dns", "cn"):
        name = user_of(msgspec.structs.replace(found, not_after=2.0**40), source)
        assert name is None or (name.isprintable() and name == name.strip() and name)


def tls_files(data: bytes) -> None:
    """Certificate, key and CAs in one file."""
    path = _folder() / "all.pem"
    path.touch(0o600)
    path.write_bytes(data)
    for read in (read_chain, read_cas):
        with contextlib.suppress(TlsFileError):
            read(path)
    with contextlib.suppress(TlsFileError):
        read_key(path, read_chain(path)[1], path)


TARGETS = {
    one.__name__: one
    for one in (policy, policy_model, policy_tests, settings, limits_file, journal, peer_certificate, tls_files)
}

_YAML = b"""\
listen: {http: 127.0.0.1:8080, trusted_proxies: [10.0.0.0/8]}
upstreams: {triton: {replicas: [{http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}]}}
routes:
  credit:
    variants: [{name: a, model: m, weight: 1}, {name: b, model: m, weight: 2}]
    match: [{headers: {x: y}, variant: a}]
    fallback: [a]
    timeout: 2s
identity: {anonymous: {tenant: "${NAME}"}, api_keys: [{sha256: %b, user: u, tenant: t}]}
limits: {body: 1MiB, tenants: {"*": {rate: 1/s, bytes: 1GiB/day}}}
""" % (b"0" * 64)
_CSV = b"""\
# who may what
p, role:scorer, acme, model:credit, infer, allow
p, user:mallory, *, model:*, *, deny
g, user:alice, role:scorer, acme
"""


def _certificate() -> tuple[bytes, bytes, bytes]:
    """A certificate as DER and PEM, and its key. The signature is of a kind that is the same each time."""
    key = ec.derive_private_key(0x7DE6A7E, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://a/b"), x509.DNSName("c.d")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial_number=7)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(names, critical=False)
        .sign(Ed25519PrivateKey.from_private_bytes(bytes(32)), None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.DER), made.public_bytes(Encoding.PEM), private


def seeds() -> dict[str, list[bytes]]:
    """Sound files."""
    entry = Wanted("model", "m", "load", {"parameters": {"config": "{}"}}, 5)
    asked = msgspec.json.encode({"triton": [entry]})
    marks = msgspec.json.encode({"1": Mark(2, {"model m": 5}, {"model n": 4}, {"model n": "no"})})
    der, pem, key = _certificate()
    header = b"TGLIMIT1" + (2).to_bytes(8, "little")
    return {
        "policy": [_CSV, _CSV.replace(b"\n", b"\r\n"), b"p, a, b, (c, d), e, allow\n", b"\xef\xbb\xbfg, a, b\n"],
        "policy_model": [BUILTIN_MODEL.encode(), BUILTIN_MODEL.replace("g = _, _, _", "g = _, _").encode()],
        "policy_tests": [b"tests: [{name: a, request: [user:a, t, model:m, infer], allow: true}]\n"],
        "settings": [_YAML, json.dumps({"upstreams": {"t": {"http": "127.0.0.1:1"}}}).encode(), b"a: &x [*x]\n"],
        "limits_file": [
            b"",
            header,
            b"\1" + header + bytes(8),
            b"\1" + header + b"\xff" * 80,
            b"TGLIMIT1" + b"\xff" * 8,
        ],
        "journal": [b"\0", asked + b"\0" + marks, asked + b"\0", b"{}\0{}", b"[]\0[]"],
        # A name of a kind that nobody reads (x400Address), and a version that there is not: once they got through.
        "peer_certificate": [
            der,
            pem,
            der.replace(b"\x82\x03c.d", b"\xa3\x03c.d"),
            der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),
        ],
        "tls_files": [pem + key, pem, key, der],
    }
