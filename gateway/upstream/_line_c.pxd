# cython: language_level=3
"""The classes of `_line_c.pyx`, for cimport."""


cdef class ResponseHead:
    cdef readonly bytes head
    cdef readonly int status
    cdef readonly tuple headers
    cdef readonly Py_ssize_t length
    cdef readonly Py_ssize_t json_length


cdef class Waiter:
    cdef int answered(self, ResponseHead head, bytes data) except -1


cdef class Line:
    cdef public object _loop
    cdef public object _transport
    cdef public object _on_idle
    cdef public object _future
    cdef public object _stream
    cdef public object _timer
    cdef public bytes _first_head
    cdef public tuple _headers
    cdef public bint closed
    cdef public bint _secure
    cdef public bint _without_body
    cdef public bint _seen
    cdef public bint _head_done
    cdef public bint _until_close
    cdef public bint _keep_alive
    cdef public bint _complete
    cdef public int _status
    cdef public Py_ssize_t served
    cdef public Py_ssize_t _written
    cdef public Py_ssize_t _sent
    cdef public Py_ssize_t _head_bytes
    cdef public Py_ssize_t _left
    cdef public double idle_since
    cdef public double deadline
    cdef ResponseHead last

    cdef int started(self, Py_ssize_t size) except -1
    cdef bint ends(self) except -1
    cdef int hand_over(self, ResponseHead head, bytes data) except -1


cdef class Shelf:
    cdef public object _loop
    cdef public list _idle
    cdef public object _waiters
    cdef public object _reaper
    cdef public object _ticker
    cdef public bint _closing
    cdef public double probe_after

    cdef Line pop(self, double now)
