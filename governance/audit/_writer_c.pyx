# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The writer of an audit log whose thread never asks for the interpreter; the specification is `wal.py`.

Design:
a) `segment.h`: frames, CRC-32, the file and what its errors leave behind;
b) `writer.h`: the queue, the thread, the order in which it gathers, writes, syncs and tries again;
c) the class. A method runs with the GIL held, so that entries and what waits for them keep one order.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

import os
from collections import deque

cdef extern from "writer.h" nogil:
    enum:
        TG_MOST_PATH
        TG_TAKEN
        TG_FULL
        TG_CLOSED
    ctypedef struct tg_segment:
        char folder[4096]
    ctypedef struct tg_chunk:
        tg_chunk *next
        uint32_t count
        int error
    ctypedef struct tg_writer:
        tg_segment segment
        int strict, news_fd, done_fd, failing, unsealed, process
        uint64_t linger_ns, retry_ns, most_queued, segment_bytes, written, lost, queued
    void tg_crc_begin()
    int tg_writer_init(tg_writer *it)
    int tg_writer_start(tg_writer *it)
    int tg_writer_put(tg_writer *it, const char *entry, size_t size)
    int tg_writer_close(tg_writer *it, uint64_t timeout_ns)
    tg_chunk *tg_writer_ended(tg_writer *it)
    void tg_writer_forget(tg_writer *it, tg_chunk *group)
    void tg_writer_free(tg_writer *it)
    void tg_ring(int fd)

cdef uint64_t SECOND = 1000000000
cdef Py_ssize_t MOST_ENTRY = 65535

tg_crc_begin()


@cython.final
cdef class Writer:
    """One writer. Not for several threads without the GIL."""

    cdef tg_writer *_it
    cdef object _waiting

    def __init__(
        self,
        bytes folder,
        *,
        bint strict,
        double linger_s,
        double retry_s,
        uint64_t most_queued,
        uint64_t segment_bytes,
    ):
        if self._it != NULL:
            raise RuntimeError("it is made already")
        self._waiting = deque()
        if len(folder) >= TG_MOST_PATH or 0 in folder:
            raise ValueError("a folder's path of that length, or with a zero byte")
        self._it = <tg_writer *>calloc(1, sizeof(tg_writer))
        if self._it == NULL:
            raise MemoryError
        error = tg_writer_init(self._it)
        if error:
            raise OSError(error, os.strerror(error))
        memcpy(self._it.segment.folder, PyBytes_AS_STRING(folder), PyBytes_GET_SIZE(folder))
        self._it.strict = strict
        self._it.linger_ns = <uint64_t>(linger_s * SECOND)
        self._it.retry_ns = <uint64_t>(retry_s * SECOND)
        self._it.most_queued = most_queued
        self._it.segment_bytes = segment_bytes

    def __dealloc__(self):
        # A thread that was never closed goes on to the end of the process, as a daemon does.
        if self._it != NULL and not self._it.process:
            tg_writer_free(self._it)

    def start(self):
        """Open the first segment, then start the thread. Raises OSError."""
        cdef int error
        with nogil:
            error = tg_writer_start(self._it)
        if error:
            raise OSError(error, os.strerror(error))

    def put(self, bytes entry, object waiting=None):
        """Queue one entry; False: too many wait for the disk, or it is closed. Never waits.

        `waiting` is what `ended` gives back when its group has ended; only in a strict log, and there for every entry.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(entry)
        cdef int taken
        if size > MOST_ENTRY:
            raise ValueError(f"an entry of {size} bytes: {MOST_ENTRY} are the most")
        if self._it.strict != (waiting is not None):
            raise ValueError("a strict log is waited for, and no other")
        taken = tg_writer_put(self._it, PyBytes_AS_STRING(entry), <size_t>size)
        if taken == TG_TAKEN:
            if waiting is not None:
                self._waiting.append(waiting)
            return True
        if taken == TG_FULL or taken == TG_CLOSED:
            return False
        raise MemoryError

    def ended(self):
        """What waited for the groups that ended since, as `(waiting, errno)` of each; 0: it is on the disk."""
        cdef tg_chunk *group = tg_writer_ended(self._it)
        cdef tg_chunk *after
        found = []
        while group != NULL:
            found.append(([self._waiting.popleft() for _ in range(group.count)], group.error))
            after = group.next
            tg_writer_forget(self._it, group)
            group = after
        return found

    def close(self, double timeout):
        """Write what is queued, seal the segment, end the thread; False: it has not ended within `timeout` seconds."""
        cdef int error
        cdef uint64_t ns = <uint64_t>(timeout * SECOND)
        with nogil:
            error = tg_writer_close(self._it, ns)
        return error == 0

    def wake(self):
        """Wake whoever reads `news_fd`."""
        tg_ring(self._it.news_fd)

    @property
    def news_fd(self):
        """An eventfd(2) that blocks: rung when `failing` or `unsealed` is another, and by `wake`."""
        return self._it.news_fd

    @property
    def done_fd(self):
        """An eventfd(2) that does not block: rung when a group of a strict log has ended."""
        return self._it.done_fd

    @property
    def failing(self):
        """The errno that the disk refuses with; 0 while it does not."""
        return self._it.failing

    @property
    def unsealed(self):
        """The errno of the last segment that could not be sealed; 0: there is none."""
        return self._it.unsealed

    @property
    def queued(self):
        """Entries that wait for the disk, without the group that is being written."""
        return self._it.queued

    @property
    def written(self):
        """Entries that are on the disk."""
        return self._it.written

    @property
    def lost(self):
        """Entries that were given up."""
        return self._it.lost
