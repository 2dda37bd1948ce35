# cython: language_level=3
"""The class whose digests other extensions take without an object between, for cimport; see `_hmac_c.pyx`."""

cimport cython
from libc.stdint cimport uint32_t


cdef extern from "sha256.hpp" nogil:
    ctypedef struct tg_sha256:
        uint32_t state[8]


@cython.final
cdef class HmacSha256:
    cdef tg_sha256 _inner
    cdef tg_sha256 _outer

    cdef int _digest(self, object parts, unsigned char *out) except -1
    """Of the parts as one: 32 bytes."""
