# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`kernels.groups` in C; the specification is `_groups_py.py`."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t
from libc.string cimport memset

from kernels.groups._groups_py import HEAD, MINUTES, cells

cdef Py_ssize_t _HEAD = HEAD
cdef Py_ssize_t _MINUTES = MINUTES


@cython.final
cdef class Shard:
    cdef Py_buffer _view
    cdef bint _held
    cdef uint64_t *_cells
    cdef Py_ssize_t _variants
    cdef Py_ssize_t _groups
    cdef Py_ssize_t _width

    def __cinit__(self, buffer, Py_ssize_t variants, Py_ssize_t groups):
        self._held = False
        if variants < 1 or groups < 1:
            raise ValueError("at least one variant and one group")
        size = 8 * cells(variants, groups)
        try:
            PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        except BufferError:
            raise ValueError(f"needs a writable buffer of {size} bytes") from None
        self._held = True
        if self._view.len < <Py_ssize_t>size or <size_t>self._view.buf % 8:
            raise ValueError(f"needs a writable buffer of {size} bytes")
        self._cells = <uint64_t *>self._view.buf
        self._variants = variants
        self._groups = groups
        self._width = 2 * variants * groups

    def __dealloc__(self):
        if self._held:
            PyBuffer_Release(&self._view)

    def add(self, Py_ssize_t minute, Py_ssize_t variant, Py_ssize_t group, Py_ssize_t rows, Py_ssize_t selected):
        cdef Py_ssize_t slot, at
        if not 0 <= variant < self._variants or not 0 <= group < self._groups:
            raise ValueError("no such variant or group")
        if minute < 1 or not 0 <= selected <= rows:
            raise ValueError("no such minute, or more selected than there are rows")
        slot = _HEAD + self._width + (minute % _MINUTES) * (1 + self._width)
        if self._cells[slot] != <uint64_t>minute:
            self._cells[slot] = 0
            memset(&self._cells[slot + 1], 0, 8 * self._width)
            self._cells[slot] = minute
        at = 2 * (variant * self._groups + group)
        self._cells[_HEAD + at + 1] += rows
        self._cells[_HEAD + at] += selected
        self._cells[slot + 1 + at + 1] += rows
        self._cells[slot + 1 + at] += selected

    def called(self, bint counted):
        self._cells[0 if counted else 1] += 1
