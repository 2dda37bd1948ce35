import asyncio
from collections import deque
from typing import Any

from typing_extensions import disjoint_base

from gateway.upstream._line_py import HeaderPairs

known_heads: dict[bytes, ResponseHead]

@disjoint_base
class ResponseHead:
    def __init__(self, head: bytes, status: int, headers: HeaderPairs, length: int, json_length: int) -> None: ...
    @property
    def head(self) -> bytes: ...
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> HeaderPairs: ...
    @property
    def length(self) -> int: ...
    @property
    def json_length(self) -> int: ...

@disjoint_base
class Waiter: ...

@disjoint_base
class Line:
    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport | None
    _on_idle: Any
    _future: Any
    _stream: Any
    _timer: asyncio.TimerHandle | None
    _first_head: bytes
    _headers: HeaderPairs
    closed: bool
    _secure: bool
    _without_body: bool
    _seen: bool
    _head_done: bool
    _until_close: bool
    _keep_alive: bool
    _complete: bool
    _status: int
    served: int
    _written: int
    _sent: int
    _head_bytes: int
    _left: int
    idle_since: float
    deadline: float
    def begin(self, size: int) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def must_end(self) -> bool: ...

@disjoint_base
class Shelf:
    _loop: asyncio.AbstractEventLoop | None
    _idle: list[Line]
    _waiters: deque[asyncio.Future[Any]]
    _reaper: asyncio.TimerHandle | None
    _ticker: asyncio.TimerHandle | None
    _closing: bool
    probe_after: float
    def pop_idle(self, now: float) -> Line | None: ...
    def on_idle(self, line: Line) -> None: ...
