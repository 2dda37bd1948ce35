# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Feature programs in C; the specification is `_features_py.py`.

Design:
a) a program is compiled once to an array of steps and their constants, in memory of its own that never changes: calls
   from many threads share it, and each has its scratch;
b) a call goes through its rows in blocks, step by step over a block: registers are columns of at most 256 values, which
   stay in the cache, and the loop of a step is plain enough to become vector code. One row is a block of one;
c) a refusal is noted and the block is finished: the row that comes first is the one that is refused, as if rows had
   been taken one by one;
d) columns are run without the GIL; rows of Python values are read with it, a block at a time, and texts are views of
   the strings' own UTF-8, which live as long as the rows.
"""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport NAN
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from kernels.features._program import (
    COLUMN_DATATYPES, DATATYPES, KINDS, OPS, REASONS, Refused,
)
from kernels.features._judge import judge

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL

cdef extern from "features.hpp":
    enum: TG_BLOCK
    ctypedef struct tg_scratch:
        bint failed
    ctypedef struct tg_text:
        const char *at
        Py_ssize_t size
    ctypedef struct tg_slot:
        Py_ssize_t size
    ctypedef struct tg_step:
        int op
        int dst
        int a
        int b
        int column
        int count
        int integers_count
        int *integers
        double *numbers
        int texts_count
        tg_text *texts
        tg_slot *slots
        uint32_t mask
    ctypedef struct tg_tensor:
        int datatype
        Py_ssize_t width
    ctypedef struct tg_column:
        int datatype
        int kind
        int dst
        const char *data
        Py_ssize_t size
        Py_ssize_t at
    ctypedef struct tg_call:
        double *numbers
        tg_text *texts
        char **tensors
        const tg_tensor *shapes
        Py_ssize_t first
        Py_ssize_t rows
        Py_ssize_t block
        Py_ssize_t refused_row
        int refused_column
        int refused_reason
        tg_scratch *scratch
    ctypedef int (*tg_lower)(const char *, Py_ssize_t, void *) noexcept nogil
    tg_scratch *tg_scratch_new(tg_lower) noexcept nogil
    void tg_scratch_delete(tg_scratch *) noexcept nogil
    int tg_sink(void *, const char *, Py_ssize_t) noexcept nogil
    void tg_run(tg_call *, const tg_step *, int) noexcept nogil
    int tg_load(tg_call *, tg_column *, int) noexcept nogil
    void tg_refuse(tg_call *, Py_ssize_t, int, int) noexcept nogil
    int tg_seconds(const char *, Py_ssize_t, double *) noexcept nogil
    void tg_enter(tg_slot *, uint32_t, const char *, Py_ssize_t, int) noexcept nogil
    enum:
        TG_NUMBER
        TG_TEXT
        TG_BOOLEAN
        TG_TIME
        TG_COLUMN

cdef dict _OPS = {name: code for code, name in enumerate(OPS)}
cdef dict _KINDS = {name: code for code, name in enumerate(KINDS)}
cdef dict _OUT = {name: code for code, name in enumerate(DATATYPES)}
cdef dict _IN = {name: code for code, name in enumerate(COLUMN_DATATYPES)}
cdef dict _SIZES = dict(zip(COLUMN_DATATYPES, (8, 4, 8, 4, 2, 1, 8, 4, 2, 1, 1, 0, 2)))
cdef int[4] _OUT_SIZES
_OUT_SIZES[:] = [4, 8, 4, 8]
cdef int _STRING = KINDS.index("string")
cdef int _BOOL = KINDS.index("boolean")
cdef int _STAMP = KINDS.index("timestamp")
cdef int _BYTES = COLUMN_DATATYPES.index("BYTES")
cdef int _TRUTH = COLUMN_DATATYPES.index("BOOL")


cdef void *_memory(Py_ssize_t size) except NULL:
    cdef void *found = PyMem_Malloc(size if size > 0 else 1)
    if found == NULL:
        raise MemoryError
    memset(found, 0, size)
    return found


@cython.final
cdef class Program:
    cdef readonly tuple inputs
    cdef readonly tuple tensors
    cdef int _numbers
    cdef int _texts
    cdef int _count
    cdef tg_step *_steps
    cdef tg_tensor *_shapes
    cdef int *_kinds
    cdef int *_registers
    cdef list _names
    cdef list _kept  # the UTF-8 of all texts
    cdef bint _counts  # n-grams

    def __cinit__(self, inputs, tensors, code, int numbers, int texts):
        self.inputs = tuple(inputs)
        self.tensors = tuple(tensors)
        self._numbers, self._texts = numbers, texts
        self._names = [one.name for one in self.inputs]
        self._kept = []
        listed = tuple(code)
        judge(self.inputs, self.tensors, listed, numbers, texts)
        cdef int at
        self._kinds = <int *>_memory(len(self.inputs) * sizeof(int))
        self._registers = <int *>_memory(len(self.inputs) * sizeof(int))
        for at, one in enumerate(self.inputs):
            self._kinds[at] = _KINDS[one.kind]
            self._registers[at] = one.register
        self._shapes = <tg_tensor *>_memory(len(self.tensors) * sizeof(tg_tensor))
        for at, one in enumerate(self.tensors):
            self._shapes[at].datatype = _OUT[one.datatype]
            self._shapes[at].width = one.width
        self._steps = <tg_step *>_memory(len(listed) * sizeof(tg_step))
        for at, one in enumerate(listed):
            self._count = at + 1
            self._step(&self._steps[at], one)

    cdef int _step(self, tg_step *step, one) except -1:
        cdef Py_ssize_t at
        step.op = _OPS[one.op]
        step.dst, step.a, step.b, step.column = one.dst, one.a, one.b, one.column
        step.integers_count = <int>len(one.integers)
        step.integers = <int *>_memory(len(one.integers) * sizeof(int))
        for at, value in enumerate(one.integers):
            step.integers[at] = value
        step.count = <int>len(one.numbers)
        step.numbers = <double *>_memory(len(one.numbers) * sizeof(double))
        for at, value in enumerate(one.numbers):
            step.numbers[at] = value
        step.texts_count = <int>len(one.texts)
        step.texts = <tg_text *>_memory(len(one.texts) * sizeof(tg_text))
        for at, value in enumerate(one.texts):
            kept = value.encode("utf-8", "surrogatepass")
            self._kept.append(kept)
            step.texts[at].at = PyBytes_AS_STRING(kept)
            step.texts[at].size = len(kept)
        if one.op == "ngrams":
            self._counts = True
        if one.op == "lookup_text" or one.op == "ngrams":
            # At most half full, so that a search is short.
            step.mask = 1
            while step.mask < 2 * <uint32_t>step.texts_count:
                step.mask *= 2
            step.slots = <tg_slot *>_memory(step.mask * sizeof(tg_slot))
            for at in range(step.mask):
                step.slots[at].size = -1
            step.mask -= 1
            for at in range(step.texts_count):
                tg_enter(step.slots, step.mask, step.texts[at].at, step.texts[at].size, <int>at)
        return 0

    def __dealloc__(self):
        cdef int at
        if self._steps != NULL:
            for at in range(self._count):
                PyMem_Free(self._steps[at].integers)
                PyMem_Free(self._steps[at].numbers)
                PyMem_Free(self._steps[at].texts)
                PyMem_Free(self._steps[at].slots)
        PyMem_Free(self._steps)
        PyMem_Free(self._shapes)
        PyMem_Free(self._kinds)
        PyMem_Free(self._registers)

    cdef list _begin(self, tg_call *call, Py_ssize_t rows):
        """Memory for a call; the tensors, whose bytes are written into."""
        cdef Py_ssize_t at, size
        cdef Py_ssize_t block = rows if rows < TG_BLOCK else TG_BLOCK
        if block < 1:
            block = 1
        memset(call, 0, sizeof(tg_call))
        call.block = block
        call.refused_row = -1
        call.shapes = self._shapes
        call.numbers = <double *>malloc(self._numbers * block * sizeof(double) + 1)
        call.texts = <tg_text *>malloc(self._texts * block * sizeof(tg_text) + 1)
        call.tensors = <char **>malloc(len(self.tensors) * sizeof(char *) + 1)
        if self._counts:
            call.scratch = tg_scratch_new(_lowered)
        if call.numbers == NULL or call.texts == NULL or call.tensors == NULL or (
            self._counts and call.scratch == NULL
        ):
            self._end(call)
            raise MemoryError
        found = []
        try:
            for at in range(len(self.tensors)):
                size = rows * self._shapes[at].width * _OUT_SIZES[self._shapes[at].datatype]
                made = PyBytes_FromStringAndSize(NULL, size)
                found.append(made)
                call.tensors[at] = PyBytes_AS_STRING(made)
                memset(call.tensors[at], 0, size)
        except BaseException:
            self._end(call)
            raise
        return found

    cdef void _end(self, tg_call *call) noexcept:
        free(call.numbers)
        free(call.texts)
        free(call.tensors)
        tg_scratch_delete(call.scratch)

    cdef object _refusal(self, tg_call *call, name=None):
        return Refused(
            call.refused_row,
            self._names[call.refused_column] if name is None else name,
            REASONS[call.refused_reason],
        )

    def rows(self, rows, positions=None, *, bint empty_is_missing=True):
        cdef tg_call call
        cdef Py_ssize_t total = len(rows), at, inputs = len(self._names)
        cdef list source = rows if PyList_CheckExact(rows) else list(rows)
        cdef int *places = NULL
        if positions is not None:
            if len(positions) != inputs:
                raise ValueError("a position for each input")
            places = <int *>_memory(inputs * sizeof(int))
            for at in range(inputs):
                places[at] = positions[at]
        try:
            found = self._begin(&call, total)
        except BaseException:
            PyMem_Free(places)
            raise
        unknown = None
        try:
            while call.first < total and call.refused_row < 0:
                call.rows = min(call.block, total - call.first)
                for at in range(call.rows):
                    row = <object>PyList_GET_ITEM(source, call.first + at)
                    unknown = self._load(&call, row, places, at, empty_is_missing)
                    if call.refused_row >= 0:
                        # Rows before it may be refused for what the instructions find, and they come first.
                        call.rows = at
                        break
                if call.rows:
                    tg_run(&call, self._steps, self._count)
                call.first += call.rows
            if self._counts and call.scratch.failed:
                raise MemoryError
            if call.refused_row >= 0:
                raise self._refusal(&call, unknown if call.refused_reason == TG_COLUMN else None)
            return found
        finally:
            self._end(&call)
            PyMem_Free(places)

    cdef object _load(self, tg_call *call, row, int *places, Py_ssize_t at, bint empty_is_missing):
        """Put one row's values into the registers; the name of a column that there is none of."""
        cdef Py_ssize_t column, taken = 0, size
        cdef PyObject *found
        cdef object value
        cdef double number
        cdef int kind, register
        cdef int reason
        cdef tg_text *text
        cdef bint is_dict = places == NULL
        if is_dict and not isinstance(row, dict):
            raise TypeError("a row is a dict")
        if not is_dict:
            if not PyList_CheckExact(row) and not PyTuple_CheckExact(row):
                raise TypeError("a row is a list")
            size = PyList_GET_SIZE(row) if PyList_CheckExact(row) else PyTuple_GET_SIZE(row)
            for column in range(len(self._names)):
                if places[column] >= size:
                    raise IndexError("a row is too short")
        for column in range(len(self._names)):
            if is_dict:
                found = PyDict_GetItem(row, <object>PyList_GET_ITEM(self._names, column))
                taken += found != NULL
            elif places[column] < 0:
                found = NULL
            elif PyList_CheckExact(row):
                found = <PyObject *>PyList_GET_ITEM(row, places[column])
            else:
                found = <PyObject *>PyTuple_GET_ITEM(row, places[column])
            value = None if found == NULL else <object>found
            kind, register = self._kinds[column], self._registers[column]
            reason = -1
            if kind == _STRING:
                text = &call.texts[register * call.block + at]
                text.size = -1
                if value is None:
                    continue
                if isinstance(value, str):
                    if not _utf8(value, text):
                        reason = TG_TEXT
                    elif text.size == 0 and empty_is_missing:
                        text.size = -1
                else:
                    reason = TG_TEXT
            else:
                number = NAN
                if value is None:
                    pass
                elif kind == _BOOL:
                    if value is True:
                        number = 1.0
                    elif value is False:
                        number = 0.0
                    else:
                        reason = TG_BOOLEAN
                elif kind == _STAMP:
                    reason = _stamp(value, &number, empty_is_missing)
                elif PyFloat_CheckExact(value):
                    number = PyFloat_AS_DOUBLE(value)
                elif isinstance(value, (int, float)) and not isinstance(value, bool):
                    try:
                        number = value
                    except OverflowError:
                        reason = TG_NUMBER
                else:
                    reason = TG_NUMBER
                call.numbers[register * call.block + at] = number
            if reason >= 0:
                tg_refuse(call, at, <int>column, reason)
                return None
        if is_dict and taken != len(row):
            tg_refuse(call, at, 0, TG_COLUMN)
            return next(str(name) for name in row if name not in self._names)
        return None

    def columns(self, Py_ssize_t count, columns):
        cdef tg_call call
        cdef Py_ssize_t at, inputs = len(self._names)
        cdef Py_buffer *views
        cdef tg_column *read
        cdef int wrong = -1
        if len(columns) != inputs:
            raise ValueError("a column for each input, or None")
        if count < 0:
            raise ValueError("a number of rows")
        read = <tg_column *>_memory(inputs * sizeof(tg_column))
        try:
            views = <Py_buffer *>_memory(inputs * sizeof(Py_buffer))
        except BaseException:
            PyMem_Free(read)
            raise
        try:
            for at in range(inputs):
                read[at].kind = self._kinds[at]
                read[at].dst = self._registers[at]
                column = columns[at]
                if column is None:
                    continue
                self._open(at, column, count, &read[at], &views[at])
            found = self._begin(&call, count)
            try:
                with nogil:
                    while call.first < count and call.refused_row < 0 and wrong < 0:
                        call.rows = min(call.block, count - call.first)
                        for at in range(inputs):
                            if tg_load(&call, &read[at], <int>at) < 0:
                                wrong = <int>at
                                break
                        if wrong >= 0:
                            break
                        tg_run(&call, self._steps, self._count)
                        call.first += call.rows
                    if wrong < 0 and call.refused_row < 0:
                        for at in range(inputs):
                            if read[at].datatype == _BYTES and read[at].data != NULL and read[at].at != read[at].size:
                                wrong = <int>at
                                break
                if wrong >= 0:
                    raise ValueError(f"'{self._names[wrong]}' has another number of values")
                if self._counts and call.scratch.failed:
                    raise MemoryError
                if call.refused_row >= 0:
                    raise self._refusal(&call)
                return found
            finally:
                self._end(&call)
        finally:
            for at in range(inputs):
                PyBuffer_Release(&views[at])  # does nothing where there is none
            PyMem_Free(views)
            PyMem_Free(read)

    cdef int _open(self, Py_ssize_t at, column, Py_ssize_t count, tg_column *into, Py_buffer *view) except -1:
        datatype, data = column
        code = _IN.get(datatype)
        cdef int kind = self._kinds[at]
        cdef bint right
        if kind == _BOOL:
            right = code == _TRUTH
        elif kind == _STRING or kind == _STAMP:
            right = code == _BYTES
        else:
            right = code is not None and code != _TRUTH and code != _BYTES
        if not right:
            raise ValueError(f"'{self._names[at]}' does not take {datatype}")
        PyObject_GetBuffer(data, view, PyBUF_C_CONTIGUOUS)
        into.datatype = code
        into.data = <const char *>view.buf
        into.size = view.len
        if into.data == NULL:
            into.data = b""
        if code != _BYTES and view.len != count * <Py_ssize_t>_SIZES[datatype]:
            raise ValueError(f"'{self._names[at]}' has another number of values")
        return 0


cdef int _lowered(const char *at, Py_ssize_t size, void *sink) noexcept with gil:
    """A text in lower case, as Python has it; -1: no memory."""
    try:
        found = at[:size].decode("utf-8").lower().encode()
        return tg_sink(sink, PyBytes_AS_STRING(found), len(found))
    except MemoryError:
        return -1


cdef bint _utf8(str value, tg_text *text) except -1:
    """A view of a string's UTF-8; False: it has none (a lone surrogate)."""
    try:
        text.at = PyUnicode_AsUTF8AndSize(value, &text.size)
    except UnicodeEncodeError:
        text.size = -1
        return False
    return True


cdef int _stamp(value, double *number, bint empty_is_missing) except -2:
    """Seconds of a time; the reason it is refused, or -1."""
    cdef tg_text text
    if not isinstance(value, str) or not _utf8(value, &text):
        return TG_TIME
    if text.size == 0 and empty_is_missing:
        return -1
    return -1 if tg_seconds(text.at, text.size, number) else TG_TIME
