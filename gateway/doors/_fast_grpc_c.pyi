from collections.abc import Callable, Iterable
from typing import Any, final

from typing_extensions import disjoint_base

from gateway.headers import Headers
from gateway.wire._http2_c import BaseRpc, BaseSession

@disjoint_base
class Rpc(BaseRpc):
    connection: Any
    method_of: Any
    deadline: Any
    task: Any
    timer: Any
    goal: int
    initial: Any
    queue: Any
    wake: Any
    room: Any
    @property
    def path(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def timeout(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def started(self) -> bool: ...

@final
class Session(BaseSession):
    def __init__(self, make: Callable[[], Rpc], *, most_metadata: int, most_message: int, streams: int) -> None: ...
    def begin(self, call: Rpc, metadata: Iterable[tuple[str, str]]) -> None: ...
    def finish(self, call: Rpc, trailing: list[tuple[str, str]]) -> None: ...
    def answer(
        self, call: Rpc, metadata: Iterable[tuple[str, str]], message: bytes, trailing: list[tuple[str, str]]
    ) -> None: ...
    def refuse(self, call: Rpc, status: str) -> None: ...
    def farewell(self) -> None: ...
