"""Certificates swapped under load, half of the swaps broken: no request fails, nothing wrong is ever shown."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from driving import ask, children, fp32, message, until
from gateway_fixture import GatewayFactory
from tls_fixture import Authority, authority, der, https, put, secure_channel, served_certificate, trusting
from triton_fixture import free_ports

__all__ = ["authority"]

UPSTREAM = "upstreams: {t: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
IDENTITIES = {"tls": "", "mtls optional": "identity: {anonymous: {}, mtls: {tenant: acme}}\n"}


@pytest.mark.parametrize("swaps", [6, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", list(IDENTITIES))
def test_swaps_under_load(gateway: GatewayFactory, authority: Authority, tmp_path: Path, mode: str, swaps: int) -> None:
    """About 200 requests a second, kept-alive and fresh connections, HTTP and gRPC; `mode` picks gRPC's TLS."""
    one, two = free_ports(2)
    listen = {"http": f"127.0.0.1:{one}", "grpc": f"127.0.0.1:{two}"}
    folder = tmp_path / "certificates"
    folder.mkdir()
    first = authority.server()
    cert, key = first.write(folder, "server")
    ca = f", client_ca: {put(folder / 'ca.pem', authority.pem)}" if mode != "tls" else ""
    text = f"listen: {{http: '{listen['http']}', grpc: '{listen['grpc']}', tls: {{cert: {cert}, key: {key}{ca}}}}}\n"
    running = gateway(text + UPSTREAM + IDENTITIES[mode], wait="")
    until(lambda: "serving: http" in running.log.read_text() or running.process.poll() is not None, 30, "ready")
    context = trusting(authority.pem)
    body = json.dumps(fp32()).encode()
    stop = threading.Event()
    outcome: Counter[str] = Counter()
    failures: list[str] = []

    def count(kind: str, good: bool, what: object) -> None:
        outcome[kind] += 1
        if not good:
            failures.append(f"{kind}: {what}")

    def kept() -> None:
        connection = http.client.HTTPSConnection(listen["http"], timeout=30, context=context)
        while not stop.wait(0.01):
            try:
                connection.request("POST", "/v2/models/identity_fp32/infer", body)
                response = connection.getresponse()
                response.read()
                count("http, kept", response.status == 200, response.status)
            except (OSError, http.client.HTTPException) as error:
                count("http, kept", False, repr(error))
                connection.close()
        connection.close()

    def fresh() -> None:
        while not stop.wait(0.02):
            try:
                status, _ = https(listen["http"], context, "POST", "/v2/models/identity_fp32/infer", fp32())
                count("http, fresh", status == 200, status)
            except (OSError, http.client.HTTPException) as error:
                count("http, fresh", False, repr(error))

    def remote() -> None:
        request = message("identity_fp32", fp32())
        while not stop.is_set():
            with secure_channel(listen["grpc"], authority.pem) as made:
                for _ in range(20):
                    answer = ask(made, request)
                    count("grpc", answer.code == "OK", answer)
                    time.sleep(0.01)

    threads = [threading.Thread(target=work) for work in (kept, fresh, remote)]
    for thread in threads:
        thread.start()
    shown = first
    worst = 0.0
    try:
        for swap in range(swaps):
            issued = authority.server()
            refused = running.log.read_text().count("not reloaded")
            began = time.monotonic()
            if swap % 2:  # broken: the pair does not match, is no PEM, or has expired
                wrong = (authority.server().cert, b"no PEM" + secrets.token_bytes(8), authority.server(days=-1).cert)
                put(key, issued.key, 0o600)
                put(cert, wrong[swap % 3])
                until(lambda n=refused: running.log.read_text().count("not reloaded") > n, 10, "refused")
                for address in listen.values():
                    assert served_certificate(address) == der(shown), "the last good one stays"
            else:
                put(key, issued.key, 0o600)
                put(cert, issued.cert)
                if swap % 4 == 0:
                    running.process.send_signal(signal.SIGHUP)
                for address in listen.values():
                    until(lambda at=address, i=issued: served_certificate(at) == der(i), 10, "shown")
                worst = max(worst, time.monotonic() - began)
                shown = issued
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    print(f"{mode}: {dict(outcome)}, failed {len(failures)}, slowest swap shown after {worst:.2f} s")
    assert not failures, failures[:10]
    assert sum(outcome.values()) > swaps * 10


def test_a_worker_that_dies_while_a_broken_pair_lies_there(
    gateway: GatewayFactory, authority: Authority, tmp_path: Path
) -> None:
    """It is replaced, and shows what was last in force; what was kept for that is its owner's alone."""
    one, two = free_ports(2)
    issued = authority.server()
    cert, key = issued.write(tmp_path, "server")
    text = f"listen: {{http: '127.0.0.1:{one}', grpc: '127.0.0.1:{two}', tls: {{cert: {cert}, key: {key}}}}}\n"
    running = gateway(text + UPSTREAM, wait="")
    until(lambda: "serving: http" in running.log.read_text() or running.process.poll() is not None, 30, "ready")
    kept = running.folder / "state" / "run" / "last-good"
    assert kept.stat().st_mode & 0o077 == 0
    put(cert, b"nonsense")
    until(lambda: "no-certificate" in running.log.read_text(), 10, "refused")
    for pid in children(running.process.pid):
        os.kill(pid, signal.SIGKILL)

    def shown() -> bool:
        try:
            return served_certificate(f"127.0.0.1:{one}") == der(issued)
        except OSError:
            return False

    until(shown, 20, "the new worker shows the last good certificate")
