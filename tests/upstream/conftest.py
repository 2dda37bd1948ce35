"""What the tests of the upstream side share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop


class Events:
    """Counts what happened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_event(self, name: str, **labels: str) -> None:
        self.names.append(name)

    def __getitem__(self, name: str) -> int:
        return self.names.count(name)


@pytest.fixture
def events():
    return Events()


def _runner(factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(60):
                return await main

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(bounded())

    return run


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request):
    """Runs a coroutine, in the event loop of production and in the standard one."""
    return _runner(uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop)


@pytest.fixture
def run_once():
    """The same in uvloop alone, for tests against a real server."""
    return _runner(uvloop.new_event_loop)
