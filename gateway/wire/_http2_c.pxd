# cython: language_level=3
"""The two classes from which the gRPC server and the gRPC client are made, for cimport; see `_http2_c.pyx`."""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint8_t, uint32_t

from gateway.wire._nghttp2_c cimport Frame, Provider


cdef class BaseRpc:
    cdef readonly int32_t stream
    """0: none yet."""
    cdef readonly str content_type
    cdef readonly str encoding
    """Of the messages that come: `grpc-encoding`, empty where there is none."""
    cdef readonly bint half_closed
    """The other side sends no more."""
    cdef readonly bint gone
    """The stream has closed."""
    cdef readonly bint oversized
    """More metadata than is allowed."""
    cdef readonly bint cut_short
    """The other side's half ended within a message."""
    cdef readonly size_t sent
    """Bytes of messages that went out."""
    cdef readonly Py_ssize_t waiting
    """Bytes that wait to be sent."""
    cdef size_t metadata_size
    cdef bint in_trailers
    # the message that comes
    cdef int prefix_size
    cdef uint8_t prefix[5]
    cdef PyObject *body
    cdef Py_ssize_t size, have
    cdef bint deaf
    cdef Py_ssize_t held, owed
    # the messages that go
    cdef list out
    cdef Py_ssize_t offset
    cdef bint providing, deferred
    cdef readonly bint finished
    """It has its end, which may wait to be sent."""

    cdef int field(self, const char *name, size_t name_size, const char *value, size_t value_size,
                   size_t most) except -1
    cdef bint settled(self) noexcept
    cdef int ending(self, void *h2) except -1
    cdef int feed(self, BaseSession session, const char *data, size_t size) except -1
    cdef int put_data(self, BaseSession session, size_t length) except -1


cdef class BaseSession:
    cdef void *h2
    cdef readonly dict calls
    """Open calls by stream."""
    cdef public int chatter
    """Frames since the last one that belonged to a call's work: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA."""
    cdef readonly Py_ssize_t pending
    """Bytes of messages that wait to be sent, of all calls."""
    cdef public bint spoke
    """Headers or data were sent since somebody made it False."""
    cdef readonly bint greeted
    """The other side has acknowledged our settings."""
    cdef readonly BaseRpc heading
    """The call whose header block has begun and not ended."""
    cdef public Py_ssize_t most_message
    cdef size_t most_metadata
    cdef readonly list events
    """What sending made happen: calls that closed with their answer; `receive` returns them as well."""
    cdef readonly bint over
    """Nothing is left to read or to write, as `take` last saw it: the connection can be closed."""
    cdef BaseException error
    cdef char *buffer
    cdef Py_ssize_t used, room
    cdef list pieces

    cdef int start(self, bint client, object settings) except -1
    cdef BaseRpc began(self, int32_t stream)
    cdef int received(self, const Frame *frame) except -1
    cdef int went(self, const Frame *frame) noexcept
    cdef int broke(self, BaseException error) noexcept
    cdef int put(self, const char *data, Py_ssize_t size) except -1
    cdef int put_piece(self, object piece) except -1
    cdef int enqueue(self, BaseRpc call, bytes message) except -1
    cdef int woken(self, BaseRpc call) except -1


cdef void provide(Provider *provider, BaseRpc call) noexcept
