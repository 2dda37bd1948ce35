"""A fleet as an `Upstream` sees it, in front of servers made of bytes: cold starts, DNS that changes under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
from calls import identity
from raw_server import Peer, RawServer, Request, serving

from gateway import settings
from gateway.errors import TidegateError
from gateway.upstream import Upstream, members
from gateway.upstream.plan import CallPlan

SERVER = b'{"name":"triton","version":"2.51.0","extensions":[]}'
MODEL = (
    b'{"name":"m","versions":["1"],"platform":"x","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[-1,3]}],'
    b'"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[-1,3]}]}'
)
INDEX = b'[{"name":"m","version":"1","state":"READY"}]'
ANSWER = (
    b'{"model_name":"m","model_version":"1","outputs":'
    b'[{"name":"OUTPUT0","datatype":"FP32","shape":[1,3],"data":[0,1,2]}]}'
)


def page(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


class Site:
    """One server that has the model `m`; what is asked of it is remembered in order."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.infer = page(ANSWER)
        self.pause = 0.0
        self.known = asyncio.Event()  # what the model takes is answered from then on
        self.known.set()

    async def __call__(self, peer: Peer, state: RawServer) -> None:
        while True:
            await peer.send(await self._answer(await peer.request()))

    async def _answer(self, request: Request) -> bytes:
        self.lines.append(request.line)
        target = request.line.split(b" ")[1]
        if target.endswith(b"/infer"):
            await asyncio.sleep(self.pause)
            return self.infer
        if target.startswith(b"/v2/models/"):
            await self.known.wait()
            return page(b'{"error":"none"}', b"404 Not Found") if target.endswith(b"/config") else page(MODEL)
        return page({b"/v2": SERVER, b"/v2/repository/index": INDEX}.get(target, b""))

    @property
    def asked(self) -> int:
        """Inference requests that came."""
        return sum(b"/infer " in line for line in self.lines)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def started(config: settings.Upstream, counters=None):
    up = Upstream("up", config, counters=counters)
    await up.start()
    try:
        yield up
    finally:
        await up.close()


def test_on_a_cold_start_a_retry_goes_to_the_other_replica(run_once):
    """One answers first what the model takes, and then 503: the other has the model too, though it is not known yet
    what it takes there."""

    async def main() -> None:
        bad, good = Site(), Site()
        bad.infer = page(b'{"error":"not now"}', b"503 Service Unavailable")
        good.known.clear()
        async with serving(bad) as one, serving(good) as other:
            addresses = [settings.ReplicaAddress(http=f"{each.host}:{each.port}") for each in (one, other)]
            async with started(settings.Upstream(replicas=tuple(addresses))) as up:
                plan = CallPlan()
                answer = await up.infer(identity(), model="m", timeout=60, plan=plan)
                assert answer.model_name == "m"
                assert (bad.asked, good.asked, plan.retries) == (1, 1, 1)
                good.known.set()

    run_once(main())


def test_dns_answers_that_change_under_way_lose_no_request(run_once, monkeypatch, events):
    """A replica that comes is checked and warmed before it gets calls, one that leaves finishes those it has."""
    addresses = ["127.0.0.1"]

    async def answers(host: str) -> tuple[str, ...]:
        assert host == "tritons.test"
        return tuple(addresses)

    # The resolver is the system's, whose answers a test cannot change: this is the only fake here.
    monkeypatch.setattr(members, "resolve", answers)
    monkeypatch.setattr(members, "RESOLVE_SECONDS", 0.05)

    async def main() -> None:
        old, new = Site(), Site()
        old.pause = new.pause = 0.02
        new.known.clear()
        async with serving(old) as first, serving(new, "127.0.0.2", first.port):
            config = settings.Upstream(
                http=f"dns://tritons.test:{first.port}",
                health=settings.Health(interval=0.1, warmup=0.3),
            )
            async with started(config, events) as up:
                failed: list[TidegateError] = []
                stop = False

                async def load() -> None:
                    while not stop:
                        try:
                            await up.infer(identity(), model="m", timeout=60)
                        except TidegateError as error:
                            failed.append(error)

                async with asyncio.TaskGroup() as tasks:
                    for _ in range(4):
                        tasks.create_task(load())
                    await until(lambda: old.asked > 8)
                    addresses.append("127.0.0.2")
                    await until(lambda: len(up.replicas) == 2)
                    came = next(each for each in up.replicas if each.address.startswith("127.0.0.2:"))
                    served = old.asked
                    await until(lambda: old.asked > served + 8)
                    assert not new.asked, "its check was not over"
                    new.known.set()
                    await until(lambda: came.usable)
                    assert came.state == "warming"
                    await until(lambda: new.asked > 4)
                    await until(lambda: came.state == "ready")
                    gone = next(each for each in up.replicas if each is not came)
                    addresses.remove("127.0.0.1")
                    await until(lambda: len(up.replicas) == 1)
                    assert gone.state == "draining"
                    last = gone.in_flight
                    served, asked = old.asked, new.asked
                    await until(lambda: new.asked > asked + 20)
                    assert old.asked <= served + last
                    await until(lambda: not up.members.leaving)
                    addresses.clear()  # a name without an answer keeps what it had
                    await until(lambda: events["resolve_failed"])
                    asked = new.asked
                    await until(lambda: new.asked > asked + 8)
                    stop = True
                assert failed == []
                first_infer = next(at for at, line in enumerate(new.lines) if b"/infer " in line)
                before = b" ".join(new.lines[:first_infer])
                assert b"GET /v2/health/ready" in before
                assert b"GET /v2 " in before
                assert b"POST /v2/repository/index" in before
                assert b"GET /v2/models/m " in before
                assert (events["replica_added"], events["replica_removed"]) == (2, 1)

    run_once(main())


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"502 Bad Gateway"])
def test_a_model_that_fails_on_both_is_told_in_the_servers_words(run_once, status):
    async def main() -> None:
        sites = [Site(), Site()]
        for site in sites:
            site.infer = page(b'{"error":"by itself"}', status)
        async with serving(sites[0]) as one, serving(sites[1]) as other:
            addresses = [settings.ReplicaAddress(http=f"{each.host}:{each.port}") for each in (one, other)]
            async with started(settings.Upstream(replicas=tuple(addresses))) as up:
                with pytest.raises(TidegateError, match="by itself"):
                    await up.infer(identity(), model="m", timeout=60)
                assert sum(site.asked for site in sites) == (3 if status.startswith(b"503") else 1)

    run_once(main())
