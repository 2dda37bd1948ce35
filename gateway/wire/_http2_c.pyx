# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What both sides of gRPC have of HTTP/2 (RFC 9113; gRPC over HTTP2,
github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) on nghttp2.

Sans-IO: `receive` takes bytes of one connection and gives events, the other methods say what to send, and `take` gives
the bytes. Nothing is called back; no clocks, no sockets.

Design:
a) C callbacks of nghttp2: they put bytes in place, and events into a list. None of them runs Python code of others;
b) `BaseRpc`, one call: the message that is being put together, the messages that wait to be sent;
c) `BaseSession`, one connection. Calls belong to it until their stream closes.
The server (`doors/_fast_grpc_c.pyx`) and the client (`upstream/_grpc_client_c.pyx`) say what a header block means, how
a call begins and how it ends.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from gateway.wire._nghttp2_c cimport (
    ACK, DATA, END_STREAM, ERR_CALLBACK, ERR_DEFERRED, FLAG_EOF, FLAG_NO_COPY, HEADERS, PING, SETTINGS,
    Frame, Provider, Setting, lib, make_options, open_library,
)

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1
    PyObject *raw_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    object PyMemoryView_FromObject(object data)

cdef void *_callbacks = NULL
cdef void *_options = NULL

cdef enum:
    MOST_SETTINGS = 6

# What a DATA frame may hold at most, where the other side takes more than the least that it must (RFC 9113, 4.2).
cdef int MOST_FRAME = 1 << 20

# Parts of a message from which a copy into one buffer costs more than a second piece to send.
cdef int LARGE = 16 * 1024

STREAM_WINDOW = 512 * 1024
"""Bytes that a call may send before some of them were taken."""
CONNECTION_WINDOW = 16 * 1024 * 1024
"""Of a connection; what has come is always given back here, so that a call which is not read stops no other."""
cdef Py_ssize_t _STREAM_WINDOW = STREAM_WINDOW

# Kinds of events.
CALL, MESSAGE, HALF_CLOSED, CLOSED, TOO_LARGE, BAD_FRAME, PINGED, PONGED, WHOLE = range(9)
cdef int _CALL = 0, _MESSAGE = 1, _HALF_CLOSED = 2, _CLOSED = 3, _TOO_LARGE = 4, _BAD_FRAME = 5, _PINGED = 6
cdef int _PONGED = 7


class ProtocolError(Exception):
    """The connection cannot go on."""


def load(str name="libnghttp2.so.14"):
    """Open the library; once is enough.

    Raises:
        OSError: it is not there, is too old, or lets one header block go on for ever (CVE-2024-28182: fixed in 1.61
            and, under the same name, in what distributions ship).
    """
    global _callbacks, _options
    if _callbacks != NULL:
        return
    open_library(name)
    cdef void *callbacks = NULL
    if lib.callbacks_new(&callbacks):
        raise MemoryError
    _options = make_options()
    lib.on_begin_headers(callbacks, <void *>_on_begin_headers)
    lib.on_header(callbacks, <void *>_on_header)
    lib.on_frame_recv(callbacks, <void *>_on_frame_recv)
    lib.on_frame_send(callbacks, <void *>_on_frame_send)
    lib.on_data_chunk(callbacks, <void *>_on_data_chunk)
    lib.on_stream_close(callbacks, <void *>_on_stream_close)
    lib.send_data(callbacks, <void *>_on_send_data)
    lib.read_length(callbacks, <void *>_on_read_length)
    _callbacks = callbacks


# --- a) what nghttp2 calls ---------------------------------------------------------------------------------


cdef int _on_begin_headers(void *h2, const Frame *frame, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    session.chatter = 0
    try:
        session.heading = session.began(frame.stream)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_header(void *h2, const Frame *frame, const uint8_t *name, size_t name_size, const uint8_t *value,
                    size_t value_size, uint8_t flags, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    try:
        if session.heading is not None:
            session.heading.field(<const char *>name, name_size, <const char *>value, value_size,
                                  session.most_metadata)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_frame_recv(void *h2, const Frame *frame, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    try:
        session.received(frame)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_frame_send(void *h2, const Frame *frame, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    if frame.kind == HEADERS or frame.kind == DATA:
        session.spoke = True
    if frame.kind == HEADERS:
        return session.went(frame)
    return 0


cdef int _on_data_chunk(void *h2, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                        void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    cdef void *found = lib.get_user(h2, stream)
    lib.consume_connection(h2, size)
    try:
        session.chatter = 0
        if found != NULL:
            (<BaseRpc>found).feed(session, <const char *>data, size)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_stream_close(void *h2, int32_t stream, uint32_t code, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    try:
        call = session.calls.pop(stream, None)
        if call is not None:
            if session.heading is call:
                session.heading = None
            (<BaseRpc>call).gone = True
            session.pending -= (<BaseRpc>call).waiting
            (<BaseRpc>call).waiting = 0
            if not (<BaseRpc>call).settled():
                session.events.append((_CLOSED, call, code))
    except BaseException as error:
        return session.broke(error)
    return 0


cdef ssize_t _on_read_length(void *h2, uint8_t kind, int32_t stream, int32_t session_window, int32_t stream_window,
                             uint32_t most, void *user) noexcept:
    cdef ssize_t size = min(session_window, stream_window)
    return min(size, <ssize_t>min(most, <uint32_t>MOST_FRAME))


cdef ssize_t _read_data(void *h2, int32_t stream, uint8_t *buf, size_t length, uint32_t *flags, void **source,
                        void *user) noexcept:
    cdef BaseRpc call = <BaseRpc>source[0]
    cdef Py_ssize_t size = min(call.waiting, <Py_ssize_t>length)
    if size == 0 and not call.finished:
        call.deferred = True
        return ERR_DEFERRED
    if size:
        flags[0] |= FLAG_NO_COPY
    if size == call.waiting and call.finished:
        flags[0] |= FLAG_EOF
        try:
            flags[0] |= call.ending(h2)
        except BaseException as error:
            return (<BaseSession>user).broke(error)
    return size


cdef int _on_send_data(void *h2, Frame *frame, const uint8_t *head, size_t length, void **source, void *user) noexcept:
    cdef BaseSession session = <BaseSession>user
    try:
        session.put(<const char *>head, 9)
        (<BaseRpc>source[0]).put_data(session, length)
        session.chatter = 0
    except BaseException as error:
        return session.broke(error)
    return 0


# --- b) one call -------------------------------------------------------------------------------------------


cdef class BaseRpc:
    """One call."""

    def __cinit__(self):
        self.content_type = self.encoding = ""
        self.body = NULL
        self.out = []

    def __dealloc__(self):
        Py_XDECREF(self.body)

    cdef int field(self, const char *name, size_t name_size, const char *value, size_t value_size,
                   size_t most) except -1:
        """One field of a header block of the other side."""
        raise NotImplementedError

    cdef bint settled(self) noexcept:
        """Whether nobody has to be told that the stream has closed."""
        return False

    cdef int ending(self, void *h2) except -1:
        """The last message goes out now; flags for nghttp2 beside that it was the last."""
        return 0

    cdef int feed(self, BaseSession session, const char *data, size_t size) except -1:
        """Bytes of DATA frames: length-prefixed messages (gRPC over HTTP2, "Length-Prefixed-Message")."""
        cdef size_t take
        cdef Py_ssize_t room
        if self.deaf:
            return 0  # the stream's window is not given back: what may still come is bounded by it
        if self.held < _STREAM_WINDOW:
            lib.consume_stream(session.h2, self.stream, size)
        else:
            self.owed += size
        while size:
            if self.body == NULL:
                take = min(size, <size_t>(5 - self.prefix_size))
                memcpy(&self.prefix[self.prefix_size], data, take)
                self.prefix_size += take
                data += take
                size -= take
                if self.prefix_size < 5:
                    return 0
                self.size = (<Py_ssize_t>self.prefix[1] << 24 | <Py_ssize_t>self.prefix[2] << 16
                             | <Py_ssize_t>self.prefix[3] << 8 | self.prefix[4])
                if self.prefix[0] > 1 or self.size > session.most_message:
                    self.deaf = True
                    session.events.append((_BAD_FRAME if self.prefix[0] > 1 else _TOO_LARGE, self, self.size))
                    return 0
                self.have = 0
                # What is declared need not come: room grows with what does.
                self.body = raw_bytes(NULL, min(self.size, 4 * LARGE))
            room = PyBytes_GET_SIZE(<object>self.body)
            if self.have + <Py_ssize_t>size > room and room < self.size:
                room = min(self.size, max(2 * room, self.have + <Py_ssize_t>size))
                _PyBytes_Resize(&self.body, room)
            take = min(size, <size_t>(room - self.have))
            memcpy(PyBytes_AS_STRING(<object>self.body) + self.have, data, take)
            self.have += take
            data += take
            size -= take
            if self.have == self.size:
                message = <object>self.body
                Py_XDECREF(self.body)
                self.body = NULL
                self.prefix_size = 0
                self.held += self.size
                session.events.append((_MESSAGE, self, (message, self.prefix[0])))
        return 0

    cdef int put_data(self, BaseSession session, size_t length) except -1:
        """That many bytes of what waits."""
        cdef Py_ssize_t size, take
        self.waiting -= length
        session.pending -= length
        self.sent += length
        while length:
            part = <bytes>self.out[0]
            size = PyBytes_GET_SIZE(part) - self.offset
            take = min(size, <Py_ssize_t>length)
            if take >= LARGE:
                session.put_piece(PyMemoryView_FromObject(part)[self.offset:self.offset + take])
            else:
                session.put(PyBytes_AS_STRING(part) + self.offset, take)
            length -= take
            if take == size:
                del self.out[0]
                self.offset = 0
            else:
                self.offset += take
        return 0


cdef void provide(Provider *provider, BaseRpc call) noexcept:
    """What the call has to send."""
    provider.source = <void *>call
    provider.read = _read_data


# --- c) one connection -------------------------------------------------------------------------------------


cdef class BaseSession:
    """One connection.

    `most_metadata`: bytes of a header list (RFC 9113, 6.5.2); `most_message`: bytes of a message.
    """

    def __cinit__(self):
        self.calls = {}
        self.events = []

    def __dealloc__(self):
        if self.h2 != NULL:
            lib.session_del(self.h2)
        free(self.buffer)

    cdef int start(self, bint client, object settings) except -1:
        """Say `(setting, value)` pairs, at most `MOST_SETTINGS`, and how much the whole connection may send."""
        cdef Setting entries[MOST_SETTINGS]
        cdef size_t count = 0
        if _callbacks == NULL or self.h2 != NULL:
            raise RuntimeError("load() first, and make a session once")
        if client:
            failed = lib.client_new(&self.h2, _callbacks, <void *>self, _options)
        else:
            failed = lib.server_new(&self.h2, _callbacks, <void *>self, _options)
        if failed:
            raise MemoryError
        for key, value in settings:
            entries[count].key, entries[count].value = key, value
            count += 1
        if lib.submit_settings(self.h2, 0, entries, count) or lib.set_window(self.h2, 0, 0, CONNECTION_WINDOW):
            raise MemoryError
        return 0

    cdef BaseRpc began(self, int32_t stream):
        """The call of a header block that begins; None: of none."""
        raise NotImplementedError

    cdef int went(self, const Frame *frame) noexcept:
        """A header block was sent."""
        return 0

    cdef int broke(self, BaseException error) noexcept:
        self.error = error
        return ERR_CALLBACK

    cdef int received(self, const Frame *frame) except -1:
        cdef void *found
        cdef BaseRpc call
        if frame.kind == HEADERS:
            call, self.heading = self.heading, None
            if call is not None and not call.in_trailers:
                self.events.append((_CALL, call, None))
        elif frame.kind == SETTINGS and frame.flags & ACK:
            self.greeted = True
            return 0
        elif frame.kind == PING:
            self.chatter += 1
            self.events.append((_PONGED if frame.flags & ACK else _PINGED, None, None))
            return 0
        elif frame.kind != DATA or not frame.length:
            self.chatter += 1
        if frame.flags & END_STREAM and (frame.kind == HEADERS or frame.kind == DATA):
            found = lib.get_user(self.h2, frame.stream)
            if found != NULL:
                call = <BaseRpc>found
                call.half_closed = True
                if call.body != NULL or call.prefix_size:
                    call.cut_short = not call.deaf
                self.events.append((_HALF_CLOSED, call, None))
        return 0

    def receive(self, bytes data):
        """Bytes of the other side.

        Returns:
            `[(kind, call, what), ...]`: CALL (its header block has ended), MESSAGE (`what`: bytes, whether they are
            compressed), HALF_CLOSED, CLOSED (`what`: the error code of RFC 9113, 7), TOO_LARGE and BAD_FRAME (of a
            message; `what`: its size), PINGED, PONGED (no call). A server has WHOLE (`what` as MESSAGE) for CALL,
            MESSAGE and HALF_CLOSED that came at once, and no CLOSED for calls that had their end and for which nothing
            runs.

        Raises:
            ProtocolError: this is not HTTP/2, or a flood of it.
        """
        cdef ssize_t taken = lib.mem_recv(self.h2, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        events, self.events = self.events, []
        if taken < 0:
            self._end(taken)
        return events

    def _end(self, code):
        error, self.error = self.error, None
        if error is not None:
            raise error
        raise ProtocolError(f"nghttp2: {code}")

    def take(self):
        """What is to be sent now: bytes, a list of bytes and memoryviews, or None. Raises ProtocolError."""
        cdef const uint8_t *data = NULL
        cdef ssize_t size
        cdef bytes last = None
        while True:
            size = lib.mem_send(self.h2, &data)
            if size < 0:
                self._end(size)
            if size == 0:
                break
            self.put(<const char *>data, size)
        self.over = not lib.want_read(self.h2) and not lib.want_write(self.h2)
        if self.used:
            last = PyBytes_FromStringAndSize(self.buffer, self.used)
            self.used = 0
            if self.room > 4 * LARGE:
                free(self.buffer)
                self.buffer, self.room = NULL, 0
        if self.pieces is None:
            return last
        pieces, self.pieces = self.pieces, None
        if last is not None:
            pieces.append(last)
        return pieces

    def late_events(self):
        """`events`, once."""
        events, self.events = self.events, []
        return events

    def lost(self):
        """The connection has ended, and with it its calls, which are returned."""
        cdef BaseRpc call
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.gone = True
        return calls

    cdef int put(self, const char *data, Py_ssize_t size) except -1:
        cdef char *larger
        if self.used + size > self.room:
            larger = <char *>realloc(self.buffer, max(2 * self.room, self.used + size, 1024))
            if larger == NULL:
                raise MemoryError
            self.buffer, self.room = larger, max(2 * self.room, self.used + size, 1024)
        memcpy(self.buffer + self.used, data, size)
        self.used += size
        return 0

    cdef int put_piece(self, object piece) except -1:
        if self.pieces is None:
            self.pieces = []
        if self.used:
            self.pieces.append(PyBytes_FromStringAndSize(self.buffer, self.used))
            self.used = 0
        self.pieces.append(piece)
        return 0

    def write(self, BaseRpc call, bytes message):
        """Send a message, uncompressed."""
        cdef Provider provider
        if call.gone or call.finished:
            return
        self.enqueue(call, message)
        if call.providing:
            self.woken(call)
        else:
            call.providing = True
            provide(&provider, call)
            lib.submit_data(self.h2, 0, call.stream, &provider)

    cdef int woken(self, BaseRpc call) except -1:
        """There is more to say of a call."""
        if call.deferred:
            call.deferred = False
            lib.resume(self.h2, call.stream)
        return 0

    def reset(self, BaseRpc call, uint32_t code):
        """Cut a call: RST_STREAM with an error code of RFC 9113, 7."""
        if not call.gone:
            call.finished = call.deaf = True
            lib.submit_rst(self.h2, 0, call.stream, code)

    def taken(self, BaseRpc call, Py_ssize_t size):
        """The reader of a call has taken a message of this size; whether there is now something to send."""
        call.held -= size
        if call.owed and call.held < _STREAM_WINDOW and not call.gone:
            lib.consume_stream(self.h2, call.stream, call.owed)
            call.owed = 0
            return True
        return False

    def ping(self):
        """Ask for a sign of life."""
        lib.submit_ping(self.h2, 0, NULL)

    def goaway(self, uint32_t code=0, bytes why=b""):
        """Take no more calls; those that there are go on."""
        lib.submit_goaway(self.h2, 0, lib.last_stream(self.h2), code, <const uint8_t *>PyBytes_AS_STRING(why),
                          PyBytes_GET_SIZE(why))

    cdef int enqueue(self, BaseRpc call, bytes message) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef char prefix[5]
        if size > 0xFFFFFFFF:
            raise OverflowError("a message beyond 4 GiB")
        prefix[0] = 0
        prefix[1] = <char>(size >> 24)
        prefix[2] = <char>(size >> 16)
        prefix[3] = <char>(size >> 8)
        prefix[4] = <char>size
        call.out.append(PyBytes_FromStringAndSize(prefix, 5))
        if size:
            call.out.append(message)
        call.waiting += size + 5
        self.pending += size + 5
        return 0
