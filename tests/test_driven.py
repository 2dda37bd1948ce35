"""A coroutine that runs without a task, against a task."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from gateway.driven import Driven, answer_of, begun


def drive(make, act=None):
    """Result and error of a coroutine that is driven; `act` gets what drives it."""

    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def begin():
            driven = Driven(loop, make(loop), lambda result, error: done.set_result((result, error)))
            driven.start()
            if act is not None:
                act(loop, driven)

        loop.call_soon(begin)
        async with asyncio.timeout(60):
            return await done

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_what_needs_no_waiting_ends_at_once():
    async def coroutine():
        return 7

    assert drive(lambda _: coroutine()) == (7, None)


def test_an_error_is_told():
    async def coroutine(future):
        await future
        raise LookupError("x")

    def make(loop):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return coroutine(future)

    result, error = drive(make)
    assert result is None
    assert isinstance(error, LookupError)


def test_a_direct_answer_resumes_in_the_stack_of_whoever_sets_it():
    seen = []

    async def coroutine(loop):
        future = answer_of(loop)

        def answer():
            future.set_result(5)
            seen.append("behind")

        loop.call_soon(answer)
        seen.append(await future)
        return "end"

    assert drive(coroutine) == ("end", None)
    assert seen == [5, "behind"]


def test_a_failure_and_futures_of_all_kinds():
    async def coroutine(loop):
        failing = answer_of(loop)
        loop.call_soon(failing.set_exception, LookupError("no"))
        with pytest.raises(LookupError):
            await failing
        done = answer_of(loop)
        done.set_result(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        slept = await asyncio.gather(asyncio.sleep(0.001, "a"), asyncio.sleep(0, "b"))
        return await done, slept

    assert drive(coroutine) == ((1, ["a", "b"]), None)


def test_a_time_limit_holds_within_it():
    async def coroutine():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        return asyncio.current_task() is not None

    assert drive(lambda _: coroutine()) == (True, None)


@pytest.mark.parametrize("direct", [True, False])
def test_cancelling_raises_where_it_waits(direct):
    cleaned = []

    async def coroutine(loop):
        try:
            await (answer_of(loop) if direct else loop.create_future())
        finally:
            await asyncio.sleep(0)
            cleaned.append(asyncio.current_task().cancelling())

    _, error = drive(coroutine, lambda loop, driven: loop.call_later(0.001, driven.cancel))
    assert isinstance(error, asyncio.CancelledError)
    assert cleaned == [1]


def test_cancelling_before_it_waits_again():
    async def coroutine(loop):
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer_of(loop)
        asyncio.current_task().uncancel()
        return asyncio.current_task().cancelling()

    assert drive(coroutine) == (0, None)


def test_an_answer_after_the_cancelling_changes_nothing():
    async def coroutine(loop):
        future = answer_of(loop)

        def both():
            driven.cancel()
            assert future.cancelled()

        driven = asyncio.current_task()
        loop.call_soon(both)
        with pytest.raises(asyncio.CancelledError):
            await future
        return "went on"

    assert drive(coroutine) == ("went on", None)


def test_what_does_not_wait_needs_no_task():
    async def main():
        took = []

        async def work():
            took.append(1)

        assert begun(asyncio.get_running_loop(), work()) is None
        assert took == [1]

    uvloop.run(main())


def test_the_rest_of_what_has_to_wait_is_a_task():
    async def main():
        loop = asyncio.get_running_loop()
        gate, seen = loop.create_future(), []

        async def work():
            seen.append(await gate)
            await asyncio.sleep(0)
            with pytest.raises(ValueError, match="no"):
                await refused
            seen.append(asyncio.current_task() is not mine)

        mine, refused = asyncio.current_task(), loop.create_future()
        rest = begun(loop, work())
        assert seen == []
        gate.set_result(5)
        loop.call_later(0.01, refused.set_exception, ValueError("no"))
        await rest
        assert seen == [5, True]

    uvloop.run(main())


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_the_rest_can_be_cancelled_at_any_time(turns):
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def work():
            try:
                await loop.create_future()
            finally:
                seen.append("cleaned up")

        rest = begun(loop, work())
        for _ in range(turns):
            await asyncio.sleep(0)
        rest.cancel()
        await asyncio.wait([rest])
        assert rest.cancelled()
        del rest
        assert seen == ["cleaned up"]

    uvloop.run(main())


def test_what_the_rest_raises_is_the_tasks():
    async def main():
        async def work():
            await asyncio.sleep(0)
            raise KeyError("x")

        with pytest.raises(KeyError):
            await begun(asyncio.get_running_loop(), work())

    uvloop.run(main())
