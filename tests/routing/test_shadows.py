"""Shadows: bounds, order, faults, and what is counted.

The stand-in is for what a real Triton cannot be made to do; `test_shadows_triton` has the real one.
"""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gateway.errors import Unreachable
from gateway.metrics import Reader, Registry
from gateway.routing import CallView, RouteTable
from gateway.routing.shadows import INLINE_BYTES, Dropped, ShadowRunner
from gateway.routing.state import ShadowMeters, route_state
from gateway.settings import Compare, Route, Settings, Shadow, Upstream
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor, SharedMemory
from governance.types import Subject


class StandIn:
    """An upstream that answers when it is told to, or fails."""

    def __init__(self) -> None:
        self.calls, self.headers, self.asked, self.most = [], [], [], 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None
        self.answer = answer(1.0)
        self._active = 0

    async def infer(self, call, *, model, version, headers, timeout):
        self.calls.append(call)
        self.headers.append(headers)
        self.asked.append((model, version, timeout))
        self._active += 1
        self.most = max(self.most, self._active)
        try:
            await self.gate.wait()
        finally:
            self._active -= 1
        if self.error is not None:
            raise self.error
        return self.answer


def answer(*values):
    data = np.array(values, np.float32)
    return InferAnswer("m", outputs=[OutputTensor("y", "FP32", [len(values)], data=data.tobytes())])


def call(nbytes=8, **parameters):
    return InferCall(
        "credit",
        id="1",
        parameters=parameters,
        inputs=[InputTensor("x", "UINT8", [nbytes], data=bytes(nbytes))],
    )


class Bench:
    """A runner over one route with one shadow, and its counts."""

    def __init__(self, directory, **shadow) -> None:
        self.registry = Registry(directory, 0)
        self.reader = Reader(directory)
        self.runner = ShadowRunner(
            lambda route, name: ShadowMeters(self.registry, route, name),
            held_bytes=shadow.pop("held_bytes", 2**26),
        )
        self.use(**shadow)
        self.upstream = StandIn()

    def use(self, **shadow):
        config = Shadow(**{"name": "candidate", "model": "income", "version": "3"} | shadow)
        table = RouteTable.compile(
            Settings(upstreams={"t": Upstream(http="h:1")}, routes={"credit": Route(shadows=(config,))})
        )
        self.route = table.lookup("credit")
        self.shadow = self.route.shadows[0]

    def offer(self, sent=None, headers=()):
        return self.runner.offer(self.shadow, call() if sent is None else sent, self.upstream, headers)

    @property
    def state(self):
        return route_state(self.route, self.reader.collect()).shadows[0]

    async def settled(self):
        for _ in range(1000):
            if self.runner.idle:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("copies are not through")


@pytest.fixture
def bench(tmp_path):
    @asynccontextmanager
    async def made(**shadow):
        bench = Bench(tmp_path, **shadow)
        try:
            yield bench
        finally:
            bench.upstream.gate.set()
            await bench.runner.drain(1.0)
            bench.registry.close()

    return made


async def turns(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


def test_equal_and_different_answers_are_counted(bench):
    async def run():
        async with bench(compare=Compare(rtol=0, atol=0.1)) as b:
            for value in (1.0, 1.05, 1.5, 3.0):
                b.offer().primary_done(answer(value))
            await b.settled()
            state = b.state
            assert (state.requests, state.errors, state.dropped, state.uncompared) == (4, 0, 0, 0)
            (y,) = state.outputs
            assert (y.name, y.compared, y.differences, y.kinds) == ("y", 4, 2, {"values": 2})
            assert (y.elements, y.elements_differing) == (4, 2)
            assert y.max_abs == pytest.approx(2.0)
            assert y.max_rel == pytest.approx(2 / 3)
            assert state.latency_difference_seconds is not None

    asyncio.run(run())


def test_the_copy_is_the_call_with_a_mark(bench):
    async def run():
        async with bench(timeout=1.5) as b:
            sent = call(timeout=5, priority=1)
            b.offer(sent, headers=[("x-request-id", "r1")]).primary_done(answer(1.0))
            await b.settled()
            (copy,) = b.upstream.calls
            assert copy is not sent
            assert copy == sent
            assert copy.inputs[0].data is sent.inputs[0].data
            assert b.upstream.headers == [[("x-request-id", "r1"), ("x-tidegate-shadow", "candidate")]]
            assert b.upstream.asked == [("income", "3", 1.5)]

    asyncio.run(run())


def test_a_name_beyond_ascii_is_a_header_that_can_be_sent(bench):
    async def run():
        async with bench(name="né\r\n") as b:
            b.offer().primary_done(answer(1.0))
            await b.settled()
            assert b.upstream.headers == [[("x-tidegate-shadow", "n%C3%A9%0D%0A")]]

    asyncio.run(run())


def test_offering_waits_for_nothing_and_sends_after_the_caller(bench):
    async def run():
        async with bench() as b:
            b.upstream.gate.clear()
            copies = [b.offer() for _ in range(8)]
            assert b.upstream.calls == []  # the caller's own request is written first
            await turns()
            assert len(b.upstream.calls) == 8
            for copy in copies:
                copy.primary_done(answer(1.0))
            assert b.state.outputs == []  # nothing is compared before the shadow answers
            b.upstream.gate.set()
            await b.settled()
            assert b.state.outputs[0].compared == 8

    asyncio.run(run())


def test_either_may_be_first(bench):
    async def run():
        async with bench() as b:
            early = b.offer()
            await turns()  # the shadow has answered
            early.primary_done(answer(2.0))
            late = b.offer()
            late.primary_done(answer(2.0))
            await b.settled()
            assert b.state.outputs[0].differences == 2

    asyncio.run(run())


def test_concurrency_and_queue_are_bounded_and_the_rest_is_dropped(bench):
    async def run():
        async with bench(concurrency=3, queue=5) as b:
            b.upstream.gate.clear()
            copies = [b.offer() for _ in range(20)]
            assert [isinstance(copy, Dropped) for copy in copies] == [False] * 8 + [True] * 12
            for copy in copies:
                copy.primary_done(answer(1.0))
            await turns()
            assert len(b.upstream.calls) == 3
            b.upstream.gate.set()
            await b.settled()
            assert (b.state.requests, b.state.dropped, b.upstream.most) == (8, 12, 3)
            for _ in range(3):  # and there is room again
                b.offer().primary_done(answer(1.0))
            await b.settled()
            assert (b.state.requests, b.state.dropped) == (11, 12)

    asyncio.run(run())


def test_no_queue_at_all(bench):
    async def run():
        async with bench(concurrency=1, queue=0) as b:
            b.upstream.gate.clear()
            assert not isinstance(b.offer(), Dropped)
            assert isinstance(b.offer(), Dropped)

    asyncio.run(run())


def test_bytes_are_bounded_and_given_back(bench):
    async def run():
        async with bench(concurrency=1, queue=100, held_bytes=1000) as b:
            b.upstream.gate.clear()
            copies = [b.offer(call(300)) for _ in range(5)]
            assert [isinstance(copy, Dropped) for copy in copies] == [False, False, False, True, True]
            for copy in copies:
                copy.primary_done(None)
            b.upstream.gate.set()
            await b.settled()
            assert b.runner._lanes["credit", "candidate"].held == 0
            large = b.offer(call(5000))
            assert not isinstance(large, Dropped)  # alone it is let in
            assert isinstance(b.offer(call(1)), Dropped)
            large.primary_done(None)
            await b.settled()
            assert b.state.dropped == 3

    asyncio.run(run())


def test_answers_count_as_held_until_they_are_compared(bench):
    async def run():
        async with bench(held_bytes=1000) as b:
            b.upstream.answer = answer(*range(250))
            slow = b.offer(call(10))
            await turns()  # the shadow's 1000 bytes wait for the call's own answer
            assert isinstance(b.offer(call(10)), Dropped)
            slow.primary_done(answer(*range(250)))
            await b.settled()
            assert not isinstance(b.offer(call(10)), Dropped)

    asyncio.run(run())


def test_when_the_call_failed_there_is_nothing_to_compare(bench):
    async def run():
        async with bench() as b:
            b.offer().primary_done(None)
            await b.settled()
            assert (b.state.requests, b.state.uncompared, b.state.errors, b.state.outputs) == (1, 1, 0, [])

    asyncio.run(run())


@pytest.mark.parametrize("error", [Unreachable("gone"), RuntimeError("a fault of ours")])
def test_a_failing_shadow_is_counted_and_nobody_notices(bench, error, caplog):
    async def run():
        async with bench(concurrency=1) as b:
            b.upstream.error = error
            for _ in range(3):
                b.offer().primary_done(answer(1.0))
            await b.settled()
            assert (b.state.requests, b.state.errors, b.state.outputs) == (3, 3, [])
            b.upstream.error = None
            b.offer().primary_done(answer(1.0))
            await b.settled()
            assert b.state.outputs[0].compared == 1

    asyncio.run(run())
    assert len(caplog.records) == (3 if isinstance(error, RuntimeError) else 0)


def test_large_answers_are_compared_aside(bench):
    async def run():
        async with bench() as b:
            values = np.ones(INLINE_BYTES // 2, np.float32)
            b.upstream.answer = answer(*values)
            b.offer().primary_done(answer(*(values + 1)))
            await b.settled()
            assert b.state.outputs[0].elements_differing == values.size
            assert b.runner._thread is not None

    asyncio.run(run())


def test_shared_memory_of_the_client_is_left_alone(bench):
    async def run():
        async with bench() as b:
            region = SharedMemory("r", 4)
            inside = InferCall("credit", inputs=[InputTensor("x", "FP32", [1], shm=region)])
            assert isinstance(b.offer(inside), Dropped)
            written = call()
            written.outputs = [OutputRequest("y", shm=region, classification=0)]
            done = InferAnswer("m", outputs=[OutputTensor("y", "FP32", [1], shm=region)])
            b.offer(written).primary_done(done)
            await b.settled()
            assert b.upstream.calls[0].outputs == [OutputRequest("y")]
            assert written.outputs[0].shm is region
            assert (b.state.requests, b.state.dropped, b.state.outputs) == (1, 1, [])

    asyncio.run(run())


def test_classification_is_known_from_the_call(bench):
    async def run():
        async with bench() as b:
            text = b"\x05\0\0\0" + b"0.5:1"
            given = InferAnswer("m", outputs=[OutputTensor("y", "BYTES", [1], data=text)])
            b.upstream.answer = InferAnswer(
                "m", outputs=[OutputTensor("y", "BYTES", [1], data=b"\x08\0\0\0" + b"0.5000:1")]
            )
            asked = call()
            asked.outputs = [OutputRequest("y", classification=1)]
            b.offer(asked).primary_done(given)
            await b.settled()
            (y,) = b.state.outputs
            assert (y.differences, y.agreement_top1, y.agreement_topk) == (0, 1.0, 1.0)

    asyncio.run(run())


# --- sequences ---------------------------------------------------------------------------------------------


def step(number, *, start=False, end=False, value=0):
    flags = {"sequence_start": True} if start else {}
    flags |= {"sequence_end": True} if end else {}
    return call(sequence_id=number, step=value, **flags)


def test_a_sequence_has_another_id_at_the_shadow(bench):
    async def run():
        async with bench() as b:
            for number in (7, "seven"):
                b.offer(sent := step(number, start=True, end=True)).primary_done(answer(1.0))
                assert sent.parameters["sequence_id"] == number
            await b.settled()
            ids = [copy.parameters["sequence_id"] for copy in b.upstream.calls]
            assert [type(i) for i in ids] == [int, str]
            assert ids[0] not in {7, 0}
            assert ids[1] != "seven"

    asyncio.run(run())


def test_a_sequence_keeps_its_order_and_others_pass(bench):
    async def run():
        async with bench(concurrency=4, queue=100) as b:
            b.upstream.gate.clear()
            for value in range(6):
                b.offer(step(1, start=value == 0, value=value)).primary_done(answer(1.0))
                b.offer(step(2, start=value == 0, value=value)).primary_done(answer(1.0))
            await turns()
            assert len(b.upstream.calls) == 2  # one of each
            b.upstream.gate.set()
            await b.settled()
            by_sequence = {}
            for copy in b.upstream.calls:
                by_sequence.setdefault(copy.parameters["sequence_id"], []).append(copy.parameters["step"])
            assert list(by_sequence.values()) == [list(range(6))] * 2
            assert b.runner._lanes["credit", "candidate"]._sequences == {}

    asyncio.run(run())


def test_a_sequence_with_a_hole_is_not_sent_on(bench):
    async def run():
        async with bench(concurrency=1, queue=1) as b:
            b.upstream.gate.clear()
            kept = [b.offer(step(1, start=True)), b.offer(step(1, value=1))]
            assert isinstance(b.offer(step(1, value=2)), Dropped)  # the queue is full
            b.upstream.gate.set()
            for copy in kept:
                copy.primary_done(answer(1.0))
            await b.settled()
            assert isinstance(b.offer(step(1, value=3)), Dropped)  # there is room, but its state is another
            assert isinstance(b.offer(step(1, end=True)), Dropped)
            fresh = b.offer(step(1, start=True))
            assert not isinstance(fresh, Dropped)
            fresh.primary_done(answer(1.0))
            await b.settled()
            assert not isinstance(b.offer(step(1, value=1)), Dropped)

    asyncio.run(run())


def test_a_sequence_that_failed_is_not_sent_on(bench):
    async def run():
        async with bench(concurrency=1) as b:
            b.upstream.gate.clear()
            b.upstream.error = Unreachable("gone")
            copies = [b.offer(step(1, start=i == 0, value=i)) for i in range(3)]
            copies += [b.offer(step(1, start=True, value=9))]
            await turns()
            b.upstream.gate.set()
            for copy in copies:
                copy.primary_done(answer(1.0))
            await b.settled()
            # The second and third are dropped with the first; a new start is a new sequence.
            assert [copy.parameters["step"] for copy in b.upstream.calls] == [0, 9]
            assert (b.state.errors, b.state.dropped) == (2, 2)

    asyncio.run(run())


# --- life --------------------------------------------------------------------------------------------------


def test_drain_waits_for_copies_and_takes_no_more(bench):
    async def run():
        async with bench(concurrency=1) as b:
            b.upstream.gate.clear()
            for copy in [b.offer() for _ in range(3)]:
                copy.primary_done(answer(1.0))
            asyncio.get_running_loop().call_later(0.05, b.upstream.gate.set)
            await b.runner.drain(5.0)
            assert b.runner.idle
            assert b.state.outputs[0].compared == 3
            assert isinstance(b.offer(), Dropped)
            assert b.state.dropped == 1

    asyncio.run(run())


def test_drain_ends_in_time_and_counts_what_it_drops(bench):
    async def run():
        async with bench(concurrency=2) as b:
            b.upstream.gate.clear()
            copies = [b.offer() for _ in range(5)]
            await turns()
            await b.runner.drain(0.05)
            for copy in copies:
                copy.primary_done(answer(1.0))
            assert b.runner.idle
            assert b.state.dropped == 5

    asyncio.run(run())


def test_a_reload_keeps_lanes_with_new_bounds_and_drops_those_of_no_shadow(bench):
    async def run():
        async with bench(concurrency=1, queue=10) as b:
            b.upstream.gate.clear()
            first = [b.offer() for _ in range(3)]
            b.use(concurrency=1, queue=0)
            assert isinstance(b.offer(), Dropped)
            b.runner.retain([b.shadow])
            assert b.state.dropped == 1
            b.runner.retain([])
            assert b.state.dropped == 3  # two waited
            for copy in first:
                copy.primary_done(answer(1.0))
            b.upstream.gate.set()
            await b.settled()
            assert (b.state.requests, b.state.outputs[0].compared) == (1, 1)

    asyncio.run(run())


def test_a_route_shows_its_variants_by_code(bench):
    async def run():
        async with bench() as b:
            from gateway import telemetry as t

            requests = b.registry.counter(t.REQUESTS)
            requests.labels("credit", "default", "http", "200", "acme").inc(3)
            requests.labels("credit", "default", "grpc", "OK", "other").inc(2)
            requests.labels("other", "default", "http", "200", "acme").inc(9)
            (variant,) = route_state(b.route, b.reader.collect()).variants
            assert (variant.name, variant.requests) == ("default", 5)
            assert variant.codes == {"200": 3, "OK": 2}
            assert b.route.assign(CallView(Subject("a", "t"))).shadows == b.route.shadows

    asyncio.run(run())
