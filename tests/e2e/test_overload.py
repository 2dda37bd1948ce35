"""Overload on real processes: a Triton model of two instances that sleep 20 ms, asked for twice what it can."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256

import pytest
from gateway_fixture import Gateway

from bench import openloop

CAPACITY = 2000 / openloop.MILLISECONDS
UPSTREAM = "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"


def load(address: str, rate: float, seconds: float, seed: int = 1) -> list[list[float]]:
    """In a process of its own, so that the test's own work does not delay it."""
    command = [sys.executable, "-m", "bench.openloop", address, str(rate), str(seconds), str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def median(found: list[list[float]], after: float = 0.0) -> float:
    """Milliseconds of those that were served."""
    served = sorted(ms for planned, ms, status in found if status == 200 and planned >= after)
    return served[len(served) // 2]


async def closed_loop(address: str, connections: int, seconds: float, message: bytes) -> dict[int, int]:
    """Clients that each wait for their answer; how often which status came."""
    statuses: dict[int, int] = {}
    until = time.monotonic() + seconds

    async def client() -> None:
        async with openloop.Client(address, message) as asking:
            while time.monotonic() < until:
                status = await asking.ask()
                statuses[status] = statuses.get(status, 0) + 1

    await asyncio.gather(*(client() for _ in range(connections)))
    return statuses


def in_one_of_three(attempt: Callable[[], None]) -> None:
    """What holds, holds in one of three tries: others' work on this machine makes it worse, and never better."""
    for _ in range(2):
        try:
            return attempt()
        except AssertionError as error:
            print("again:", error)
    return attempt()


@pytest.mark.parametrize("seconds", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_twice_the_capacity_is_served_in_time_and_the_rest_refused_at_once(gateway, seconds: int):
    in_one_of_three(lambda: twice_the_capacity(gateway(UPSTREAM), seconds))


def twice_the_capacity(one: Gateway, seconds: int) -> None:
    quiet = load(one.http, CAPACITY / 4, seconds * 0.4)
    assert {status for _, _, status in quiet} == {200}
    best = asyncio.run(closed_loop(one.http, 4, 2.0, openloop.request(one.http))).get(200, 0) / 2.0
    heavy = load(one.http, CAPACITY * 2, seconds)
    assert {status for _, _, status in heavy} == {200, 503}
    served = sum(status == 200 and planned >= 2 for planned, _, status in heavy)
    # Bounds are generous: the machine may be busy. `bench/overload.py` has the figures.
    assert served / (seconds - 2) >= 0.6 * best
    # Without the limit who is planned at t would wait for t seconds: on average (3 + seconds) / 2; half of it is too long.
    assert median(heavy, after=3) <= max(5 * median(quiet), 1000 * (3 + seconds) / 4)
    page = one.get("/metrics").body.decode()
    assert 'tidegate_shed_total{upstream="triton",model="slow",priority="10",reason="queue"}' in page


def test_a_refusal_says_when_to_come_again(gateway):
    one = gateway(UPSTREAM)

    async def ask_and_read() -> bytes:
        reader, writer = await asyncio.open_connection(*one.http.split(":"))
        try:
            writer.write(openloop.request(one.http))
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()

    async def until_refused() -> bytes:
        heavy = asyncio.create_task(openloop.run(one.http, 4 * CAPACITY, 15))
        head = b""
        while not heavy.done() and not head.startswith(b"HTTP/1.1 503"):
            head = await ask_and_read()
        heavy.cancel()
        await asyncio.wait([heavy])
        return head

    load(one.http, CAPACITY / 4, 2)
    refused = asyncio.run(until_refused())
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: " in refused.lower()


@pytest.mark.parametrize("seconds", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_high_priority_is_not_refused_while_low_is_there(gateway, seconds: int):
    keys = "\n".join(
        f"    - {{sha256: {sha256(name.encode()).hexdigest()}, user: {name}, tenant: {name}}}"
        for name in ("high", "low")
    )
    one = gateway(
        f"{UPSTREAM}identity:\n  api_keys:\n{keys}\n"
        "limits: {tenants: {high: {priority: 1}, low: {priority: 20}}}\n"
    )

    in_one_of_three(lambda: high_and_low(one, seconds))


def high_and_low(one: Gateway, seconds: int) -> None:
    async def both() -> list[list[list[float]]]:
        return await asyncio.gather(
            openloop.run(one.http, CAPACITY * 0.3, seconds, 1, "X-API-Key: high\r\n"),
            openloop.run(one.http, CAPACITY * 1.7, seconds, 2, "X-API-Key: low\r\n"),
        )

    high, low = asyncio.run(both())
    assert {status for _, _, status in high} == {200}
    assert {status for _, _, status in low} == {200, 503}


@pytest.mark.parametrize(
    ("connections", "seconds"),
    [(256, 2), *(pytest.param(connections, 4, marks=pytest.mark.slow) for connections in (64, 256))],
)
def test_clients_that_wait_for_their_answers_are_never_refused(gateway, connections: int, seconds: float):
    one = gateway(UPSTREAM)
    message = openloop.request(one.http).replace(b"[20]", b"[0]").replace(b"Content-Length: 81", b"Content-Length: 80")

    def attempt() -> None:
        assert set(asyncio.run(closed_loop(one.http, connections, seconds, message))) == {200}

    in_one_of_three(attempt)


def test_the_control_page_shows_the_limit(gateway):
    one = gateway(UPSTREAM)
    load(one.http, CAPACITY / 4, 1)
    seen = None
    with subprocess.Popen(
        [sys.executable, "-m", "bench.openloop", one.http, str(2 * CAPACITY), "4"], stdout=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + 30
        # While it measures the unloaded latency the limit is 1.
        while time.monotonic() < until and not (seen and (seen["limit"] or 0) >= 2):
            state = json.loads(one.get("/gateway/v1/upstreams").body)[0]["concurrency"]
            seen = next((each for each in state if each["model"] == "slow"), None)
            time.sleep(0.1)
    assert process.returncode == 0
    assert seen is not None
    assert 2 <= seen["limit"] < 64
    assert seen["unloaded_ms"] > 15


def test_it_can_be_turned_off(gateway):
    one = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC', concurrency: {enabled: false}}}\n")
    found = load(one.http, 1.5 * CAPACITY, 2)
    assert {status for _, _, status in found} == {200}
    assert "tidegate_shed_total{" not in one.get("/metrics").body.decode()
