"""One connection of a client on the nghttp2 engine: an asyncio protocol around `_fast_grpc_c.Session`.

Contract: turns the session's events into handlers that run, and what those answer into bytes. Clocks are here: for the
first words of a connection, for header blocks that do not end, for clients that read too slowly (two clocks of
`limits.send_timeout`: of the connection while its transport is full, and of calls whose windows hold them back), for
signs of life, for idle and for aged connections. Nothing here knows what is served.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from gateway import logs
from gateway.doors import grpc_service as service
from gateway.doors._fast_grpc_c import Session
from gateway.doors.fast_grpc_call import FastCall, seconds_of
from gateway.doors.grpc_call import Ended, Gone, Method
from gateway.doors.grpc_exchange import served
from gateway.doors.sending import LEAST_TAKEN, SendClock
from gateway.driven import Driven
from gateway.errors import TidegateError
from gateway.headers import request_id
from gateway.tls import PeerCertificate, certificate_of
from gateway.wire import compression
from gateway.wire._http2_c import (
    BAD_FRAME,
    CALL,
    CLOSED,
    HALF_CLOSED,
    MESSAGE,
    PINGED,
    PONGED,
    TOO_LARGE,
    WHOLE,
    ProtocolError,
)

if TYPE_CHECKING:
    from gateway.doors.fast_grpc import FastGrpcDoor

_log = logs.get("grpc")

_CODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})
_UNKNOWN: Final = Method(streaming=service.unknown)
# Frames without a call's work among them; a client that answers our settings and pings sends a handful.
_MOST_CHATTER: Final = 1000
_ENHANCE_YOUR_CALM: Final = 0xB
_CANCEL: Final = 0x8
# The pipeline itself heeds a deadline; the door cuts what does not, and clients that let theirs pass.
_LATE_S: Final = 0.25
_LAST_WORDS_S: Final = 0.1
"""For calls that are cut to say so."""
_LEAST_S: Final = 0.05
"""Between two looks at the clocks."""
_SPREAD: Final = 0.1
"""Of the age, either way, so that connections that were made together do not come of age together."""


class Connection(asyncio.Protocol):
    """One client."""

    peer = ""
    certificate: PeerCertificate | None = None
    session: Session
    _transport: asyncio.Transport

    def __init__(self, door: FastGrpcDoor) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self.writers: set[FastCall] = set()
        """Calls that wait for room."""
        self._paused = False
        self._flushing = False
        self._receiving = False
        """What is answered meanwhile goes out at its end."""
        self._closed = True
        self._timer: asyncio.TimerHandle | None = None
        self._send_clock: SendClock | None = None
        self._windows: asyncio.TimerHandle | None = None
        """The clock of calls that wait."""
        self._overdue = False
        """It ran out while the transport was full, and no call could send."""
        self._pings = self._pongs = self._farewell = 0
        self._leaving = False
        """It was told that no more calls are wanted."""
        self._strikes = 0
        self._last_ping = -service.PING_GAP_S

    # --- asyncio's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings, unless there are too many connections."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":  # RFC 9113, 3.2: what is spoken is agreed on
            self._transport.close()
            return
        address = transport.get_extra_info("peername")
        if address is None or not self._door.admit(self):  # it has gone already, or there is no room
            self._transport.abort()
            return
        if tls is not None and (encoded := tls.getpeercert(binary_form=True)) is not None:
            self.certificate = certificate_of(encoded)
        host, port, *_ = address
        # As gRPC writes it (https://github.com/grpc/grpc/blob/master/doc/naming.md).
        self.peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        self.session = Session(
            FastCall,
            most_metadata=service.METADATA,
            most_message=self._door.limits.body + service.MESSAGE_SLACK,
            streams=service.STREAMS,
        )
        self._closed = False
        now = self._made = self._active = self._heard = self._loop.time()
        age = self._door.age
        self._old = now + age * random.uniform(1 - _SPREAD, 1 + _SPREAD) if age else float("inf")  # noqa: S311
        self._heading: tuple[object, float] | None = None
        self.flush()
        self._timer = self._loop.call_later(self._door.limits.header_timeout, self._look)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._closed:
            return
        self._heard = self._loop.time()
        self._receiving = True
        try:
            self._handle(self.session.receive(data))
            if self.session.chatter > _MOST_CHATTER:
                self._end_calm(b"too many frames for nothing")
        except ProtocolError as error:
            _log.debug("a gRPC connection ends: %s", error)
            self.close()
            return
        finally:
            self._receiving = False
        self.flush()

    def eof_received(self) -> None:
        """The client's half of the connection has closed: gRPC's clients do that when they leave."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the calls any more."""
        del exc
        self._door.forget(self)
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._windows):
            if timer is not None:
                timer.cancel()
        self._stop_send_clock()
        for call in self.session.lost():
            self._gone(call, _CANCEL)

    def pause_writing(self) -> None:
        """The client does not take what is sent; the rest stays in the session."""
        self._paused = True
        self._watch_sending()

    def resume_writing(self) -> None:
        """It does again; a connection that only waits for its end goes on being watched."""
        self._paused = False
        if self._transport.is_closing():
            return
        self._stop_send_clock()
        self.flush()
        if self._overdue:
            self._judge()

    # --- out ---------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what there is to be sent, with what is said until the loop's next turn."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what there is to be sent."""
        if self._closed or self._paused or self._transport.is_closing():
            return
        session = self.session
        try:
            pieces = session.take()
        except ProtocolError as error:
            _log.debug("a gRPC connection ends: %s", error)
            self.close()
            return
        if isinstance(pieces, bytes):
            self._transport.write(pieces)
        elif pieces is not None:
            self._transport.writelines(pieces)
        if session.events:
            self._handle(session.late_events())
        if self.writers:
            for call in tuple(self.writers):
                call.sending()
        if session.pending and self._windows is None and not self._overdue:
            self._watch_windows()
        if session.over:
            self.close()

    def close(self) -> None:
        """Close, after what was sent has been taken: a close alone would wait for ever."""
        if not self._transport.is_closing():
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._watch_sending()

    def _watch_sending(self) -> None:
        self._stop_send_clock()
        self._send_clock = SendClock(self._transport, lambda: self._door.limits.send_timeout)

    def _stop_send_clock(self) -> None:
        if self._send_clock is not None:
            self._send_clock.stop()
            self._send_clock = None

    def _watch_windows(self) -> None:
        """From now on each call that waits must come to send so much."""
        for call in self.session.calls.values():
            call.goal = call.sent + min(LEAST_TAKEN, call.waiting)
        self._windows = self._loop.call_later(self._door.limits.send_timeout, self._judge)

    def _judge(self) -> None:
        """Cut the calls whose clients gave them too little room (RFC 9113, 5.2); others of the connection go on."""
        self._windows = None
        self._overdue = self._paused
        if self._paused:
            return  # nobody's data goes: looked at when it does again, for the connection has a clock of its own
        for call in list(self.session.calls.values()):
            if call.waiting and call.sent < call.goal:
                self.session.reset(call, _CANCEL)
        self.flush()

    # --- in ----------------------------------------------------------------------------------------------------

    def _handle(self, events: list[tuple[int, Any, Any]]) -> None:
        for kind, call, what in events:
            _HANDLERS[kind](self, call, what)

    def _open(self, call: FastCall, _: None) -> None:
        call.connection = self
        self._active = self._heard
        call.method_of = self._door.methods.get(call.path, _UNKNOWN)
        if call.oversized:
            call.headers.clear()
            self._refuse(call, "RESOURCE_EXHAUSTED", f"received metadata size exceeds limit ({service.METADATA} bytes)")
        elif not call.content_type.startswith("application/grpc"):
            self.session.refuse(call, "415")
        elif call.method != "POST":
            self.session.refuse(call, "405")
        elif call.encoding not in _CODINGS:
            self._refuse(call, "UNIMPLEMENTED", f"Compression algorithm '{call.encoding[:32]}' is not supported")
        else:
            left = seconds_of(call.timeout) if call.timeout else None
            if left is not None:
                call.deadline = self._heard + left
                call.timer = self._loop.call_later(left + _LATE_S, self._late, call)
            if call.method_of.streaming is not None:
                call.task = self._loop.create_task(self._stream(call))

    def _whole(self, call: FastCall, what: tuple[bytes, bool]) -> None:
        """Head, message and end at once."""
        self._open(call, None)
        self._message(call, what)
        if call.method_of.streaming is not None:
            call.ended()

    def _message(self, call: FastCall, what: tuple[bytes, bool]) -> None:
        message, compressed = what
        if compressed:
            try:
                message = self._plain(call, message)
            except TidegateError as error:
                self._refuse(call, error.code, error.message)
                return
        if call.method_of.streaming is not None:
            call.arrived(message)
        elif call.task is None and not call.finished:
            if call.method_of.direct:
                call.task = driven = Driven(self._loop, self._unary(call, message), _over)
                driven.start()
            else:
                call.task = self._loop.create_task(self._unary(call, message))

    def _plain(self, call: FastCall, message: bytes) -> bytes:
        if call.encoding in ("", "identity"):
            error = TidegateError("the message is compressed, and grpc-encoding does not say how")
            error.code = "INTERNAL"
            raise error
        try:
            return compression.decode(message, call.encoding, self.session.most_message)
        except TidegateError as error:
            if error.status == 400:
                error.code = "INTERNAL"
            raise

    def _half_closed(self, call: FastCall, _: None) -> None:
        if call.cut_short:
            self._refuse(call, "INTERNAL", "the message was cut short")
        elif call.method_of.streaming is not None:
            call.ended()
        elif call.task is None and not call.finished:
            self._refuse(call, "INTERNAL", "the call has no message")

    def _refuse(self, call: FastCall, code: str, message: str) -> None:
        """End a call by ourselves."""
        call.started_with(served(request_id(call.headers), ""))
        call.end(code, message)
        if call.task is not None:
            call.task.cancel()

    def _too_large(self, call: FastCall, size: int) -> None:
        most = self.session.most_message
        self._refuse(call, "RESOURCE_EXHAUSTED", f"Received message larger than max ({size} vs. {most})")

    def _bad_frame(self, call: FastCall, _: int) -> None:
        self._refuse(call, "INTERNAL", "the message has a flag that there is not")

    def _gone(self, call: FastCall, _: int) -> None:
        """The stream has closed: by its end, or because nobody waits for it any more."""
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        if call.task is not None:
            call.task.cancel()
        if call in self.writers:
            call.sending()

    def _late(self, call: FastCall) -> None:
        call.timer = None
        self._refuse(call, "DEADLINE_EXCEEDED", "Deadline Exceeded")

    def taken(self, call: FastCall, size: int) -> None:
        """A stream's handler has taken a message."""
        if self.session.taken(call, size):
            self.flush_soon()

    # --- handlers ----------------------------------------------------------------------------------------------

    async def _unary(self, call: FastCall, message: bytes) -> None:
        unary = call.method_of.unary
        assert unary is not None
        try:
            call.answer(await unary(call, message))
        except (Ended, Gone):
            pass
        except asyncio.CancelledError:
            self._cut(call)
            raise
        except Exception:  # noqa: BLE001  the last line of defence
            self._defect(call)
        call.task = None  # it has nothing left to be cancelled for
        if not self._receiving:
            self.flush()

    async def _stream(self, call: FastCall) -> None:
        streaming = call.method_of.streaming
        assert streaming is not None
        try:
            await streaming(call)
            call.end("OK")
        except (Ended, Gone):
            pass
        except asyncio.CancelledError:
            self._cut(call)
            raise
        except Exception:  # noqa: BLE001  the last line of defence
            self._defect(call)
        self.flush()

    def _cut(self, call: FastCall) -> None:
        """A handler was cancelled while its client waits: the door is told to hurry."""
        call.started_with(served(request_id(call.headers), ""))
        call.end("UNAVAILABLE", "the gateway is stopping")

    def _defect(self, call: FastCall) -> None:
        rid = request_id(call.headers)
        _log.exception("a defect", extra={"fields": {"request_id": rid}})
        call.started_with(served(rid, ""))
        call.end("INTERNAL", "internal error")

    # --- clocks ------------------------------------------------------------------------------------------------

    def _pinged(self, *_: None) -> None:
        """Of the client: a few are for life, and clients measure with them whenever they get data; others are a flood.

        Strikes as grpcio counts them (https://github.com/grpc/proposal/blob/master/A8-client-side-keepalive.md).
        """
        if self.session.spoke:
            self.session.spoke = False
            self._strikes, self._last_ping = 0, -service.PING_GAP_S
        if self._heard - self._last_ping < service.PING_GAP_S:
            self._strikes += 1
            if self._strikes > service.PING_STRIKES:
                self._end_calm(b"too_many_pings")
        self._last_ping = self._heard

    def _ponged(self, *_: None) -> None:
        """Of ours; the one that followed the farewell says that whatever was on its way then has come."""
        self._pongs += 1
        if self._leaving and self._pongs == self._farewell:
            self.session.goaway()

    def _end_calm(self, why: bytes) -> None:
        self.session.goaway(_ENHANCE_YOUR_CALM, why)
        self.flush()
        self.close()

    def farewell(self) -> None:
        """Ask the client to go; calls that are on their way are served, and then the connection closes."""
        if self._closed or self._leaving:
            return
        self._leaving = True
        self.session.farewell()
        self.flush()  # pings overtake other frames in nghttp2; the client is to have read this one before it answers
        self._ask()
        self._farewell = self._pings
        self.flush()

    def _ask(self) -> None:
        self.session.ping()
        self._pings += 1
        self._asked = self._loop.time()

    @property
    def streams_only(self) -> bool:
        """Whether every open call is a stream, which may last for as long as its client likes."""
        return self._leaving and all(
            c.method_of is not None and c.method_of.streaming is not None for c in self.session.calls.values()
        )

    def cut(self) -> None:
        """End the calls now, and the connection."""
        if self._closed:
            return
        for call in list(self.session.calls.values()):
            if call.task is not None:
                call.task.cancel()
        self.session.goaway()
        self.flush()
        self._loop.call_later(_LAST_WORDS_S, self.close)

    def _look(self) -> None:
        """What is due; then the next look."""
        now = self._loop.time()
        if self._hopeless(now):
            self._transport.abort()
            return
        if self._pings == self._pongs and now - self._heard >= service.PING_AFTER_S:
            self._ask()
        if self.session.calls:
            self._active = now
        if self._leaving and self._pongs < self._farewell and now - self._asked >= service.PING_WITHIN_S:
            self.session.goaway()  # it talks, and does not answer: what was on its way has come by now
        if now >= self._old or now - self._active >= service.IDLE_S:
            self.farewell()
        self.flush()
        if not self._closed:
            self._timer = self._loop.call_later(self._until_next(now), self._look)

    def _hopeless(self, now: float) -> bool:
        """Whether the client has not said in time what it had to say."""
        patience = self._door.limits.header_timeout
        if not self.session.greeted and now - self._made >= patience:
            return True
        heading = self.session.heading
        if heading is None:
            self._heading = None
        elif self._heading is None or self._heading[0] is not heading:
            self._heading = (heading, now)
        elif now - self._heading[1] >= patience:
            return True
        return self._pings > self._pongs and now - max(self._asked, self._heard) >= service.PING_WITHIN_S

    def _until_next(self, now: float) -> float:
        if self._heading is not None or not self.session.greeted:
            return self._door.limits.header_timeout
        if self._pings > self._pongs:
            return service.PING_WITHIN_S
        least = service.PING_AFTER_S - (now - self._heard)
        return max(min(least, self._old - now) if not self._leaving else least, _LEAST_S)


def _over(_: object, __: object) -> None:
    """A handler without a task has ended; it has said all itself."""


_HANDLERS: Final[dict[int, Callable[[Connection, Any, Any], None]]] = {
    CALL: Connection._open,  # noqa: SLF001 - the table of this file
    MESSAGE: Connection._message,  # noqa: SLF001
    HALF_CLOSED: Connection._half_closed,  # noqa: SLF001
    CLOSED: Connection._gone,  # noqa: SLF001
    WHOLE: Connection._whole,  # noqa: SLF001
    TOO_LARGE: Connection._too_large,  # noqa: SLF001
    BAD_FRAME: Connection._bad_frame,  # noqa: SLF001
    PINGED: Connection._pinged,  # noqa: SLF001
    PONGED: Connection._ponged,  # noqa: SLF001
}
"""By the kind of an event."""
