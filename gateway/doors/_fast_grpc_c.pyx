# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The server's side of gRPC on HTTP/2: see `wire/_http2_c.pyx`."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcmp, memcpy

from gateway.wire._http2_c cimport BaseRpc, BaseSession, provide
from gateway.wire._nghttp2_c cimport (
    DATA,
    END_STREAM,
    FLAG_NO_END_STREAM,
    HEADERS,
    SETTINGS_HEADER_LIST,
    SETTINGS_PUSH,
    SETTINGS_STREAMS,
    SETTINGS_TABLE,
    SETTINGS_WINDOW,
    Field,
    Frame,
    Provider,
    fields_of,
    lib,
    static_field,
)

from gateway.headers import Headers
from gateway.wire._http2_c import CALL, HALF_CLOSED, MESSAGE, STREAM_WINDOW, WHOLE

cdef enum:
    MOST_FIELDS = 48
    LONGEST_BLOCK = 2048
    MOST_BLOCKS = 512
    MOST_SEEN = 8192

# What header blocks mean, by their bytes (names, values and their lengths): a client sends the same with each call.
# Those that are learned come a second time; all are forgotten when there are too many. They hold credentials.
cdef dict _known = {}
cdef set _seen = set()


@cython.final
cdef class Meaning:
    """Of a header block; calls share it."""

    cdef str path, method, content_type, encoding
    cdef object headers


cdef struct Block:
    size_t used
    bint whole
    char data[LONGEST_BLOCK]


cdef class Rpc(BaseRpc):
    """One call. Subclasses add what their door does; they are made without arguments."""

    cdef readonly str path
    cdef readonly str method
    cdef readonly str timeout
    """`grpc-timeout` as it was sent, empty where there is none."""
    cdef readonly object headers
    """Metadata without gRPC's own and without binary values; MUST NOT be changed, since calls share it."""
    cdef bint headed
    cdef list trailing
    cdef Block *block
    """The session's; where the block of this call's head is put together."""
    # Its door's.
    cdef public object connection
    cdef public object method_of
    cdef public object deadline
    cdef public object task
    cdef public object timer
    cdef public object initial
    cdef public object queue
    cdef public object wake
    cdef public object room
    cdef public Py_ssize_t goal

    def __cinit__(self):
        self.path = self.method = self.timeout = ""
        self.initial = ()

    @property
    def started(self):
        """Whether initial metadata was sent."""
        return self.headed

    cdef int field(self, const char *name, size_t name_size, const char *value, size_t value_size,
                   size_t most) except -1:
        """One field of the request's header block."""
        if self.in_trailers:
            return 0
        self.metadata_size += name_size + value_size + 32  # as RFC 9113, 6.5.2, counts
        if self.metadata_size > most:
            self.oversized = True
            return 0
        if name_size == 12 and memcmp(name, b"grpc-timeout", 12) == 0:  # another with each call
            self.timeout = PyUnicode_DecodeLatin1(value, value_size, NULL)
            return 0
        if self.block.whole:
            if self.keep(name, name_size, value, value_size):
                return 0
            self.unfold()
        return self.read(name, name_size, value, value_size)

    cdef bint keep(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
        """Put a field into the block; whether there is room."""
        cdef Block *block = self.block
        cdef uint32_t sizes[2]
        if name_size + value_size + sizeof(sizes) > LONGEST_BLOCK - block.used:
            return False
        sizes[0], sizes[1] = <uint32_t>name_size, <uint32_t>value_size
        memcpy(block.data + block.used, sizes, sizeof(sizes))
        memcpy(block.data + block.used + sizeof(sizes), name, name_size)
        memcpy(block.data + block.used + sizeof(sizes) + name_size, value, value_size)
        block.used += sizeof(sizes) + name_size + value_size
        return True

    cdef int unfold(self) except -1:
        """Read the fields of the block, and from now on each as it comes."""
        cdef Block *block = self.block
        cdef uint32_t sizes[2]
        cdef size_t at = 0
        block.whole = False
        self.headers = Headers()
        while at < block.used:
            memcpy(sizes, block.data + at, sizeof(sizes))
            at += sizeof(sizes)
            self.read(block.data + at, sizes[0], block.data + at + sizes[0], sizes[1])
            at += sizes[0] + sizes[1]
        return 0

    cdef int understand(self) except -1:
        """The block of the head has ended."""
        cdef Meaning meaning
        cdef bytes block
        if not self.block.whole:
            return 0
        if self.oversized:
            self.unfold()
            return 0
        block = PyBytes_FromStringAndSize(self.block.data, self.block.used)
        meaning = _known.get(block)
        if meaning is not None:
            self.path, self.method, self.headers = meaning.path, meaning.method, meaning.headers
            self.content_type, self.encoding = meaning.content_type, meaning.encoding
            return 0
        self.unfold()
        mark = hash(block)
        if mark not in _seen:
            if len(_seen) >= MOST_SEEN:
                _seen.clear()
            _seen.add(mark)
            return 0
        if len(_known) >= MOST_BLOCKS:
            _known.clear()
        meaning = Meaning()
        meaning.path, meaning.method, meaning.headers = self.path, self.method, self.headers
        meaning.content_type, meaning.encoding = self.content_type, self.encoding
        _known[block] = meaning
        return 0

    cdef int read(self, const char *name, size_t name_size, const char *value, size_t value_size) except -1:
        if name[0] == c":":
            if name_size == 5 and memcmp(name, b":path", 5) == 0:
                self.path = PyUnicode_DecodeLatin1(value, value_size, NULL)
            elif name_size == 7 and memcmp(name, b":method", 7) == 0:
                self.method = PyUnicode_DecodeLatin1(value, value_size, NULL)
            return 0
        if name_size == 2 and memcmp(name, b"te", 2) == 0:
            return 0
        if name_size == 4 and memcmp(name, b"host", 4) == 0:
            return 0
        if name_size == 12 and memcmp(name, b"content-type", 12) == 0:
            self.content_type = PyUnicode_DecodeLatin1(value, value_size, NULL)
            return 0
        if name_size > 4 and memcmp(name + name_size - 4, b"-bin", 4) == 0:
            return 0
        if name_size > 5 and memcmp(name, b"grpc-", 5) == 0:
            if name_size == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
                self.encoding = PyUnicode_DecodeLatin1(value, value_size, NULL)
                return 0
            if name_size == 20 and memcmp(name, b"grpc-accept-encoding", 20) == 0:
                return 0
        key = PyUnicode_DecodeLatin1(name, name_size, NULL)
        try:
            text = PyUnicode_DecodeUTF8(value, value_size, NULL)
        except UnicodeDecodeError:
            text = PyUnicode_DecodeLatin1(value, value_size, NULL)
        if key in self.headers:
            text = self.headers[key] + "," + text
        self.headers[key] = text
        return 0

    cdef bint settled(self) noexcept:
        return self.finished and self.task is None and self.timer is None and self.room is None

    cdef int ending(self, void *h2) except -1:
        """Trailers go behind the last message."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count = fields_of(fields, 0, MOST_FIELDS, self.trailing)
        lib.submit_trailer(h2, self.stream, fields, count)
        return FLAG_NO_END_STREAM


@cython.final
cdef class Session(BaseSession):
    """One connection of a client.

    Args:
        make: makes an `Rpc` for each call.
        most_metadata: bytes of a call's header list (RFC 9113, 6.5.2).
        most_message: bytes of a message.
        streams: calls at a time.
    """

    cdef object make
    cdef Block block

    def __init__(self, make, *, Py_ssize_t most_metadata, Py_ssize_t most_message, uint32_t streams):
        self.make, self.most_metadata, self.most_message = make, most_metadata, most_message
        self.start(False, (
            (SETTINGS_TABLE, 4096),
            (SETTINGS_PUSH, 0),
            (SETTINGS_STREAMS, streams),
            (SETTINGS_WINDOW, STREAM_WINDOW),
            (SETTINGS_HEADER_LIST, most_metadata),
        ))

    cdef BaseRpc began(self, int32_t stream):
        cdef Rpc call = self.calls.get(stream)
        if call is None:
            call = self.make()
            call.stream = stream
            call.block = &self.block
            self.block.used = 0
            self.block.whole = True
            self.calls[stream] = call
            lib.set_user(self.h2, stream, <void *>call)
        else:
            call.in_trailers = True
        return call

    cdef int received(self, const Frame *frame) except -1:
        cdef Rpc call
        cdef Py_ssize_t count
        if frame.kind == HEADERS and self.heading is not None and not self.heading.in_trailers:
            (<Rpc>self.heading).understand()
        BaseSession.received(self, frame)
        count = len(self.events)
        if count >= 3 and frame.kind == DATA and frame.flags & END_STREAM:
            kind, call, _ = self.events[count - 1]
            if (
                kind == HALF_CLOSED
                and not call.cut_short
                and self.events[count - 2][0] == MESSAGE and self.events[count - 2][1] is call
                and self.events[count - 3][0] == CALL and self.events[count - 3][1] is call
            ):
                self.events[count - 3:] = [(WHOLE, call, self.events[count - 2][2])]
        return 0

    cdef int went(self, const Frame *frame) noexcept:
        """What a client still sends when the answer is complete is not wanted (RFC 9113, 8.1)."""
        cdef void *found
        if frame.flags & END_STREAM:
            found = lib.get_user(self.h2, frame.stream)
            if found != NULL and not (<Rpc>found).half_closed:
                lib.submit_rst(self.h2, 0, frame.stream, 0)
        return 0

    cdef size_t _head(self, Field *fields, object metadata) except? 0:
        static_field(&fields[0], b":status", 7, b"200", 3)
        static_field(&fields[1], b"content-type", 12, b"application/grpc", 16)
        static_field(&fields[2], b"grpc-accept-encoding", 20, b"identity, deflate, gzip", 23)
        return fields_of(fields, 3, MOST_FIELDS, metadata)

    def begin(self, Rpc call, metadata):
        """Send initial metadata, `(name, value)` pairs; once, before anything else of the call."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.headed:
            return
        count = self._head(fields, metadata)
        call.headed = True
        lib.submit_headers(self.h2, 0, call.stream, NULL, fields, count, NULL)

    def finish(self, Rpc call, list trailing):
        """End the call with these trailers, `grpc-status` among them, behind what waits to be sent."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.finished:
            return
        call.finished = call.deaf = True
        if call.providing:
            call.trailing = trailing
            self.woken(call)
            return
        count = fields_of(fields, 0, MOST_FIELDS, trailing)
        lib.submit_headers(self.h2, END_STREAM, call.stream, NULL, fields, count, NULL)

    def answer(self, Rpc call, metadata, bytes message, list trailing):
        """All at once: initial metadata, one message, trailers."""
        cdef Field fields[MOST_FIELDS]
        cdef Provider provider
        cdef size_t count
        if call.gone or call.finished:
            return
        if call.headed:
            self.write(call, message)
            self.finish(call, trailing)
            return
        count = self._head(fields, metadata)
        call.headed = call.providing = call.finished = call.deaf = True
        call.trailing = trailing
        self.enqueue(call, message)
        provide(&provider, call)
        lib.submit_response(self.h2, call.stream, fields, count, &provider)

    def refuse(self, Rpc call, str status):
        """Answer with an HTTP status alone, for what is no gRPC."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.finished or call.headed:
            return
        call.headed = call.finished = call.deaf = True
        count = fields_of(fields, 0, MOST_FIELDS, [(":status", status)])
        lib.submit_headers(self.h2, END_STREAM, call.stream, NULL, fields, count, NULL)

    def farewell(self):
        """Say that no more calls are wanted here; those that are on their way are served (RFC 9113, 6.8)."""
        lib.shutdown_notice(self.h2)
