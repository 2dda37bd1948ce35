"""Shadows against a real Triton: injected differences, stateful copies, and a shadow that is slow or gone."""

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gateway.metrics import Reader, Registry
from gateway.routing import CallView, RouteTable
from gateway.routing.shadows import ShadowRunner
from gateway.routing.state import ShadowMeters, route_state
from gateway.settings import Compare, Route, Settings, Shadow, Variant
from gateway.settings import Upstream as UpstreamSettings
from gateway.upstream import Upstreams
from gateway.wire.types import InferCall, InputTensor
from governance.types import Subject

CALLER = Subject("alice", "acme")


class Mirror:
    """A route of one variant and its shadows over a real model server, as the pipeline drives it."""

    def __init__(self, route, upstreams, runner, reader) -> None:
        self.route, self.upstreams, self.runner, self.reader = route, upstreams, runner, reader

    async def infer(self, sent):
        assignment = self.route.assign(CallView(CALLER, parameters=sent.parameters))
        copies = [self.runner.offer(s, sent, self.upstreams[s.upstream], []) for s in assignment.shadows]
        answer = None
        try:
            variant = assignment.variant
            answer = await self.upstreams[variant.upstream].infer(
                sent, model=variant.model, version=assignment.version, headers=[], timeout=10
            )
            return answer
        finally:
            for copy in copies:
                copy.primary_done(answer)

    async def shadow(self):
        """The state of the only shadow once all copies are through."""
        for _ in range(5000):
            if self.runner.idle:
                (state,) = route_state(self.route, self.reader.collect()).shadows
                return state
            await asyncio.sleep(0.002)
        raise AssertionError("copies are not through")


@pytest.fixture
def mirror(triton, tmp_path):
    @asynccontextmanager
    async def made(model, shadow):
        servers = {
            "triton": UpstreamSettings(http=triton.http),
            "gone": UpstreamSettings(http="127.0.0.1:9"),
        }
        config = Settings(
            upstreams=servers,
            routes={"r": Route(variants=(Variant(name="v", model=model),), shadows=(shadow,))},
        )
        registry = Registry(tmp_path, 0)
        runner = ShadowRunner(lambda route, name: ShadowMeters(registry, route, name))
        upstreams = Upstreams(servers)
        await upstreams.start()
        try:
            yield Mirror(RouteTable.compile(config).lookup("r"), upstreams, runner, Reader(tmp_path))
        finally:
            await runner.drain(5)
            await upstreams.close()
            registry.close()

    return made


def matrix(values):
    data = np.asarray(values, np.float32)
    return InferCall("r", inputs=[InputTensor("INPUT0", "FP32", list(data.shape), data=data.tobytes())])


def read(answer, name="OUTPUT0", dtype=np.float32):
    (output,) = [output for output in answer.outputs if output.name == name]
    return np.frombuffer(output.data, dtype)


def test_the_same_model_never_differs(mirror):
    async def run():
        async with mirror("identity_fp32", Shadow(name="s", model="identity_fp32")) as m:
            rng = np.random.default_rng(1)
            for _ in range(50):
                await m.infer(matrix(rng.normal(size=(2, 5))))
            state = await m.shadow()
            (y,) = state.outputs
            assert (state.requests, state.errors, state.dropped) == (50, 0, 0)
            assert (y.compared, y.differences, y.elements) == (50, 0, 500)
            assert (y.agreement_top1, y.agreement_topk) == (1.0, 1.0)

    asyncio.run(run())


def test_injected_differences_are_all_counted(mirror):
    # `batched` doubles: what is not 0 differs by its own value; BATCH_SIZE is an output of its own.
    async def run():
        shadow = Shadow(name="s", model="batched", compare=Compare(rtol=0, atol=0.5), queue=1000)
        async with mirror("identity_fp32", shadow) as m:
            rng, expected, largest, elements = np.random.default_rng(2), 0, 0.0, 0
            for i in range(120):
                values = rng.uniform(-4, 4, (1, 4)).astype(np.float32) if i % 3 == 0 else np.zeros((1, 4))
                beyond = np.abs(values) > 0.5
                expected, elements = expected + bool(beyond.any()), elements + int(beyond.sum())
                largest = max(largest, float(np.abs(values).max()))
                assert np.array_equal(read(await m.infer(matrix(values))), np.ravel(values).astype(np.float32))
            state = await m.shadow()
            outputs = {output.name: output for output in state.outputs}
            y = outputs["OUTPUT0"]
            assert (y.compared, y.differences, y.elements_differing) == (120, expected, elements)
            assert y.max_abs == pytest.approx(largest)
            assert y.max_rel == pytest.approx(1.0)
            assert outputs["BATCH_SIZE"].kinds == {"extra": 120}
            assert state.errors == 0

    asyncio.run(run())


def test_a_shadow_that_refuses_counts_errors(mirror):
    async def run():
        async with mirror("identity_fp32", Shadow(name="s", model="no_such_model")) as m:
            for _ in range(5):
                assert read(await m.infer(matrix([[1, 2]]))).tolist() == [1, 2]
            state = await m.shadow()
            assert (state.requests, state.errors, state.outputs) == (5, 5, [])

    asyncio.run(run())


def test_a_server_that_is_gone_counts_errors_and_delays_nobody(mirror):
    async def run():
        async with mirror("identity_fp32", Shadow(name="s", model="m", upstream="gone")) as m:
            began = time.monotonic()
            for _ in range(20):
                await m.infer(matrix([[1]]))
            assert time.monotonic() - began < 15
            state = await m.shadow()
            assert (state.requests, state.errors) == (20, 20)

    asyncio.run(run())


def test_a_slow_shadow_delays_nobody_and_is_cut_at_its_timeout(mirror):
    # `slow` wants another input than the variant, so each gets a call of its own.
    async def run():
        shadow = Shadow(name="s", model="slow", timeout=0.8, concurrency=2, queue=4)
        async with mirror("identity_all", shadow) as m:
            asked = np.array([[3000]], np.int32)
            sent = InferCall(
                "r",
                inputs=[
                    InputTensor("INPUT_INT32", "INT32", [1], data=np.int32(5).tobytes()),
                ],
            )
            copied = InferCall("r", inputs=[InputTensor("MILLISECONDS", "INT32", [1, 1], data=asked.tobytes())])
            (target,) = m.route.shadows
            began = time.monotonic()
            copies = [m.runner.offer(target, copied, m.upstreams["triton"], []) for _ in range(10)]
            answer = await m.upstreams["triton"].infer(sent, model="identity_all", headers=[], timeout=5)
            assert time.monotonic() - began < 3.0, "what the shadow sleeps"
            assert read(answer, "OUTPUT_INT32", np.int32).tolist() == [5]
            for copy in copies:
                copy.primary_done(answer)
            state = await m.shadow()
            assert (state.requests, state.errors, state.dropped) == (6, 6, 4)

    asyncio.run(run())


def test_a_shadow_of_the_serving_model_does_not_touch_its_sequences(mirror):
    async def run():
        async with mirror("sequence_accumulate", Shadow(name="s", model="sequence_accumulate")) as m:
            totals = {}
            for i in range(6):
                for number in (31, 32, 33):
                    parameters = {"sequence_id": number, "sequence_start": i == 0, "sequence_end": i == 5}
                    value = np.array([[number + i]], np.int32)
                    sent = InferCall(
                        "r",
                        parameters=parameters,
                        inputs=[InputTensor("INPUT", "INT32", [1, 1], data=value.tobytes())],
                    )
                    totals[number] = totals.get(number, 0) + number + i
                    assert read(await m.infer(sent), "OUTPUT", np.int32).tolist() == [totals[number]]
            state = await m.shadow()
            (output,) = state.outputs
            assert (state.requests, state.errors, state.dropped) == (18, 0, 0)
            assert (output.compared, output.differences) == (18, 0)

    asyncio.run(run())
