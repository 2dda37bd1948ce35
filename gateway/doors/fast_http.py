"""The fast HTTP door: inference requests that have come whole are served on the connection itself, without ASGI.

Contract: `POST /v2/models/NAME[/versions/V]/infer` whose head and body came in one segment, on a connection that has
nothing else to do, goes to the pipeline from here, and its answer is one write. Every other request goes the way of
`http_connection`, already checked: to ASGI. Both ways answer alike, byte for byte but for ids
(`tests/e2e/test_fast_door.py`).

What comes while a request is being served is held back, so that requests of one connection are served one after the
other here as there. The client's going away cancels the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway import logs
from gateway.clients import drop_untrusted
from gateway.doors.http import HttpExchange
from gateway.doors.http_connection import LARGE
from gateway.doors.http_heads import LONGEST_HEAD, RequestHead, head_of, known_heads, read, remember
from gateway.doors.http_large import LargeBodyProtocol
from gateway.doors.reply import Reply, error_reply
from gateway.driven import Driven
from gateway.errors import Cancelled, Defect, TidegateError
from gateway.exchange import Exchange
from gateway.headers import Headers, from_asgi, new_request_id, wants_events
from gateway.operations import parse_path
from gateway.wire import by_heart

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.snapshot import Snapshot
    from gateway.tls import PeerCertificate
    from gateway.wire.types import Buffer, InferAnswer, InferCall

_log = logs.get("http")

_END: Final = b"\r\n\r\n"
_INFER: Final = b"/infer"


class FastExchange(HttpExchange):
    """A request of which everything that its head says is known."""

    __slots__ = ("head",)

    def __init__(
        self,
        snapshot: Snapshot,
        head: RequestHead,
        headers: Headers,
        body: Buffer,
        peer: str,
        certificate: PeerCertificate | None,
    ) -> None:
        """`headers`: those of the head, or what is left of them."""
        address = head.address
        Exchange.__init__(
            self,
            snapshot,
            headers,
            operation="infer",
            model=address.model,
            version=address.version,
            nbytes=len(body),
            request_id=head.request_id or new_request_id(),
            peer=peer,
            certificate=certificate,
        )
        self.body = body
        self.head = head

    def decode(self) -> InferCall:
        """As above."""
        head = self.head
        if not head.plain:
            return super().decode()
        call = self.decode_body(self.body, head.json_length)
        # One that is known by heart has all of its tensors in the body.
        if call.known is not None or not any(tensor.shm is not None for tensor in call.inputs):
            self.inputs = (self.body,)
        return call

    def encode(self, answer: InferAnswer) -> Reply:
        """As above; what was written before is not written again."""
        call = self.call
        assert call is not None
        known = by_heart.written(answer, call) if self.head.plain else None
        if known is None:
            return super().encode(answer)
        lines, head = known
        self.outputs = (head, answer.tail)
        self.nbytes_out = len(head) + len(answer.tail)
        return Reply(200, [], head, [answer.tail] if answer.tail else [], lines)


class FastHttpProtocol(LargeBodyProtocol):
    """One client connection."""

    core: ClassVar[Core]
    """The worker that it belongs to."""
    _driven: Driven | None = None
    """Runs the request that is served here."""
    _exchange: FastExchange | None = None
    """That request."""
    _held: list[bytes] | None = None
    """What came meanwhile."""
    _behind_head = -1
    """Bytes behind the first head of the segment that is being parsed, until that was judged; else -1."""
    _head: RequestHead | None = None
    """Of a request of ours, between its head and the end of its segment."""
    _ready = False
    """Nothing is under way and the next byte begins a request; a cheap stand-in for `_between_requests`."""
    _last_answer = 0.0
    """Loop time; 0: none was given here yet."""
    _stopping = False
    """The server shuts down: the answer in progress is the last one."""

    def connection_made(self, transport: Any) -> None:
        """Remember who the client is."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        self._ready = self._between_requests()

    def data_received(self, data: bytes) -> None:
        """Serve what is a whole request of ours; everything else is the parser's."""
        if self._ready and not self.relieved:
            end = data.find(_END)
            if end > 0:
                head = known_heads.get(data[:end]) if end <= LONGEST_HEAD else None
                size = len(data) - end - 4
                if head is not None and size == head.length <= self.limits.body:
                    self._serve(head, _behind(data, end + 4))
                    return
                if head is None and data.startswith(b"POST ") and size <= self.limits.body:
                    head = read(data[:end], size)
                    if head is not None:
                        self._serve(head, _behind(data, end + 4))
                    else:
                        self._parse(data, end, size)
                    return
        elif self._driven is not None or self._held is not None:
            self._hold(data)
            return
        self._ready = False
        super().data_received(data)
        self._ready = self._between_requests()

    def _between_requests(self) -> bool:
        """Whether nothing is under way on this connection and the next byte begins a request."""
        cycle = self.cycle
        return (
            (cycle is None or (cycle.response_complete and not cycle.more_body))
            and self._header_timer is None
            and not self._in_trailers
            and not self.pipeline
            and not self._refusal
            and not self.relieved
            and not self._stopping
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _parse(self, data: bytes, end: int, size: int) -> None:
        """A head that is not known yet, with `size` bytes behind it."""
        self._behind_head = size
        try:
            super().data_received(data)
        finally:
            self._behind_head = -1
        self._ready = self._between_requests()
        head, self._head = self._head, None
        if head is not None and not self._refusal and not self._in_trailers:
            remember(data[:end], head)
            self._serve(head, _behind(data, end + 4))

    def _begin_cycle(self) -> None:
        """The head was found good: keep it when the request is ours, else let uvicorn begin."""
        size, self._behind_head = self._behind_head, -1  # of the first head of a segment alone
        self._head = self._ours(size) if size >= 0 else None
        if self._head is None:
            super()._begin_cycle()

    def _ours(self, size: int) -> RequestHead | None:
        """The head when its request can be served here; `size` bytes stand behind it."""
        parser = self.parser
        url = self.url
        # The query is nobody's business at `infer`, and hardly anyone sends one.
        if (
            not url.startswith(b"/v2/models/")
            or not url.endswith(_INFER)
            or b"?" in url
            or b"#" in url
            or not url.isascii()
        ):
            return None
        if (
            self._chunked
            or self.expect_100_continue
            or size > self.limits.body
            or parser.get_http_version() != "1.1"
            or parser.get_method() != b"POST"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return None
        try:
            address = parse_path("POST", url)
        except TidegateError:
            return None
        if address.operation.name != "infer":
            return None
        head = head_of(address, from_asgi(self.headers, self._spelling), size)
        # The parser has checked that it is one number.
        if int(head.headers.get("content-length", "0")) != size or wants_events(head.headers):
            return None
        return head

    def on_body(self, body: bytes) -> None:
        """The body of a request of ours is taken from the segment."""
        if self._head is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request of ours: `_parse` goes on with it."""
        if self._head is None:
            super().on_message_complete()
        else:
            self._in_trailers = False

    # -- a request -------------------------------------------------------------------------------------------

    def _serve(self, head: RequestHead, body: Buffer) -> None:
        self._ready = False
        core = self.core
        snapshot = core.snapshot
        headers = head.headers
        if head.forwarding and snapshot.settings.identity is not None:
            headers = headers.copied()
            drop_untrusted(headers, self._peer, snapshot.settings.listen.trusted_proxies)
        self._exchange = x = FastExchange(snapshot, head, headers, body, self._peer, self.certificate)
        core.observer.started(x)
        self._driven = driven = Driven(self.loop, core.pipeline.infer(x), self._ended)
        driven.start()

    def _ended(self, reply: Reply, error: BaseException | None) -> None:
        """The pipeline has an answer, or none."""
        x = self._exchange
        assert x is not None
        self._driven = self._exchange = None
        if error is None:
            self._answer(reply, x)
        elif isinstance(error, TidegateError):
            if not isinstance(error, Cancelled):
                self._answer(error_reply(error), x)
        elif isinstance(error, asyncio.CancelledError):
            self.transport.close()  # without its answer the connection is of no use; mostly the client has gone
        else:
            _log.error("a defect", exc_info=error, extra={"fields": {"request_id": x.request_id}})
            self._answer(error_reply(Defect(repr(error))), x)

    def _answer(self, reply: Reply, x: FastExchange) -> None:
        """Write it, and go on with what comes next."""
        transport = self.transport
        if transport.is_closing():
            return
        last = self.relieved or self._stopping
        body, more, lines = reply.body, reply.more, reply.lines
        if lines:
            size = x.nbytes_out
        else:
            size = len(body) + sum(map(len, more)) if more else len(body)
            lines = b"%bcontent-length: %d\r\n" % (
                b"".join([b"%b: %b\r\n" % header for header in reply.headers]),
                size,
            )
        if x.notices:
            lines += b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in x.notices])
        # Joined once: each format and each piece of its own costs as much as all of the joining.
        pieces = [
            STATUS_LINE[reply.status],
            lines,
            b"x-request-id: ",
            x.request_id.encode(),
            b"\r\n" if x.variant is None else _variant_line(x.variant.name),
            _CLOSE if last else b"\r\n",
            body,
            *more,
        ]
        if size > LARGE:
            transport.writelines((b"".join(pieces[:6]), body, *more))
        else:
            transport.write(b"".join(pieces))
        self.server_state.total_requests += 1
        if last:
            transport.close()
            return
        self._last_answer = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._held is not None:
            self.loop.call_soon(self._release)
        else:
            self._ready = not self.flow.write_paused

    # -- what comes too early, what comes too late -----------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        """Keep a pipelined request until the one before it was answered, and read no further."""
        if self._held is None:
            self._held = []
            self.flow.pause_reading()
        self._held.append(data)

    def _release(self) -> None:
        """Read on where `_hold` stopped."""
        held, self._held = self._held, None
        if held is None or self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._ready = self._between_requests()
        self.data_received(held[0] if len(held) == 1 else b"".join(held))

    def timeout_keep_alive_handler(self) -> None:
        """As for every connection; answers that were given here have not touched the clock."""
        idle = self.loop.time() - self._last_answer
        if self._driven is None and idle >= self.timeout_keep_alive - _CLOCK:
            super().timeout_keep_alive_handler()
            return
        again = self.timeout_keep_alive - (0.0 if self._driven is not None else idle)
        self.timeout_keep_alive_task = self.loop.call_later(again, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """The request in progress gets its answer, the last one."""
        self._ready = False
        if self._driven is None:
            super().shutdown()
        else:
            self._stopping = True

    def on_response_complete(self) -> None:
        """An answer of ASGI's was written."""
        super().on_response_complete()
        self._ready = self._between_requests()

    def pause_writing(self) -> None:
        """While the client does not read, requests wait for that in ASGI's way."""
        super().pause_writing()
        self._ready = False

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._ready = self._driven is None and self._held is None and self._between_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the answer any more."""
        self._held = None
        super().connection_lost(exc)
        if self._driven is not None:
            self._driven.cancel()


_CLOSE: Final = b"connection: close\r\n\r\n"


@lru_cache(maxsize=1024)
def _variant_line(name: str) -> bytes:
    """The line end before it, the header that names the variant, and its line end."""
    return b"\r\nx-tidegate-variant: %b\r\n" % name.encode("latin-1")


_CLOCK: Final = 0.005
"""Seconds by which a timer may fire early: the loop's clock has milliseconds."""


def _behind(data: bytes, at: int) -> Buffer:
    """What stands behind the head; large bodies are not copied."""
    return data[at:] if len(data) <= LARGE else memoryview(data)[at:]


def protocol_of(core: Core) -> type[FastHttpProtocol]:
    """The protocol of a worker's inference port."""

    class Protocol(FastHttpProtocol):
        """Holds this worker, and its server's limits."""

    Protocol.core = core
    return Protocol


__all__: Sequence[str] = ["FastHttpProtocol", "protocol_of"]
