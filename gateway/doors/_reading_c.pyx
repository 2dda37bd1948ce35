# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`gateway.doors._reading_py`, its specification, in C: what was read is copied without a view of the buffer."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize

from gateway.doors.http_connection import LARGE

# Of all connections: what is read is taken at once. The view keeps it where it is.
cdef Py_ssize_t _size = LARGE
cdef bytearray _space = bytearray(LARGE)
cdef object _buffer = memoryview(_space)


cdef class Reading:
    """What the event loop asks of a buffered protocol for each read."""

    cdef readonly object _connection

    def __init__(self, connection):
        """`connection`: a `LargeBodyProtocol`."""
        self._connection = connection

    def get_buffer(self, Py_ssize_t sizehint, /):
        """Where the next bytes go."""
        large = self._connection.arriving
        return _buffer if large is None else large.left

    def buffer_updated(self, Py_ssize_t nbytes, /):
        """So many have come."""
        large = self._connection.arriving
        if large is not None:
            large.came(nbytes)
            return
        if not 0 <= nbytes <= _size:
            raise ValueError("more than the buffer holds")
        self._connection.data_received(PyBytes_FromStringAndSize(PyByteArray_AS_STRING(_space), nbytes))
