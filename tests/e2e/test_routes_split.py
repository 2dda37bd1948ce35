"""The demo deployment's split against its weights, over HTTP and gRPC, with the shadow and the counters beside it."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections import Counter

import grpc
import pytest
from driving import UNARY, message, until
from gateway_fixture import start_gateway
from triton_fixture import CHECKOUT, free_ports

CONNECTIONS = 16
WEIGHTS = {"champion": 0.9, "challenger": 0.1}
ROW = [39.0, 7.0, 77516.0, 9.0, 13.0, 4.0, 1.0, 1.0, 4.0, 1.0, 2174.0, 0.0, 40.0, 39.0]
REQUEST = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 14], "data": ROW}]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory, triton):
    """`deploy/local` as it stands, in front of the shared Triton."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("policy.csv", "policy_tests.yaml"):
        shutil.copy(CHECKOUT / "deploy" / "local" / name, folder)
    http, grpc_port = free_ports(2)
    env = {"HTTP_PORT": str(http), "GRPC_PORT": str(grpc_port)}
    env |= {f"TRITON_{kind}_PORT": getattr(triton, kind.lower()).rpartition(":")[2] for kind in ("HTTP", "GRPC")}
    text = (CHECKOUT / "deploy" / "local" / "tidegate.yaml").read_text()
    gateway = start_gateway(folder, text, env=env, wait="")
    gateway.http, gateway.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc_port}"
    gateway.wait_ready()
    yield gateway
    assert gateway.stop() == 0


async def over_http(address: str, count: int) -> Counter[tuple[int, str]]:
    """(status, variant) of `count` requests on kept-alive connections."""
    body = json.dumps(REQUEST).encode()
    head = f"POST /v2/models/income/infer HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    host, _, port = address.rpartition(":")
    got: Counter[tuple[int, str]] = Counter()

    async def one(share: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(share):
            writer.write(head + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            await reader.readexactly(int(headers["content-length"]))
            got[int(lines[0].split(" ")[1]), headers["x-tidegate-variant"]] += 1
        writer.close()

    await asyncio.gather(*(one(count // CONNECTIONS) for _ in range(CONNECTIONS)))
    return got


async def over_grpc(address: str, count: int) -> Counter[tuple[str, str]]:
    """(code, variant) of `count` calls."""
    body = message("income", REQUEST).SerializeToString()
    got: Counter[tuple[str, str]] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = channel.unary_unary(UNARY)

        async def one(share: int) -> None:
            for _ in range(share):
                call = stub(body, timeout=60)
                variant = dict(await call.initial_metadata())["x-tidegate-variant"]
                await call
                got[(await call.code()).name, variant] += 1

        await asyncio.gather(*(one(count // CONNECTIONS) for _ in range(CONNECTIONS)))
    return got


def assert_split(counts: dict[str, int], total: int) -> None:
    """Within 4.5 standard deviations: once in 150,000 runs chance alone would fail it."""
    assert sum(counts.values()) == total
    for name, share in WEIGHTS.items():
        spread = math.sqrt(total * share * (1 - share))
        assert abs(counts[name] - total * share) < 4.5 * spread, counts


def run(demo, count: int) -> None:
    before = demo.get("/gateway/v1/routes/income").json()
    http = asyncio.run(over_http(demo.http, count))
    grpc_ = asyncio.run(over_grpc(demo.grpc, count))
    assert {status for status, _ in http} == {200}
    assert {code for code, _ in grpc_} == {"OK"}
    by_http = {variant: number for (_, variant), number in http.items()}
    by_grpc = {variant: number for (_, variant), number in grpc_.items()}
    print(f"{count} requests each: HTTP {by_http}, gRPC {by_grpc}")
    assert_split(by_http, count)
    assert_split(by_grpc, count)

    def counted() -> dict | None:
        state = demo.get("/gateway/v1/routes/income").json()
        shadow, old = state["shadows"][0], before["shadows"][0]
        done = shadow["requests"] + shadow["dropped"] - old["requests"] - old["dropped"]
        return state if done == 2 * count else None

    state = until(counted, 20, "every request was mirrored or counted as dropped")
    for now, then in zip(state["variants"], before["variants"], strict=True):
        assert now["codes"]["200"] - then["codes"].get("200", 0) == by_http[now["name"]]
        assert now["codes"]["OK"] - then["codes"].get("OK", 0) == by_grpc[now["name"]]
    shadow = state["shadows"][0]
    print(f"shadow: {shadow['requests']} sent, {shadow['dropped']} dropped, {shadow['errors']} errors")
    assert shadow["errors"] == 0
    (probability,) = (output for output in shadow["outputs"] if output["name"] == "probability")
    # The same row each time, and version 3 is another model: every compared answer differs.
    until(lambda: same_counts(demo), 10)
    assert probability["differences"] > 0


def same_counts(demo) -> bool:
    outputs = demo.get("/gateway/v1/routes/income").json()["shadows"][0]["outputs"]
    return all(
        output["differences"] in (0, output["compared"]) for output in outputs if output["name"] == "probability"
    )


def test_the_split_follows_its_weights(demo):
    run(demo, 960)


@pytest.mark.slow
def test_the_split_over_twenty_thousand_requests(demo):
    run(demo, 20_000)
