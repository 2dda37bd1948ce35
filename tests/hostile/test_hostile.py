"""Every attack of the table, on real sockets, while good clients on other connections are served.

`TIDEGATE_HOSTILE_TABLE=FILE` writes what was seen as the rows of docs/hostile-wire.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import cases_grpc
import cases_http
import pytest
from gateway_fixture import start_gateway
from hostile_site import SETTINGS, Case, Seen, Site, attack, attack_at_once, worker_of

CASES: list[Case] = [*cases_http.CASES, *cases_grpc.CASES]
ROWS: list[str] = []


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton):
    text = SETTINGS.replace("$TRITON_HTTP", triton.http).replace("$TRITON_GRPC", triton.grpc)
    gateway = start_gateway(tmp_path_factory.mktemp("hostile"), text)
    yield Site(gateway, worker_of(gateway))
    target = os.environ.get("TIDEGATE_HOSTILE_TABLE")
    if target:
        Path(target).write_text("\n".join(ROWS) + "\n")
    assert gateway.stop() == 0
    log = gateway.log.read_text()
    assert "Traceback" not in log, log[-4000:]
    assert "defect" not in log, log[-4000:]


@pytest.fixture(scope="module")
def waited(site: Site) -> dict[Case, Seen]:
    """What came of the cases that only wait."""
    cases = [case for case in CASES if case.waits]
    return dict(zip(cases, attack_at_once(site, cases), strict=True))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case.slow else ()) for case in CASES],
    ids=lambda case: f"{case.door}: {case.name}",
)
def test_it_is_refused_and_good_clients_are_served(site: Site, waited: dict[Case, Seen], case: Case):
    seen = waited[case] if case.waits else attack(site, case)
    ROWS.append(
        f"| {case.door} | {case.name} | {seen.answer} | {seen.seconds * 1e3:.0f} ms | {seen.grown / 2**20:.1f} MiB |"
    )
    assert seen.answer in case.expect, (seen.answer, site.gateway.log.read_text()[-1500:])
    assert seen.seconds < case.seconds, "within its time"
    assert seen.failed == [], "a good client is served throughout"
    assert seen.served > 0
    assert seen.grown < case.memory, "memory is bounded"
    assert worker_of(site.gateway) == site.worker, "the worker lives on"
