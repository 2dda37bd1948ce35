"""Gates on a real event loop, what they share between workers, and brown-out."""

import asyncio
import time

import pytest

from gateway.admission.brownout import NONE, PRIORITY, SAMPLING, SHADOWS, Brownout, level_of
from gateway.admission.concurrency import Gate, Gates, SharedRates
from gateway.admission.priority import Waiter, priority_of
from gateway.errors import Overloaded
from gateway.settings import AdaptiveConcurrency, Upstream


class Meters:
    def __init__(self) -> None:
        self.sheds = []
        self.states = []

    def shed(self, *what) -> None:
        self.sheds.append(what)

    def state(self, upstream, model, gate) -> None:
        self.states.append((upstream, model))


class Pauses:
    paused = False

    def pause(self, paused: bool) -> None:
        self.paused = paused


def upstreams(**concurrency) -> dict[str, Upstream]:
    return {"triton": Upstream(http="127.0.0.1:1", concurrency=AdaptiveConcurrency(**concurrency))}


@pytest.fixture
def rates(tmp_path):
    one = SharedRates(tmp_path, 0, 2)
    yield one
    one.close()


def test_who_waits_gets_the_next_place(rates):
    async def scenario():
        gates = Gates(upstreams(max=1, min=1), Meters(), rates)
        gate = gates.of("triton", "m")
        now = time.perf_counter()
        place = gate.try_enter(now)
        assert place == 1
        assert gate.try_enter(now) == 0
        low = asyncio.create_task(gate.wait(priority_of(20, 0), 60.0, 10, now))
        high = asyncio.create_task(gate.wait(priority_of(1, 0), 60.0, 10, now))
        await asyncio.sleep(0)
        assert gate.saturated
        assert not gates.room("triton", "m")
        gate.leave(place, now, time.perf_counter(), True)
        assert gate.try_enter(now) == 0  # nobody overtakes
        place = await high
        assert not low.done()
        gate.leave(place, now, time.perf_counter(), True)
        gate.leave(await low, now, time.perf_counter(), True)
        assert gate.limiter.in_flight == 0
        assert gates.room("triton", "m")

    asyncio.run(scenario())


def test_a_cancelled_waiter_leaves_nothing_behind(rates):
    async def scenario():
        gate = Gates(upstreams(max=1, min=1), Meters(), rates).of("triton", "m")
        now = time.perf_counter()
        gate.try_enter(now)
        waiting = asyncio.create_task(gate.wait(0, 60.0, 10, now))
        served = asyncio.create_task(gate.wait(0, 60.0, 10, now))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert gate.room.waiting == 1
        gate.leave(1, now, now, True)
        served.cancel()  # its place was given in the same turn
        await asyncio.gather(waiting, served, return_exceptions=True)
        assert gate.limiter.in_flight == 0
        assert gate.room.waiting == 0

    asyncio.run(scenario())


def test_a_request_that_cannot_be_in_time_is_refused(rates):
    async def scenario():
        meters = Meters()
        gate = Gates(upstreams(max=1, min=1, queue=0.1), meters, rates).of("triton", "m")
        now = time.perf_counter()
        gate.try_enter(now)
        with pytest.raises(Overloaded) as refused:
            await gate.wait(priority_of(10, 0), 0.05, 10, now)
        assert refused.value.retry_after >= 1
        assert meters.sheds == [("triton", "m", 10, "deadline")]

    asyncio.run(scenario())


def test_reload_keeps_what_was_learned_and_turns_off(rates):
    async def scenario():
        gates = Gates(upstreams(), Meters(), rates)
        gate = gates.of("triton", "m")
        gates.reload(upstreams(max=7))
        assert gates.of("triton", "m") is gate
        assert gate.limiter.limit == 7
        gates.reload(upstreams(max=9))
        assert gate.limiter.limit == 9
        gates.reload(upstreams(enabled=False))
        assert gates.of("triton", "m") is None
        assert gates.of("elsewhere", "m") is None

    asyncio.run(scenario())


def test_brown_out_in_its_order(rates):
    async def scenario():
        meters, pauses = Meters(), Pauses()
        gates = Gates(upstreams(max=1, min=1, queue=0.5), meters, rates)
        gate, out = gates.of("triton", "m"), Brownout(gates, pauses, meters)
        now = time.perf_counter()
        gate.try_enter(now)
        out.look(now)
        assert (out.level, pauses.paused) == (NONE, False)
        waiter = Waiter(priority_of(10, 0), now, now + 60, 1, lambda place, reason: None)
        gate.queue(waiter, now)
        out.look(now + 0.01)
        assert (out.level, pauses.paused) == (SHADOWS, False)
        out.look(now + 0.3)
        assert (out.level, pauses.paused) == (SAMPLING, True)
        gate.room.remove(waiter)
        gate.room.most = 0
        gate.queue(waiter, now + 0.4)
        assert level_of(gate, now + 0.5) == PRIORITY
        out.look(now + 5.0)
        assert (out.level, pauses.paused) == (NONE, False)
        assert ("triton", "m") in meters.states

    asyncio.run(scenario())


def test_a_probe_that_the_load_left_behind_ends(rates):
    async def scenario():
        gates = Gates(upstreams(max=20), Meters(), rates)
        gate, now = gates.of("triton", "m"), time.perf_counter()
        inside = []
        while not gate.limiter.probing:  # twenty at a time, 0.1 s each, until it wants to know how long one takes
            now += 0.1
            while len(inside) < 20 and (place := gate.limiter.enter(now)):
                inside.append((place, now))
            gate.leave(*inside.pop(0), now, True)
        for place, began in inside:
            gate.leave(place, began, now + 0.1, True)
        assert gate.limiter.limit == 0  # nobody waits with whom to measure
        brownout = Brownout(gates, Pauses(), Meters())
        brownout.look(now + 0.2)
        assert gate.limiter.probing
        brownout.look(now + 60.0)
        assert not gate.limiter.probing
        assert gate.limiter.limit >= 2

    asyncio.run(scenario())


def test_retry_after_grows_with_the_share_that_is_turned_away():
    gate = Gate(AdaptiveConcurrency(max=1, min=1), 0.0, lambda *_: None, lambda *_: None)
    gate.room.most = 0
    assert gate.retry_after() == 1
    for _ in range(200):
        gate.queue(Waiter(0, 0.0, 1.0, 1, lambda place, reason: None), 0.0)
    assert gate.retry_after() == 30
