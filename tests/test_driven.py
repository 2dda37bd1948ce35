"""A coroutine that runs without a task, against a task: the C twin and its specification."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
import uvloop

from gateway import _driven_c, _driven_py
from gateway.driven import begun


@pytest.fixture(params=[_driven_c, _driven_py], ids=["c", "py"])
def twin(request):
    return request.param


def drive(twin, make, act=None):
    """Result and error of a coroutine that is driven; `act` gets what drives it."""

    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def begin():
            driven = twin.Driven(loop, make(loop), lambda result, error: done.set_result((result, error)))
            driven.start()
            if act is not None:
                act(loop, driven)

        loop.call_soon(begin)
        async with asyncio.timeout(60):
            return await done

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_what_needs_no_waiting_ends_at_once(twin):
    async def coroutine():
        return 7

    assert drive(twin, lambda _: coroutine()) == (7, None)


def test_an_error_is_told(twin):
    async def coroutine(future):
        await future
        raise LookupError("x")

    def make(loop):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return coroutine(future)

    result, error = drive(twin, make)
    assert result is None
    assert isinstance(error, LookupError)


def test_a_direct_answer_resumes_in_the_stack_of_whoever_sets_it(twin):
    seen = []

    async def coroutine(loop):
        future = twin.answer_of(loop)

        def answer():
            future.set_result(5)
            seen.append("behind")

        loop.call_soon(answer)
        seen.append(await future)
        return "end"

    assert drive(twin, coroutine) == ("end", None)
    assert seen == [5, "behind"]


def test_a_failure_and_futures_of_all_kinds(twin):
    async def coroutine(loop):
        failing = twin.answer_of(loop)
        loop.call_soon(failing.set_exception, LookupError("no"))
        with pytest.raises(LookupError):
            await failing
        done = twin.answer_of(loop)
        done.set_result(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        slept = await asyncio.gather(asyncio.sleep(0.001, "a"), asyncio.sleep(0, "b"))
        return await done, slept

    assert drive(twin, coroutine) == ((1, ["a", "b"]), None)


def test_a_time_limit_holds_within_it(twin):
    async def coroutine():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        return asyncio.current_task() is not None

    assert drive(twin, lambda _: coroutine()) == (True, None)


@pytest.mark.parametrize("direct", [True, False])
def test_cancelling_raises_where_it_waits(twin, direct):
    cleaned = []

    async def coroutine(loop):
        try:
            await (twin.answer_of(loop) if direct else loop.create_future())
        finally:
            await asyncio.sleep(0)
            cleaned.append(asyncio.current_task().cancelling())

    _, error = drive(twin, coroutine, lambda loop, driven: loop.call_later(0.001, driven.cancel))
    assert isinstance(error, asyncio.CancelledError)
    assert cleaned == [1]


def test_cancelling_before_it_waits_again(twin):
    async def coroutine(loop):
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await twin.answer_of(loop)
        asyncio.current_task().uncancel()
        return asyncio.current_task().cancelling()

    assert drive(twin, coroutine) == (0, None)


def test_an_answer_after_the_cancelling_changes_nothing(twin):
    async def coroutine(loop):
        future = twin.answer_of(loop)

        def both():
            driven.cancel()
            assert future.cancelled()

        driven = asyncio.current_task()
        loop.call_soon(both)
        with pytest.raises(asyncio.CancelledError):
            await future
        return "went on"

    assert drive(twin, coroutine) == ("went on", None)


def test_for_a_task_it_is_a_future(twin):
    """Made within a `Driven`, awaited by tasks of any kind."""

    async def coroutine(loop):
        made = [twin.answer_of(loop) for _ in range(4)]
        tasks = [loop.create_task(each(one)) for one in made]
        both = asyncio.gather(made[0], made[0])
        await asyncio.sleep(0)
        assert made[0].get_loop() is loop
        assert not made[0].done()
        made[0].set_result(("a", 1))
        made[1].set_exception(LookupError("no"))
        made[2].cancel("enough")
        tasks[3].cancel()
        await asyncio.wait(tasks)
        assert made[3].cancelled()
        with pytest.raises(asyncio.InvalidStateError):
            made[0].set_result(2)
        return [task.cancelled() or task.exception() or task.result() for task in tasks], await both

    async def each(one):
        return await one

    (results, both), error = drive(twin, coroutine)
    assert error is None
    assert results[0] == ("a", 1)
    assert isinstance(results[1], LookupError)
    assert results[2:] == [True, True]
    assert both == [("a", 1), ("a", 1)]


def test_what_it_says_of_itself(twin):
    async def coroutine(loop):
        answered, failed, cancelled, open_ = (twin.answer_of(loop) for _ in range(4))
        told = []
        answered.add_done_callback(told.append)
        answered.add_done_callback(print)
        assert answered.remove_done_callback(print) == 1
        assert answered.remove_done_callback(print) == 0
        answered.set_result(StopIteration(3))
        failed.set_exception(KeyError)
        with pytest.raises(TypeError):
            open_.set_exception(StopIteration())
        assert cancelled.cancel("m")
        assert not cancelled.cancel()
        failed.add_done_callback(told.append)
        await asyncio.sleep(0)
        assert told == [answered, failed]
        assert isinstance(answered.result(), StopIteration)
        assert isinstance(await answered, StopIteration)
        assert answered.exception() is None
        assert isinstance(failed.exception(), KeyError)
        for one, error in ((failed, KeyError), (cancelled, asyncio.CancelledError), (open_, asyncio.InvalidStateError)):
            with pytest.raises(error):
                one.result()
        for one, error in ((cancelled, asyncio.CancelledError), (open_, asyncio.InvalidStateError)):
            with pytest.raises(error):
                one.exception()
        with pytest.raises(KeyError):
            await failed
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return [one.done() for one in (answered, failed, cancelled, open_)]

    assert drive(twin, coroutine) == ([True, True, True, False], None)


@pytest.mark.parametrize("kind", [str, tuple, RuntimeError])
def test_an_answer_of_any_kind_arrives(twin, kind):
    async def coroutine(loop):
        future = twin.answer_of(loop)
        loop.call_soon(future.set_result, answer)
        return await future

    answer = kind("ab")
    assert drive(twin, coroutine) == (answer, None)


@pytest.mark.parametrize("how", ["set_result", "set_exception"])
def test_nothing_is_left_of_it(twin, how):
    """Neither the end of a coroutine nor its failure holds anything in memory, once the collector was there."""

    class Mark:
        pass

    async def coroutine(loop, mark):
        left.append(weakref.ref(mark))
        future = twin.answer_of(loop)
        loop.call_soon(getattr(future, how), LookupError("x"))
        await future

    left = []
    drive(twin, lambda loop: coroutine(loop, Mark()))
    gc.collect()
    assert left[0]() is None


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
