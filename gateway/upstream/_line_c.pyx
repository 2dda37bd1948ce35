# cython: language_level=3, boundscheck=False, wraparound=False
"""What every request does with its HTTP connection; the specification is `_line_py.py`.

`Waiter` is what `_straight_c.pyx` waits with: it is told the response's head and bytes as they came, in one call, where
anybody else's future gets a `Response`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memcmp

from gateway.upstream._line_py import MAX_KNOWN_HEAD

cdef Py_ssize_t LONGEST = MAX_KNOWN_HEAD
cdef int FAILED = 500

known_heads = {}
cdef dict heads = known_heads


cdef class ResponseHead:
    """A response's head that was read before."""

    def __init__(self, bytes head not None, int status, tuple headers not None, Py_ssize_t length,
                 Py_ssize_t json_length):
        self.head, self.status, self.headers = head, status, headers
        self.length, self.json_length = length, json_length


cdef class Waiter:
    """Waits for a response without a future."""

    cdef int answered(self, ResponseHead head, bytes data) except -1:
        """The whole response: `data` begins with the head."""
        raise NotImplementedError


cdef class Line:
    """The usual part of a connection."""

    def begin(self, Py_ssize_t size):
        """A request of so many bytes is about to be written."""
        self.started(size)

    cdef int started(self, Py_ssize_t size) except -1:
        self._seen = self._head_done = self._complete = self._until_close = False
        self._head_bytes = self._left = 0
        self._sent = size
        if self._secure:
            self._count_arrived()
        self._written += size
        return 0

    def data_received(self, bytes data not None):
        """Take a usual response; all others are the parser's."""
        cdef ResponseHead known
        cdef Py_ssize_t end, size = PyBytes_GET_SIZE(data)
        if self._future is None and self._stream is None:
            # Nobody asked for it (such as a 408 for an idle connection): no answer to what comes next.
            self._abort()
            return
        if self._left:
            self._take_rest(data)
            return
        if not self._seen:
            self._seen = True
            # Mostly a connection's responses have one head.
            known = self.last
            if known is None or not begins(data, size, known.head):
                end = data.find(b"\r\n\r\n", 0, LONGEST)
                self._first_head = data[:end] if end > 0 else b""
                known = heads.get(self._first_head)
            if known is not None and self._stream is None and not self._without_body:
                self.last = known
                self._status, self._headers = known.status, known.headers
                self._head_done = self._keep_alive = True
                end = PyBytes_GET_SIZE(known.head) + 4
                if size - end != known.length or self.ends():
                    self._begin_body(data[end:], known.length)
                elif isinstance(self._future, Waiter):
                    self.hand_over(known, data)
                else:
                    self._whole(data[end:])
                return
        self._parse(data)

    def must_end(self):
        """Whether the connection cannot be used again, however clean the response was."""
        return self.ends()

    cdef bint ends(self) except -1:
        return (
            self.closed
            or self._status == FAILED
            or self._transport.get_write_buffer_size() > 0  # answered before it had read the whole request
        )

    cdef int hand_over(self, ResponseHead head, bytes data) except -1:
        """As `Connection._whole`, to whoever waits without a future."""
        cdef Waiter waiter = <Waiter>self._future
        self.deadline = INFINITY
        self._future = None
        self.served += 1
        self._on_idle(self)
        return waiter.answered(head, data)


cdef bint begins(bytes data, Py_ssize_t size, bytes head) noexcept:
    """Whether this very head is the data's."""
    cdef Py_ssize_t end = PyBytes_GET_SIZE(head)
    cdef const char *at = PyBytes_AS_STRING(data)
    return size >= end + 4 and not memcmp(at, PyBytes_AS_STRING(head), end) and not memcmp(at + end, b"\r\n\r\n", 4)


cdef class Shelf:
    """The free connections of a pool."""

    def pop_idle(self, double now):
        """The one that was used last and still stands; None: there is none."""
        return self.pop(now)

    cdef Line pop(self, double now):
        cdef Line line
        while self._idle:
            line = <Line?>self._idle.pop()
            if line.closed:
                continue
            if now - line.idle_since > self.probe_after and line.gone_while_idle():
                line.close()
                continue
            return line
        return None

    def on_idle(self, Line line not None):
        """A whole response: the connection is the longest waiter's, else free."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(line)
                return
        if self._closing:
            line.close()
            return
        line.idle_since = self._loop.time()
        self._idle.append(line)
        if self._reaper is None:
            self._reap_later()
