# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""gRPC's side of HTTP/2 (RFC 9113; gRPC over HTTP2, github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) on nghttp2.

Sans-IO: `Session.receive` takes bytes of one connection and gives events, the other methods say what to answer, and
`Session.take` gives the bytes to send. Nothing is called back; no clocks, no sockets.

Design:
a) `load` opens libnghttp2 at run time and fills a table of functions. The declarations are our own, of the C ABI
   that libnghttp2.so.14 has had since 2015, so that neither headers nor the library are needed to build;
b) C callbacks of nghttp2: they put bytes in place, and events into a list. None of them runs Python code of others;
c) `Rpc`, one call: its metadata, the message that is being put together, the messages that wait to be sent;
d) `Session`, one connection. Calls belong to it until their stream closes.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from gateway.headers import Headers

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int RTLD_NOW

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1
    PyObject *raw_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    object PyMemoryView_FromObject(object data)

# --- a) the library ----------------------------------------------------------------------------------------

ctypedef ssize_t (*ReadData)(void *h2, int32_t stream, uint8_t *buf, size_t length, uint32_t *flags, void **source,
                             void *user) noexcept

ctypedef struct Frame:  # nghttp2_frame_hd, with which every member of the union nghttp2_frame begins
    size_t length
    int32_t stream
    uint8_t kind
    uint8_t flags
    uint8_t reserved

ctypedef struct Field:  # nghttp2_nv
    const uint8_t *name
    const uint8_t *value
    size_t name_size
    size_t value_size
    uint8_t flags

ctypedef struct Provider:  # nghttp2_data_provider
    void *source
    ReadData read

ctypedef struct Setting:  # nghttp2_settings_entry
    int32_t key
    uint32_t value

ctypedef int (*Int_Ptr)(void *) noexcept nogil
ctypedef void (*Void_Ptr)(void *) noexcept nogil
ctypedef void (*Set_Int)(void *, int) noexcept nogil
ctypedef void (*Set_Size)(void *, size_t) noexcept nogil
ctypedef void (*Set_Rate)(void *, uint64_t, uint64_t) noexcept nogil
ctypedef void (*Set_Callback)(void *, void *) noexcept nogil
ctypedef ssize_t (*Mem_Recv)(void *, const uint8_t *, size_t) noexcept
ctypedef ssize_t (*Mem_Send)(void *, const uint8_t **) noexcept

cdef struct Library:
    int (*callbacks_new)(void **) noexcept nogil
    Void_Ptr callbacks_del
    Set_Callback on_begin_headers
    Set_Callback on_header
    Set_Callback on_frame_recv
    Set_Callback on_frame_send
    Set_Callback on_data_chunk
    Set_Callback on_stream_close
    Set_Callback send_data
    Set_Callback read_length
    int (*option_new)(void **) noexcept nogil
    Void_Ptr option_del
    Set_Int no_auto_window
    Set_Int no_closed_streams
    Set_Rate reset_rate
    int (*server_new)(void **, void *, void *, void *) noexcept nogil
    Void_Ptr session_del
    Mem_Recv mem_recv
    Mem_Send mem_send
    Int_Ptr want_read
    Int_Ptr want_write
    int (*consume_connection)(void *, size_t) noexcept nogil
    int (*consume_stream)(void *, int32_t, size_t) noexcept nogil
    int (*resume)(void *, int32_t) noexcept nogil
    void *(*get_user)(void *, int32_t) noexcept nogil
    int (*set_user)(void *, int32_t, void *) noexcept nogil
    int (*set_window)(void *, uint8_t, int32_t, int32_t) noexcept nogil
    int32_t (*last_stream)(void *) noexcept nogil
    int (*submit_settings)(void *, uint8_t, const Setting *, size_t) noexcept nogil
    int (*submit_response)(void *, int32_t, const Field *, size_t, const Provider *) noexcept nogil
    int (*submit_trailer)(void *, int32_t, const Field *, size_t) noexcept nogil
    int32_t (*submit_headers)(void *, uint8_t, int32_t, const void *, const Field *, size_t, void *) noexcept nogil
    int (*submit_data)(void *, uint8_t, int32_t, const Provider *) noexcept nogil
    int (*submit_rst)(void *, uint8_t, int32_t, uint32_t) noexcept nogil
    int (*submit_ping)(void *, uint8_t, const uint8_t *) noexcept nogil
    int (*submit_goaway)(void *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t) noexcept nogil
    int (*shutdown_notice)(void *) noexcept nogil

cdef Library lib
cdef void *_callbacks = NULL
cdef void *_options = NULL

cdef enum:
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    SETTINGS = 4
    PING = 6
    WINDOW_UPDATE = 8
    END_STREAM = 1
    ACK = 1
    FLAG_EOF = 1
    FLAG_NO_END_STREAM = 2
    FLAG_NO_COPY = 4
    NV_NO_INDEX = 1
    NV_STATIC = 6  # neither name nor value need to be copied
    ERR_DEFERRED = -508
    ERR_CALLBACK = -902
    SETTINGS_TABLE = 1
    SETTINGS_PUSH = 2
    SETTINGS_STREAMS = 3
    SETTINGS_WINDOW = 4
    SETTINGS_HEADER_LIST = 6
    MOST_FIELDS = 48

# Streams reset by the client before they end, a second, and at once (CVE-2023-44487). A call costs us less than its
# reset costs the client, and a client whose calls all come too late resets them all: so both are generous.
cdef int RESETS_AT_ONCE = 4000
cdef int RESETS_A_SECOND = 1000

# What a DATA frame may hold at most, where the client takes larger ones than the least that it must (RFC 9113, 4.2).
cdef int MOST_FRAME = 1 << 20

# Parts of a message from which a copy into one buffer costs more than a second piece to send.
cdef int LARGE = 16 * 1024

STREAM_WINDOW = 512 * 1024
"""Bytes that a call may send before some of them were taken."""
CONNECTION_WINDOW = 16 * 1024 * 1024
"""Of a connection; what has come is always given back here, so that a call which is not read stops no other."""
cdef Py_ssize_t _STREAM_WINDOW = STREAM_WINDOW

# Kinds of events.
CALL, MESSAGE, HALF_CLOSED, CLOSED, TOO_LARGE, BAD_FRAME, PINGED, PONGED = range(8)
cdef int _CALL = 0, _MESSAGE = 1, _HALF_CLOSED = 2, _CLOSED = 3, _TOO_LARGE = 4, _BAD_FRAME = 5, _PINGED = 6
cdef int _PONGED = 7


class ProtocolError(Exception):
    """The connection cannot go on."""


cdef void *_symbol(void *library, const char *name) except NULL:
    cdef void *found = dlsym(library, name)
    if found == NULL:
        raise OSError("libnghttp2 has no " + name.decode())
    return found


def load(str name="libnghttp2.so.14"):
    """Open the library; once is enough.

    Raises:
        OSError: it is not there, is too old, or lets one header block go on for ever (CVE-2024-28182: fixed in 1.61
            and, under the same name, in what distributions ship).
    """
    global _callbacks, _options
    if _callbacks != NULL:
        return
    cdef bytes path = name.encode()
    cdef void *so = dlopen(PyBytes_AS_STRING(path), RTLD_NOW)
    if so == NULL:
        raise OSError(f"{name} cannot be loaded")
    _symbol(so, b"nghttp2_option_set_max_continuations")  # its default, 8, is ours
    lib.callbacks_new = <int (*)(void **) noexcept nogil>_symbol(so, b"nghttp2_session_callbacks_new")
    lib.callbacks_del = <Void_Ptr>_symbol(so, b"nghttp2_session_callbacks_del")
    lib.on_begin_headers = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_begin_headers_callback")
    lib.on_header = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_header_callback")
    lib.on_frame_recv = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_frame_recv_callback")
    lib.on_frame_send = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_frame_send_callback")
    lib.on_data_chunk = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_data_chunk_recv_callback")
    lib.on_stream_close = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_stream_close_callback")
    lib.send_data = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_send_data_callback")
    lib.read_length = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_data_source_read_length_callback")
    lib.option_new = <int (*)(void **) noexcept nogil>_symbol(so, b"nghttp2_option_new")
    lib.option_del = <Void_Ptr>_symbol(so, b"nghttp2_option_del")
    lib.no_auto_window = <Set_Int>_symbol(so, b"nghttp2_option_set_no_auto_window_update")
    lib.no_closed_streams = <Set_Int>_symbol(so, b"nghttp2_option_set_no_closed_streams")
    lib.reset_rate = <Set_Rate>_symbol(so, b"nghttp2_option_set_stream_reset_rate_limit")
    lib.server_new = <int (*)(void **, void *, void *, void *) noexcept nogil>_symbol(
        so, b"nghttp2_session_server_new2")
    lib.session_del = <Void_Ptr>_symbol(so, b"nghttp2_session_del")
    lib.mem_recv = <Mem_Recv>_symbol(so, b"nghttp2_session_mem_recv")
    lib.mem_send = <Mem_Send>_symbol(so, b"nghttp2_session_mem_send")
    lib.want_read = <Int_Ptr>_symbol(so, b"nghttp2_session_want_read")
    lib.want_write = <Int_Ptr>_symbol(so, b"nghttp2_session_want_write")
    lib.consume_connection = <int (*)(void *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_consume_connection")
    lib.consume_stream = <int (*)(void *, int32_t, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_consume_stream")
    lib.resume = <int (*)(void *, int32_t) noexcept nogil>_symbol(so, b"nghttp2_session_resume_data")
    lib.get_user = <void *(*)(void *, int32_t) noexcept nogil>_symbol(so, b"nghttp2_session_get_stream_user_data")
    lib.set_user = <int (*)(void *, int32_t, void *) noexcept nogil>_symbol(
        so, b"nghttp2_session_set_stream_user_data")
    lib.set_window = <int (*)(void *, uint8_t, int32_t, int32_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_set_local_window_size")
    lib.last_stream = <int32_t (*)(void *) noexcept nogil>_symbol(so, b"nghttp2_session_get_last_proc_stream_id")
    lib.submit_settings = <int (*)(void *, uint8_t, const Setting *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_settings")
    lib.submit_response = <int (*)(void *, int32_t, const Field *, size_t, const Provider *) noexcept nogil>_symbol(
        so, b"nghttp2_submit_response")
    lib.submit_trailer = <int (*)(void *, int32_t, const Field *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_trailer")
    lib.submit_headers = (
        <int32_t (*)(void *, uint8_t, int32_t, const void *, const Field *, size_t, void *) noexcept nogil>_symbol(
            so, b"nghttp2_submit_headers"))
    lib.submit_data = <int (*)(void *, uint8_t, int32_t, const Provider *) noexcept nogil>_symbol(
        so, b"nghttp2_submit_data")
    lib.submit_rst = <int (*)(void *, uint8_t, int32_t, uint32_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_rst_stream")
    lib.submit_ping = <int (*)(void *, uint8_t, const uint8_t *) noexcept nogil>_symbol(so, b"nghttp2_submit_ping")
    lib.submit_goaway = <int (*)(void *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_goaway")
    lib.shutdown_notice = <int (*)(void *) noexcept nogil>_symbol(so, b"nghttp2_submit_shutdown_notice")
    cdef void *callbacks = NULL
    if lib.callbacks_new(&callbacks) or lib.option_new(&_options):
        raise MemoryError
    lib.on_begin_headers(callbacks, <void *>_on_begin_headers)
    lib.on_header(callbacks, <void *>_on_header)
    lib.on_frame_recv(callbacks, <void *>_on_frame_recv)
    lib.on_frame_send(callbacks, <void *>_on_frame_send)
    lib.on_data_chunk(callbacks, <void *>_on_data_chunk)
    lib.on_stream_close(callbacks, <void *>_on_stream_close)
    lib.send_data(callbacks, <void *>_on_send_data)
    lib.read_length(callbacks, <void *>_on_read_length)
    lib.no_auto_window(_options, 1)
    lib.no_closed_streams(_options, 1)
    lib.reset_rate(_options, RESETS_AT_ONCE, RESETS_A_SECOND)
    _callbacks = callbacks


# --- b) what nghttp2 calls ---------------------------------------------------------------------------------


cdef int _on_begin_headers(void *h2, const Frame *frame, void *user) noexcept:
    cdef Session session = <Session>user
    try:
        session.began(frame.stream)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_header(void *h2, const Frame *frame, const uint8_t *name, size_t name_size, const uint8_t *value,
                    size_t value_size, uint8_t flags, void *user) noexcept:
    cdef Session session = <Session>user
    try:
        if session.heading is not None:
            session.heading.field(<const char *>name, name_size, <const char *>value, value_size,
                                  session.most_metadata)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_frame_recv(void *h2, const Frame *frame, void *user) noexcept:
    cdef Session session = <Session>user
    try:
        session.received(frame)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_frame_send(void *h2, const Frame *frame, void *user) noexcept:
    cdef void *found
    if frame.kind == HEADERS or frame.kind == DATA:
        (<Session>user).spoke = True
    if frame.kind == HEADERS and frame.flags & END_STREAM:
        # The answer is complete: what the client still sends is not wanted (RFC 9113, 8.1).
        found = lib.get_user(h2, frame.stream)
        if found != NULL and not (<Rpc>found).half_closed:
            lib.submit_rst(h2, 0, frame.stream, 0)
    return 0


cdef int _on_data_chunk(void *h2, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                        void *user) noexcept:
    cdef Session session = <Session>user
    cdef void *found = lib.get_user(h2, stream)
    lib.consume_connection(h2, size)
    try:
        session.chatter = 0
        if found != NULL:
            (<Rpc>found).feed(session, <const char *>data, size)
    except BaseException as error:
        return session.broke(error)
    return 0


cdef int _on_stream_close(void *h2, int32_t stream, uint32_t code, void *user) noexcept:
    cdef Session session = <Session>user
    try:
        call = session.calls.pop(stream, None)
        if call is not None:
            if session.heading is call:
                session.heading = None
            (<Rpc>call).gone = True
            session.pending -= (<Rpc>call).waiting
            (<Rpc>call).waiting = 0
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
    cdef Rpc call = <Rpc>source[0]
    cdef Py_ssize_t size = min(call.waiting, <Py_ssize_t>length)
    if size == 0 and not call.finished:
        call.deferred = True
        return ERR_DEFERRED
    if size:
        flags[0] |= FLAG_NO_COPY
    if size == call.waiting and call.finished:
        flags[0] |= FLAG_EOF | FLAG_NO_END_STREAM
        try:
            call.trailers(h2)
        except BaseException as error:
            return (<Session>user).broke(error)
    return size


cdef int _on_send_data(void *h2, Frame *frame, const uint8_t *head, size_t length, void **source, void *user) noexcept:
    cdef Session session = <Session>user
    try:
        session.put(<const char *>head, 9)
        (<Rpc>source[0]).put_data(session, length)
        session.chatter = 0
    except BaseException as error:
        return session.broke(error)
    return 0


# --- c) one call -------------------------------------------------------------------------------------------


cdef class Rpc:
    """One call. Subclasses add what their door needs; they are made without arguments."""

    cdef readonly int32_t stream
    cdef readonly str path
    cdef readonly str method
    cdef readonly str content_type
    cdef readonly str encoding
    """Of the request's messages: `grpc-encoding`, empty where there is none."""
    cdef readonly str timeout
    """`grpc-timeout` as it was sent, empty where there is none."""
    cdef readonly object headers
    """Metadata without gRPC's own and without binary values."""
    cdef readonly bint half_closed
    """The client sends no more."""
    cdef readonly bint gone
    """The stream has closed."""
    cdef readonly bint oversized
    """More metadata than is allowed."""
    cdef readonly bint cut_short
    """The client's half ended within a message."""
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
    cdef bint headed, providing, deferred
    cdef readonly bint finished
    """It has its end, which may wait to be sent."""
    cdef list trailing

    def __cinit__(self):
        self.path = self.method = self.content_type = self.encoding = self.timeout = ""
        self.headers = Headers()
        self.body = NULL
        self.out = []

    def __dealloc__(self):
        Py_XDECREF(self.body)

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
            if name_size == 12 and memcmp(name, b"grpc-timeout", 12) == 0:
                self.timeout = PyUnicode_DecodeLatin1(value, value_size, NULL)
                return 0
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

    cdef int feed(self, Session session, const char *data, size_t size) except -1:
        """Bytes of DATA frames: length-prefixed messages (gRPC over HTTP2, "Length-Prefixed-Message")."""
        cdef size_t take
        cdef Py_ssize_t room
        if self.deaf or self.finished:
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

    cdef int put_data(self, Session session, size_t length) except -1:
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

    cdef int trailers(self, void *h2) except -1:
        cdef Field fields[MOST_FIELDS]
        cdef size_t count = _fields(fields, 0, self.trailing)
        lib.submit_trailer(h2, self.stream, fields, count)
        return 0


cdef size_t _fields(Field *fields, size_t count, object pairs) except? 0:
    """Metadata as nghttp2 takes it; the strings belong to `pairs`."""
    cdef Py_ssize_t size
    for name, value in pairs:
        if count == MOST_FIELDS:
            raise ValueError("more metadata than an answer has")
        fields[count].name = <const uint8_t *>PyUnicode_AsUTF8AndSize(name, &size)
        fields[count].name_size = size
        fields[count].value = <const uint8_t *>PyUnicode_AsUTF8AndSize(value, &size)
        fields[count].value_size = size
        # An id is another one each time: in the table it would only push out what comes again.
        fields[count].flags = NV_NO_INDEX if name == "x-request-id" else 0
        count += 1
    return count


cdef void _static(Field *field, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
    field.name = <const uint8_t *>name
    field.name_size = name_size
    field.value = <const uint8_t *>value
    field.value_size = value_size
    field.flags = NV_STATIC


# --- d) one connection -------------------------------------------------------------------------------------


@cython.final
cdef class Session:
    """One connection of a client.

    Args:
        make: makes an `Rpc` for each call.
        most_metadata: bytes of a call's header list (RFC 9113, 6.5.2).
        most_message: bytes of a message.
        streams: calls at a time.
    """

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
    """The client has acknowledged our settings."""
    cdef readonly Rpc heading
    """The call whose header block has begun and not ended."""
    cdef public Py_ssize_t most_message
    cdef size_t most_metadata
    cdef object make
    cdef readonly list events
    """What sending made happen: calls that closed with their answer; `receive` returns them as well."""
    cdef readonly bint over
    """Nothing is left to read or to write, as `take` last saw it: the connection can be closed."""
    cdef BaseException error
    cdef char *buffer
    cdef Py_ssize_t used, room
    cdef list pieces

    def __init__(self, make, *, Py_ssize_t most_metadata, Py_ssize_t most_message, uint32_t streams):
        cdef Setting settings[5]
        if _callbacks == NULL or self.h2 != NULL:
            raise RuntimeError("load() first, and make a session once")
        self.make, self.most_metadata, self.most_message = make, most_metadata, most_message
        self.calls = {}
        self.events = []
        if lib.server_new(&self.h2, _callbacks, <void *>self, _options):
            raise MemoryError
        for index, (key, value) in enumerate((
            (SETTINGS_TABLE, 4096),
            (SETTINGS_PUSH, 0),
            (SETTINGS_STREAMS, streams),
            (SETTINGS_WINDOW, STREAM_WINDOW),
            (SETTINGS_HEADER_LIST, most_metadata),
        )):
            settings[index].key, settings[index].value = key, value
        if lib.submit_settings(self.h2, 0, settings, 5) or lib.set_window(self.h2, 0, 0, CONNECTION_WINDOW):
            raise MemoryError

    def __dealloc__(self):
        if self.h2 != NULL:
            lib.session_del(self.h2)
        free(self.buffer)

    cdef int broke(self, BaseException error) noexcept:
        self.error = error
        return ERR_CALLBACK

    cdef int began(self, int32_t stream) except -1:
        cdef Rpc call = self.calls.get(stream)
        self.chatter = 0
        if call is None:
            call = self.make()
            call.stream = stream
            self.calls[stream] = call
            lib.set_user(self.h2, stream, <void *>call)
        else:
            call.in_trailers = True
        self.heading = call
        return 0

    cdef int received(self, const Frame *frame) except -1:
        cdef void *found
        cdef Rpc call
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
                call = <Rpc>found
                call.half_closed = True
                if call.body != NULL or call.prefix_size:
                    call.cut_short = not call.deaf
                self.events.append((_HALF_CLOSED, call, None))
        return 0

    def receive(self, bytes data):
        """Bytes of the client.

        Returns:
            `[(kind, call, what), ...]`: CALL (its header block has ended), MESSAGE (`what`: bytes, whether they are
            compressed), HALF_CLOSED, CLOSED (`what`: the error code of RFC 9113, 7), TOO_LARGE and BAD_FRAME (of a
            message; `what`: its size), PINGED, PONGED (no call).

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
        cdef Rpc call
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

    cdef size_t _head(self, Field *fields, object metadata) except? 0:
        _static(&fields[0], b":status", 7, b"200", 3)
        _static(&fields[1], b"content-type", 12, b"application/grpc", 16)
        _static(&fields[2], b"grpc-accept-encoding", 20, b"identity, deflate, gzip", 23)
        return _fields(fields, 3, metadata)

    def begin(self, Rpc call, metadata):
        """Send initial metadata, `(name, value)` pairs; once, before anything else of the call."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.headed:
            return
        count = self._head(fields, metadata)
        call.headed = True
        lib.submit_headers(self.h2, 0, call.stream, NULL, fields, count, NULL)

    def write(self, Rpc call, bytes message):
        """Send a message, uncompressed."""
        cdef Provider provider
        if call.gone or call.finished:
            return
        _enqueue(self, call, message)
        if not call.providing:
            call.providing = True
            provider.source = <void *>call
            provider.read = _read_data
            lib.submit_data(self.h2, 0, call.stream, &provider)
        elif call.deferred:
            call.deferred = False
            lib.resume(self.h2, call.stream)

    def finish(self, Rpc call, list trailing):
        """End the call with these trailers, `grpc-status` among them, behind what waits to be sent."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.finished:
            return
        call.finished = True
        if call.providing:
            call.trailing = trailing
            if call.deferred:
                call.deferred = False
                lib.resume(self.h2, call.stream)
            return
        count = _fields(fields, 0, trailing)
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
        call.headed = call.providing = call.finished = True
        call.trailing = trailing
        _enqueue(self, call, message)
        provider.source = <void *>call
        provider.read = _read_data
        lib.submit_response(self.h2, call.stream, fields, count, &provider)

    def refuse(self, Rpc call, str status):
        """Answer with an HTTP status alone, for what is no gRPC."""
        cdef Field fields[MOST_FIELDS]
        cdef size_t count
        if call.gone or call.finished or call.headed:
            return
        call.headed = call.finished = True
        count = _fields(fields, 0, [(":status", status)])
        lib.submit_headers(self.h2, END_STREAM, call.stream, NULL, fields, count, NULL)

    def reset(self, Rpc call, uint32_t code):
        """Cut a call: RST_STREAM with an error code of RFC 9113, 7."""
        if not call.gone:
            call.finished = True
            lib.submit_rst(self.h2, 0, call.stream, code)

    def taken(self, Rpc call, Py_ssize_t size):
        """The reader of a call has taken a message of this size."""
        call.held -= size
        if call.owed and call.held < _STREAM_WINDOW and not call.gone:
            lib.consume_stream(self.h2, call.stream, call.owed)
            call.owed = 0

    def ping(self):
        """Ask for a sign of life."""
        lib.submit_ping(self.h2, 0, NULL)

    def farewell(self):
        """Say that no more calls are wanted here; those that are on their way are served (RFC 9113, 6.8)."""
        lib.shutdown_notice(self.h2)

    def goaway(self, uint32_t code=0, bytes why=b""):
        """Take no more calls; those that there are go on."""
        lib.submit_goaway(self.h2, 0, lib.last_stream(self.h2), code, <const uint8_t *>PyBytes_AS_STRING(why),
                          PyBytes_GET_SIZE(why))


cdef int _enqueue(Session session, Rpc call, bytes message) except -1:
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
    session.pending += size + 5
    return 0
