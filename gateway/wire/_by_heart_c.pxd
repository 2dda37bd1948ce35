# cython: language_level=3
"""What `gateway.upstream._straight_c` takes from `_by_heart_c.pyx` without a call of Python's."""


cdef class KnownRequest:
    cdef readonly object call
    cdef readonly object parameters
    cdef readonly Py_ssize_t size
    cdef object _fits
    cdef bytes head, _sent, _framed
    cdef list _inputs
    cdef bint _fixed

    cdef object make(self, object body, Py_ssize_t header_length, object model, object version)
    cdef bytes sent(self, object call)
    cdef bytes framed(self, object call)


cdef tuple formed(object call)
cdef object known_answer(bytes data, Py_ssize_t at, Py_ssize_t header_length)
