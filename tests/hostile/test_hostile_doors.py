"""Attacks on the other doors: the two of TLS, and the port of `metrics.listen`. Rows are added as in test_hostile.py."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cases_grpc
import cases_http
import pytest
from gateway_fixture import start_gateway
from hostile_site import CONNECTIONS, SETTINGS, Case, Seen, Site, attack, attack_at_once, read_all, sent, worker_of
from tls_fixture import Authority
from triton_fixture import free_ports

ROWS: list[str] = []

# The same bytes inside of TLS: a few of each kind.
_HTTP = (
    "Content-Length and Transfer-Encoding", "Transfer-Encoding and Content-Length", "header folded (obs-fold)",
    "garbage behind a good request", "HEAD, request behind", "100,000 headers", "a header value of 64 MiB",
    "slow headers (a byte each 0.3 s)", "slow body", "a connection that says nothing", "a client that never reads",
    "4,000 requests in one go", "IHCL beyond the body", "gzip bomb (64 MiB)",
    "JSON nested 10,000 deep",
)  # fmt: skip
_GRPC = (
    "garbage in place of the preface", "a connection that says nothing", "rapid reset, 20,000 streams",
    "HPACK bomb (30,000 references)", "CONTINUATION flood", "PING flood", "length beyond the limit",
    "gzip bomb in a message", "slow body (a byte each 0.3 s)",
)  # fmt: skip
_METRICS = (
    "Content-Length and Transfer-Encoding", "100,000 headers", "a header value of 64 MiB",
    "slow headers (a byte each 0.3 s)", "a connection that says nothing",
)  # fmt: skip


def plain(data: bytes, door: str):
    """These bytes without TLS at a port of TLS."""

    def run(site: Site) -> str:
        return sent(data, door)(replace(site, ca=None))

    return run


def many_handshakes(door: str):
    """Clients that say half of a hello and no more: each holds a connection for the time of the headers at most."""

    def run(site: Site) -> str:
        with contextlib.ExitStack() as held:
            bare = replace(site, ca=None)
            begun = [held.enter_context(bare.connect(door)) for _ in range(CONNECTIONS // 2)]
            for one in begun:
                one.sendall(b"\x16\x03\x01\x02\x00\x01")
            return "/".join(sorted({"closed" for one in begun if read_all(one) is not None}))

    return run


def old_version(site: Site) -> str:
    """TLS 1.1 (RFC 8996): not spoken."""
    context = site.client_tls("http")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with replace(site, ca=None).connect("http") as bare:
        try:
            context.wrap_socket(bare, server_hostname="127.0.0.1").close()
        except ssl.SSLError as error:  # an alert, or no more than the end of the connection
            closed = error.reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING")
            return "closed" if closed else f"{error.reason}"
        except ConnectionError:
            return "closed"
    return "spoken"


def chosen(cases: list[Case], names: tuple[str, ...], door: str) -> list[Case]:
    known = {case.name: case for case in cases}
    return [replace(known[name], door=door) for name in names]


HALF = b"\x16\x03\x01\x02\x00\x01"
TLS = [
    *chosen(cases_http.CASES, _HTTP, "https"),
    Case("plain HTTP", plain(cases_http.SMUGGLED, "http"), ("closed", "400"), door="https"),
    Case("half of a hello, then nothing", plain(HALF, "http"), ("closed",), door="https", waits=True),
    Case("150 halves of a hello", many_handshakes("http"), ("closed",), door="https"),
    Case("TLS 1.1", old_version, ("closed",), door="https"),
    *chosen(cases_grpc.CASES, _GRPC, "grpcs"),
    Case("plain HTTP/2", plain(cases_grpc.HELLO, "grpc"), ("closed",), door="grpcs"),
    Case("half of a hello, then nothing", plain(HALF, "grpc"), ("closed",), door="grpcs", waits=True),
    Case("150 halves of a hello", many_handshakes("grpc"), ("closed",), door="grpcs"),
]
METRICS = chosen(cases_http.CASES, _METRICS, "metrics")


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton) -> Iterator[Site]:
    folder, authority = tmp_path_factory.mktemp("doors"), Authority()
    cert, key = authority.server().write(folder, "server")
    http, grpc, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
    text = (
        f"listen: {{http: '{http}', grpc: '{grpc}', tls: {{cert: {cert}, key: {key}}}}}\n"
        f"metrics: {{listen: '{metrics}'}}\n{SETTINGS}"
    )
    text = text.replace("$TRITON_HTTP", triton.http).replace("$TRITON_GRPC", triton.grpc)
    gateway = start_gateway(folder / "gateway", text, wait="")
    gateway.http, gateway.grpc = http, grpc
    until = time.monotonic() + 300
    while "serving: http" not in gateway.log.read_text() and gateway.process.poll() is None:
        assert time.monotonic() < until, gateway.log.read_text()
        time.sleep(0.05)
    yield Site(gateway, worker_of(gateway), authority.pem, metrics)
    target = os.environ.get("TIDEGATE_HOSTILE_TABLE")
    if target:
        Path(target + ".doors").write_text("\n".join(ROWS) + "\n")
    assert gateway.stop() == 0
    log = gateway.log.read_text()
    assert "Traceback" not in log, log[-4000:]
    assert "defect" not in log, log[-4000:]


def at(site: Site, case: Case) -> Case:
    """The case, run where its door is."""
    there = site if case.door == "metrics" else replace(site, other="")
    return replace(case, run=lambda _: case.run(there))


@pytest.fixture(scope="module")
def waited(site: Site) -> dict[Case, Seen]:
    cases = [case for case in [*TLS, *METRICS] if case.waits]
    return dict(zip(cases, attack_at_once(site, [at(site, case) for case in cases]), strict=True))


@pytest.mark.parametrize("case", [*TLS, *METRICS], ids=lambda case: f"{case.door}: {case.name}")
def test_other_doors_hold_as_well(site: Site, waited: dict[Case, Seen], case: Case):
    seen = waited[case] if case.waits else attack(site, at(site, case))
    ROWS.append(
        f"| {case.door} | {case.name} | {seen.answer} | {seen.seconds * 1e3:.0f} ms | {seen.grown / 2**20:.1f} MiB |"
    )
    assert seen.answer in case.expect, (seen.answer, site.gateway.log.read_text()[-1500:])
    assert seen.seconds < case.seconds, "within its time"
    assert seen.failed == [], "a good client is served throughout"
    assert seen.served > 0
    assert seen.grown < case.memory, "memory is bounded"
    assert worker_of(site.gateway) == site.worker, "the worker lives on"
