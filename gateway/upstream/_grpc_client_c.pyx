# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The client's side of gRPC on HTTP/2: see `wire/_http2_c.pyx`."""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from gateway.wire._http2_c cimport BaseRpc, BaseSession, provide
from gateway.wire._nghttp2_c cimport (
    GOAWAY,
    SETTINGS_FRAME,
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

from gateway.wire._http2_c import STREAM_WINDOW

cdef enum:
    OWN_FIELDS = 8

# What the server may cut a large tensor into at most; by default it is 16 KiB (RFC 9113, 6.5.2).
cdef int LARGEST_FRAME = 1 << 20
# A message's length has 32 bits: an answer has the size that the model gave it.
cdef Py_ssize_t ANY_SIZE = 0xFFFFFFFF


cdef class ClientRpc(BaseRpc):
    """One call. Subclasses add what its caller needs; they are made without arguments."""

    cdef readonly str http_status
    """`:status`; empty: no header block has come."""
    cdef readonly str grpc_status
    """Of the trailers; empty where there is none."""
    cdef readonly str grpc_message
    """Percent-encoded."""
    cdef readonly bint opened
    """Its header block was sent: the server may have seen it."""

    def __cinit__(self):
        self.http_status = self.grpc_status = self.grpc_message = ""

    cdef int field(self, const char *name, size_t name_size, const char *value, size_t value_size,
                   size_t most) except -1:
        """One field of a header block of the server, or of its trailers."""
        self.metadata_size += name_size + value_size + 32  # as RFC 9113, 6.5.2, counts
        if self.metadata_size > most:
            self.oversized = True
        elif name_size == 7 and memcmp(name, b":status", 7) == 0:
            self.http_status = PyUnicode_DecodeLatin1(value, value_size, NULL)
        elif name_size == 12 and memcmp(name, b"content-type", 12) == 0:
            self.content_type = PyUnicode_DecodeLatin1(value, value_size, NULL)
        elif name_size == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
            self.encoding = PyUnicode_DecodeLatin1(value, value_size, NULL)
        elif name_size == 11 and memcmp(name, b"grpc-status", 11) == 0:
            self.grpc_status = PyUnicode_DecodeLatin1(value, value_size, NULL)
        elif name_size == 12 and memcmp(name, b"grpc-message", 12) == 0:
            self.grpc_message = PyUnicode_DecodeLatin1(value, value_size, NULL)
        return 0


@cython.final
cdef class ClientSession(BaseSession):
    """One connection to a server.

    Args:
        most_metadata: bytes of an answer's header lists (RFC 9113, 6.5.2).
    """

    cdef readonly bint leaving
    """The server takes no more calls here (GOAWAY)."""

    def __init__(self, Py_ssize_t most_metadata):
        self.most_metadata, self.most_message = most_metadata, ANY_SIZE
        self.start(True, (
            (SETTINGS_TABLE, 4096),
            (SETTINGS_PUSH, 0),
            (SETTINGS_WINDOW, STREAM_WINDOW),
            (SETTINGS_FRAME, LARGEST_FRAME),
            (SETTINGS_HEADER_LIST, most_metadata),
        ))

    @property
    def most_calls(self):
        """Calls that the server allows at a time, as far as it has said."""
        return lib.remote_setting(self.h2, SETTINGS_STREAMS)

    cdef BaseRpc began(self, int32_t stream):
        cdef ClientRpc call = self.calls.get(stream)
        if call is not None and call.http_status and call.http_status[0] != "1":  # RFC 9110, 15.2: interim
            call.in_trailers = True
        return call

    cdef int received(self, const Frame *frame) except -1:
        if frame.kind == GOAWAY:
            self.leaving = True
        return BaseSession.received(self, frame)

    cdef int went(self, const Frame *frame) noexcept:
        cdef void *found = lib.get_user(self.h2, frame.stream)
        if found != NULL:
            (<ClientRpc>found).opened = True
        return 0

    def open(self, ClientRpc call, str scheme, str authority, str path, list metadata):
        """Begin a call whose messages come by `write`, and whose end by `half_close`.

        Args:
            call: not begun before.
            scheme: `http` or `https`.
            authority: the server's name and port.
            path: `/SERVICE/METHOD`.
            metadata: `(name, value)` pairs, names in lower case, without gRPC's own.

        Raises:
            OverflowError: the connection has no numbers left for calls (RFC 9113, 5.1.1).
        """
        cdef Provider provider
        cdef size_t count, most = OWN_FIELDS + len(metadata)
        cdef int32_t stream
        cdef Field *fields = <Field *>malloc(most * sizeof(Field))
        if fields == NULL:
            raise MemoryError
        try:
            static_field(&fields[0], b":method", 7, b"POST", 4)
            count = fields_of(fields, 1, most, ((":scheme", scheme), (":path", path), (":authority", authority)))
            static_field(&fields[count], b"te", 2, b"trailers", 8)
            static_field(&fields[count + 1], b"content-type", 12, b"application/grpc", 16)
            static_field(&fields[count + 2], b"user-agent", 10, b"tidegate", 8)
            static_field(&fields[count + 3], b"grpc-accept-encoding", 20, b"identity, deflate, gzip", 23)
            count = fields_of(fields, count + 4, most, metadata)
            provide(&provider, call)
            stream = lib.submit_request(self.h2, NULL, fields, count, &provider, <void *>call)
        finally:
            free(fields)
        if stream < 0:
            raise OverflowError(f"nghttp2: {stream}")
        call.stream = stream
        call.providing = True
        self.calls[stream] = call

    def half_close(self, ClientRpc call):
        """No more messages come behind those that wait to be sent."""
        if not call.gone and not call.finished:
            call.finished = True
            self.woken(call)
