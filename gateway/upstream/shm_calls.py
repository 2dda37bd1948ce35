"""Calls with large tensors by shared memory: into that form, and back.

Contract: a call's large tensors are put where the model server can read them (those of a body that was read into the
ring lie there already), it writes large outputs there, and callers see an answer whose outputs are views of that
memory. What cannot go this way is sent as it is: tensors of clients that use shared memory of their own, outputs of
BYTES (the server does not say how long they are), and all when the ring has no room.

An output's size is what the model's last outputs had, and a little more. Where that does not do, the server says so
when the model has run already: so outputs go this way only for calls that may run twice, and that call is sent again.

A call that its client left or that is late goes on at the server, which may still read and write: it keeps its memory
until the answer is there or, when the connection broke, until the server has proved that no call is left (`Region`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from gateway.errors import BadGateway, DeadlineExceeded, Unreachable, UpstreamAnswered
from gateway.upstream.events import Counters
from gateway.upstream.http_response import TOO_LATE
from gateway.upstream.shm_region import Region, Server
from gateway.upstream.shm_ring import PREFIX, Ring
from gateway.wire.tensors import SIZES, element_count
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor, SharedMemory
from gateway.wire.validate import ModelSignature

FROM: Final = 128 * 1024
"""Bytes of a tensor from which shared memory is worth its cost; see docs/performance-large.md."""
LINGER_S: Final = 600.0
"""Longest time that a call which nobody waits for keeps its connection, to see it end."""
_MOST_LEFT: Final = 16
"""Calls that nobody waits for, beyond which tensors are copied, so that connections do not fill up with them."""
_TOO_SMALL: Final = re.compile(
    r"shared memory size specified with the request for output '(.*)' \(\d+ bytes\) should be at least (\d+) bytes"
)
_WINDOW: Final = 64  # calls in which an output's size is forgotten
_MOST_MODELS: Final = 1024

Send = Callable[[InferCall, float], Awaitable[InferAnswer]]
"""Sends a call and waits for its answer for so many seconds."""


class _Room:
    """How large one output is, as far as is known."""

    __slots__ = ("_before", "_calls", "_largest")

    def __init__(self) -> None:
        self._largest = self._before = self._calls = 0

    def saw(self, nbytes: int) -> None:
        self._calls += 1
        if self._calls % _WINDOW == 0:
            self._before, self._largest = self._largest, 0
        self._largest = max(self._largest, nbytes)

    @property
    def bytes(self) -> int:
        """Of the largest lately."""
        return max(self._largest, self._before)


class _Carried(msgspec.Struct, gc=False):
    """A call in its shared-memory form, and the memory that it needs until it has ended."""

    call: InferCall
    inputs: list[memoryview | bytes]
    outputs: dict[str, memoryview]


class SharedCalls:
    """The calls of one replica that go this way.

    Args:
        ring: of this worker.
        server: the replica.
        upstream: its upstream's name, for what is counted.
        counters: where it is counted.
    """

    def __init__(self, ring: Ring, server: Server, upstream: str, counters: Counters) -> None:
        self._ring = ring
        self._server = server
        self._upstream = upstream
        self._counters = counters
        self.region = Region(ring, server, self._fresh)
        self._rooms: dict[tuple[str, str], dict[str, _Room]] = {}
        self._running: set[asyncio.Task[InferAnswer]] = set()
        self._left = 0  # of them, those that nobody waits for
        self._held: list[_Carried] = []
        """Calls whose end is not known: the server may still use their memory."""

    def saw(self, model: str, version: str, answer: InferAnswer) -> None:
        """A large answer: how large its outputs may be next time."""
        key = (model, version)
        rooms = self._rooms.get(key)
        for tensor in answer.outputs:
            if tensor.data is None or tensor.datatype == "BYTES" or (len(tensor.data) < FROM and rooms is None):
                continue
            if rooms is None:
                if len(self._rooms) >= _MOST_MODELS:
                    self._rooms.clear()
                rooms = self._rooms[key] = {}
            rooms.setdefault(tensor.name, _Room()).saw(len(tensor.data))
        if rooms and all(room.bytes < FROM for room in rooms.values()):
            del self._rooms[key]

    def carries(self, call: InferCall, model: str, version: str) -> bool:
        """Whether this call is one for `infer`."""
        if not self.region.name:
            return False
        for tensor in call.inputs:
            if tensor.data is not None and len(tensor.data) >= FROM:
                return True
        return (model, version) in self._rooms

    async def infer(
        self,
        call: InferCall,
        send: Send,
        *,
        signature: ModelSignature | None,
        model: str,
        version: str,
        timeout: float,
        again: bool,
    ) -> InferAnswer:
        """One inference.

        Args:
            call: inputs raw.
            send: sends it, in either form.
            signature: of the model, where it is known.
            model: the model's name on the server.
            version: "" is the server's own choice.
            timeout: seconds for everything.
            again: it may run twice.

        Raises:
            DeadlineExceeded: `timeout` is over.
            TidegateError: those of `send`.
        """
        loop = asyncio.get_running_loop()
        over = loop.time() + timeout
        rooms = self._rooms.get((model, version)) if again else None
        carried = self._carry(call, signature, rooms)
        if carried is not None:
            self._counters.on_event("shared_memory", upstream=self._upstream)
            try:
                answer = await self._run(carried, send, timeout)
            except UpstreamAnswered as error:
                if PREFIX in error.message:
                    self.region.begin()  # it does not know the region, and has not begun with the call
                elif rooms is not None and (said := _TOO_SMALL.match(error.message)) and said[1] in rooms:
                    rooms[said[1]].saw(int(said[2]))
                else:
                    raise
            else:
                _take_back(answer, carried)
                self.saw(model, version, answer)
                return answer
        self._counters.on_event("copied", upstream=self._upstream)
        left = over - loop.time()
        if left <= 0:
            raise DeadlineExceeded(TOO_LATE, detail=self._server.label)
        answer = await send(call, left)
        self.saw(model, version, answer)
        return answer

    async def close(self, drain: float) -> None:
        """Let calls end within `drain` seconds, then give the region up."""
        if self._running and drain > 0:
            await asyncio.wait(set(self._running), timeout=drain)
        await self.region.close()

    # -- into the form and back ------------------------------------------------------------------------------

    def _carry(
        self, call: InferCall, signature: ModelSignature | None, rooms: dict[str, _Room] | None
    ) -> _Carried | None:
        if self._left >= _MOST_LEFT:
            return None
        carried = _Carried(
            InferCall(
                model=call.model,
                version=call.version,
                id=call.id,
                parameters=call.parameters,
                outputs=call.outputs,
                binary_data_output=call.binary_data_output,
            ),
            [],
            {},
        )
        carried.call.inputs = [self._put(tensor, carried) for tensor in call.inputs]
        if rooms:
            carried.call.outputs = self._ask(call, signature, rooms, carried)
        return carried if carried.inputs or carried.outputs else None

    def _put(self, tensor: InputTensor, carried: _Carried) -> InputTensor:
        """An input as it lies in the region, or as it was."""
        data = tensor.data
        if data is None or len(data) < FROM:
            return tensor
        offset = self._ring.offset_of(data)
        if offset is None or offset % (SIZES.get(tensor.datatype) or 1):
            # Elsewhere, or where its elements would straddle their own size: models that compute in place mind that.
            view = self._ring.lease(len(data))
            if view is None:
                return tensor
            view[:] = data
            data = view
            offset = self._ring.offset_of(data)
            assert offset is not None
        carried.inputs.append(data)
        return InputTensor(
            tensor.name,
            tensor.datatype,
            tensor.shape,
            tensor.parameters,
            shm=SharedMemory(self.region.name, len(data), offset),
        )

    def _ask(
        self, call: InferCall, signature: ModelSignature | None, rooms: dict[str, _Room], carried: _Carried
    ) -> list[OutputRequest]:
        """The outputs, with room for the large ones; all of the model's by name, where the client named none."""
        asked = call.outputs
        if not asked:
            if signature is None or not signature.outputs:
                return asked
            asked = [OutputRequest(name) for name in signature.outputs]
        found = []
        for output in asked:
            room = rooms.get(output.name)
            if room is None or room.bytes < FROM or output.classification or output.shm is not None:
                found.append(output)
                continue
            view = self._ring.lease(room.bytes + room.bytes // 4)
            offset = None if view is None else self._ring.offset_of(view)
            if view is None or offset is None:
                found.append(output)
                continue
            carried.outputs[output.name] = view
            shm = SharedMemory(self.region.name, len(view), offset)
            found.append(OutputRequest(output.name, output.parameters, shm=shm))
        return found if carried.outputs else call.outputs

    # -- until it has ended ----------------------------------------------------------------------------------

    async def _run(self, carried: _Carried, send: Send, timeout: float) -> InferAnswer:
        """The answer within `timeout` seconds; the call itself goes on until the server has answered."""
        task = asyncio.ensure_future(send(carried.call, timeout + LINGER_S))
        self._running.add(task)
        task.add_done_callback(partial(self._ended, carried))
        try:
            await asyncio.wait((task,), timeout=timeout)
        finally:
            if not task.done():
                self._left += 1
                task.add_done_callback(self._seen_off)
        if not task.done():
            raise DeadlineExceeded(TOO_LATE, detail=self._server.label)
        try:
            return task.result()
        finally:
            del task  # it holds the error, whose traceback holds this frame, and all would hold the memory

    def _seen_off(self, _: asyncio.Task[InferAnswer]) -> None:
        self._left -= 1

    def _ended(self, carried: _Carried, task: asyncio.Task[InferAnswer]) -> None:
        """Its answer is there, or there will be none."""
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        if isinstance(error, UpstreamAnswered) or (isinstance(error, Unreachable) and not error.sent):
            return
        self._held.append(carried)

    def _fresh(self) -> None:
        """The server has none of these calls any more."""
        self._held.clear()


def _take_back(answer: InferAnswer, carried: _Carried) -> None:
    """Give the answer its outputs' bytes."""
    for tensor in answer.outputs:
        view = carried.outputs.get(tensor.name)
        if view is not None and tensor.shm is not None:
            tensor.data, tensor.shm = view[: _nbytes(tensor, len(view))], None


def _nbytes(tensor: OutputTensor, room: int) -> int:
    """Bytes of an output that the server wrote; its shape and datatype say how many."""
    size = element_count(tensor.shape) * SIZES.get(tensor.datatype, 0)
    if not 0 <= size <= room or not SIZES.get(tensor.datatype):
        raise BadGateway("the model server's answer could not be read", detail=f"output '{tensor.name}': {size} bytes")
    return size
