"""Tenant limits end to end: rate, concurrency and bytes, over workers and protocols, through reloads."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from driving import Background, ask, channel, fp32, message, sleeping, until
from gateway_fixture import start_gateway

QUOTA = 8000
TENANTS = ["steady", "narrow", "metered", "free", "other1", "other2", "whole", "exact"]


def settings(triton, workers: int, narrow: int = 3) -> str:
    keys = "".join(
        f"    - {{sha256: {hashlib.sha256(name.encode()).hexdigest()}, user: {name}, tenant: {name}}}\n"
        for name in TENANTS
    )
    return f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
workers: {workers}
passthrough: true
identity:
  anonymous: {{user: nobody, tenant: public}}
  api_keys:
{keys}
policy: {{file: policy.csv}}
limits:
  tenants:
    steady: {{rate: 1/s, burst: 20}}
    narrow: {{concurrent: {narrow}}}
    metered: {{bytes: {QUOTA}/day}}
    free: {{rate: 100000/s}}
    exact: {{rate: 0.001/s, burst: 60}}
    whole: {{rate: 0.5/s, burst: 5, concurrent: 100, bytes: 1GiB/day}}
    "*": {{rate: 0.2/s, burst: 6}}
"""


POLICY = "".join(f"p, user:{name}, {name}, model:*, *, allow\n" for name in TENANTS) + (
    "p, user:nobody, public, model:*, *, allow\np, user:nobody, *, server, read, allow\n"
)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 4])
def site(request, tmp_path_factory, triton):
    gateway = start_gateway(
        tmp_path_factory.mktemp("limits"), settings(triton, request.param), files={"policy.csv": POLICY}
    )
    until(lambda: "serving: " in gateway.log.read_text(), 15)
    yield gateway
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


def infer(site, tenant: str | None, model: str = "identity_fp32", document=None):
    headers = {} if tenant is None else {"x-api-key": tenant}
    return site.post(f"/v2/models/{model}/infer", document or fp32(), headers)


def infer_grpc(site, tenant: str | None, model: str = "identity_fp32", document=None):
    with channel(site.grpc) as made:  # a connection of its own: any worker
        return ask(made, message(model, document or fp32()), {} if tenant is None else {"x-api-key": tenant})


def burst(site, tenant: str, count: int) -> tuple[Counter[object], list, list]:
    """`count` requests at once, half over each protocol."""
    with ThreadPoolExecutor(16) as pool:
        http = [pool.submit(infer, site, tenant) for _ in range(count // 2)]
        grpc = [pool.submit(infer_grpc, site, tenant) for _ in range(count // 2)]
        answers, others = [each.result() for each in http], [each.result() for each in grpc]
    return Counter([answer.status for answer in answers] + [other.code for other in others]), answers, others


def test_a_burst_of_60_is_60_of_400(site):
    """Each request on a connection of its own, over HTTP and gRPC, so that every worker decides some."""
    seen, _, _ = burst(site, "exact", 400)
    assert seen[200] + seen["OK"] == 60, seen
    assert seen[429] + seen["RESOURCE_EXHAUSTED"] == 340
    assert site.metric("tidegate_limited_total", tenant="exact", limit="rate") == 340
    print(f"\nlocal quotas: burst 60, 400 requests: {dict(seen)}")


def test_a_rate_is_exact_over_workers_and_protocols(site):
    began = time.monotonic()
    seen, answers, others = burst(site, "steady", 80)
    took = time.monotonic() - began
    served = seen[200] + seen["OK"]
    assert set(seen) <= {200, "OK", 429, "RESOURCE_EXHAUSTED"}
    assert 20 <= served <= 20 + took + 1, seen
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert "steady" in refused.error
    other = next(other for other in others if other.code == "RESOURCE_EXHAUSTED")
    assert int(other.trailers["retry-after"]) >= 1
    assert site.metric("tidegate_limited_total", tenant="steady", limit="rate") == 80 - served
    # What Retry-After says holds.
    answer = infer(site, "steady")
    if answer.status == 429:
        time.sleep(int(answer.headers["retry-after"]))
        assert infer(site, "steady").status == 200


def test_concurrency_is_exact_over_workers_and_protocols(site):
    def at_once(count: int) -> Counter[object]:
        calls = [Background(lambda: infer(site, "narrow", "slow", sleeping(700)).status) for _ in range(count)]
        calls += [Background(lambda: infer_grpc(site, "narrow", "slow", sleeping(700)).code) for _ in range(count)]
        return Counter(call.result() for call in calls)

    seen = at_once(5)
    assert seen[200] + seen["OK"] == 3, seen
    assert seen[429] + seen["RESOURCE_EXHAUSTED"] == 7
    seen = at_once(1)
    assert seen[200] + seen["OK"] == 2, "places are given back"


def test_bytes_of_a_day_count_requests_and_answers(site):
    """To the byte: a request is let in when it fits into what is left; its answer counts all the same."""
    used, request, call = 0, len(json.dumps(fp32()).encode()), message("identity_fp32", fp32()).ByteSize()
    while True:
        answer = infer(site, "metered")
        if answer.status == 429:
            assert used + request > QUOTA
            break
        assert used + request <= QUOTA
        used += request + len(answer.body)
        other = infer_grpc(site, "metered")
        if other.code == "RESOURCE_EXHAUSTED":
            assert used + call > QUOTA
            answer = infer(site, "metered")
            break
        assert used + call <= QUOTA
        used += call + other.response.ByteSize()
    assert used > QUOTA // 2
    assert 1 <= int(answer.headers["retry-after"]) <= 86_400
    assert "bytes" in answer.error
    assert site.metric("tidegate_limited_total", tenant="metered", limit="bytes") >= 1


def test_tenants_that_are_not_named_have_the_star_each_for_itself(site):
    for tenant in ("other1", "other2", None):
        statuses = Counter(infer(site, tenant).status for _ in range(12))
        assert 6 <= statuses[200] <= 9, (tenant, statuses)
        assert statuses[200] + statuses[429] == 12
    assert Counter(infer(site, "free").status for _ in range(40)) == {200: 40}, "a named tenant has its own alone"


def test_a_reload_keeps_what_was_used(site):
    for _ in range(16):  # each worker's first control page takes a second or two, in which tokens come back
        site.get("/gateway/v1/snapshot")
    served = sum(infer(site, "whole").status == 200 for _ in range(8))
    assert 5 <= served <= 7
    text = site.config.read_text()
    hashes = {site.get("/gateway/v1/snapshot").json()["hash"]}
    held = [Background(lambda: infer(site, "narrow", "slow", sleeping(1800)).status) for _ in range(3)]
    time.sleep(0.4)
    site.config.write_text(text.replace("concurrent: 3", "concurrent: 4"))
    site.process.send_signal(signal.SIGHUP)
    until(lambda: not hashes & {site.get("/gateway/v1/snapshot").json()["hash"] for _ in range(16)}, 5)
    assert infer(site, "whole").status == 429, "the bucket is as empty as before"
    assert infer(site, "metered").status == 429
    one_more = Background(lambda: infer(site, "narrow", "slow", sleeping(600)).status)
    time.sleep(0.3)
    assert infer(site, "narrow").status == 429, "three from before the reload and one from after are four"
    assert [each.result() for each in [*held, one_more]] == [200] * 4
    assert infer(site, "narrow").status == 200
