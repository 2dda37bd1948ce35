"""A real Triton that is killed while it works: nobody waits for ever, nothing is sent twice, and it may come back."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from calls import identity, repeat, slow
from triton_fixture import repository, running_triton

from gateway import settings
from gateway.errors import TidegateError, Unreachable
from gateway.upstream import Upstream


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("engine", ["nghttp2", "grpcio"])
def test_killed_in_the_midst_of_calls_and_streams(run_once, tmp_path, events, engine):
    models = repository(tmp_path / "models", "identity_fp32", "repeat_int32", "slow")
    with running_triton([models], tmp_path / "triton.log") as server:

        async def main():
            up = Upstream("up", settings.Upstream(http=server.http, grpc=server.grpc), counters=events, engine=engine)
            await up.start()
            assert up.ready()
            await up.infer(identity(), model="identity_fp32", timeout=60)
            unary = [asyncio.create_task(up.infer(slow(20_000), model="slow", timeout=60)) for _ in range(3)]
            page = await up.one().stream_generate(
                b'{"IN":[1,2],"DELAY":[0,20000],"WAIT":[0]}', model="repeat_int32", timeout=60
            )
            assert await anext(page)
            ends: list[tuple[object, bool]] = []

            async def deliver(answer, final):
                ends.append((answer, final))

            stream = up.one().open_stream()
            for values in ([1], [1, 2]):
                await stream.send(
                    repeat(values, 20_000, id=str(values)), model="repeat_int32", timeout=60, deliver=deliver
                )
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in unary)
            os.kill(server.pid, signal.SIGKILL)
            for task in unary:
                with pytest.raises(Unreachable):
                    await task
            with pytest.raises(Unreachable):
                await anext(page)
            await page.aclose()
            await until(lambda: len(ends) == 2)
            assert all(isinstance(answer, Unreachable) and final for answer, final in ends)
            assert stream.closed
            await until(lambda: not up.ready())
            with pytest.raises(Unreachable):
                await up.infer(identity(), model="identity_fp32", timeout=60)
            with pytest.raises(Unreachable):
                await up.one().unary("ServerLive", b"", timeout=60)
            with pytest.raises(TidegateError):
                await up.signature("slow")
            assert events["resend"] == 0
            assert events["down"] == 1
            await up.close()

        run_once(main())
