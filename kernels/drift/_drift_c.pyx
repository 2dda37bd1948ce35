# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The drift shard in C; the specification is `_drift_py.py`.

Design:
a) C helpers in `drift.h`: one value to its cell and its moments. The 15 edges (and one that pads them) are compared
   without a branch, four at once where the machine has AVX2 (`target_clones`); a search that branches costs 28 ns once
   its branches are not the same in each row;
b) one loop for each datatype, rows outer: a request has one row, and its columns lie side by side;
c) categories by a hash table of the reference's own names, which callers cannot fill;
d) what a rule says of a value, in the same pass: a column without one pays for a look at a pointer. `judge` is the same
   before a call is served, for those whose rules refuse;
e) the class: one call a request, which judges all tensors before the first value is counted. Without the GIL only
   where the values are many enough to pay for it.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint8_t, uint64_t

from kernels.drift import _plan, _rules

cdef extern from "drift.h":
    ctypedef struct tg_name:
        int32_t cell
    ctypedef struct tg_table:
        Py_ssize_t count
        double *numbers
        int32_t *cells
    ctypedef struct tg_names:
        tg_name *slots
        uint64_t mask
        tg_table[4] tables
        int32_t[2] truth
        int fold
    ctypedef struct tg_rule
    ctypedef struct tg_column:
        uint64_t *cells
        double centre
        double scale
        tg_names *names
        const tg_rule *rule
        int32_t kind
        int32_t count
    ctypedef struct tg_rule:
        uint64_t *words
        uint8_t *sketch
        double[4] low
        double[4] high
        tg_column among
        int32_t required
        int32_t typed
    ctypedef struct tg_shard:
        tg_column *columns
        double *edges[4]
    ctypedef void (*tg_loop)(
        const tg_shard *, const int32_t *, Py_ssize_t, Py_ssize_t, const char *
    ) noexcept nogil
    const tg_loop *tg_loops
    void tg_learn(tg_names *, const char *, size_t, int32_t) noexcept
    Py_ssize_t tg_elements(const char *, Py_ssize_t) noexcept
    Py_ssize_t tg_judge(
        const tg_shard *, const int32_t *, Py_ssize_t, Py_ssize_t, const char *, int, int *
    ) noexcept
    void tg_begin(uint64_t *) noexcept
    void tg_end(uint64_t *) noexcept
    void tg_snapshot(const uint64_t *, Py_ssize_t, char *) noexcept nogil

cdef enum:
    _BINS = 16
    _ROWS = 1
    _CALLS = 2
    _UNSEEN = 3
    _UNREAD = 2  # of a block of rules, as the three below
    _MISSING = 0
    _SCHEMA = 1
    _REFUSED = 4
    _BYTES = 13
    _MANY = 4096  # values from which on letting go of the GIL (some 100 ns) is nothing
    _AT_ONCE = 16  # tensors whose buffers lie on the stack

cdef dict _CODES = {name: code for code, name in enumerate(_plan.DATATYPES)}
cdef int[13] _SIZES
_SIZES[:] = [1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2]

cdef struct Found:
    Py_buffer view
    const int32_t *columns
    Py_ssize_t width
    int code


def snapshot(buffer):
    cdef Py_buffer view
    cdef char *into
    PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS)
    try:
        if view.len < 8:
            raise ValueError("no block")
        found = PyBytes_FromStringAndSize(NULL, view.len)
        into = PyBytes_AS_STRING(found)
        with nogil:
            tg_snapshot(<const uint64_t *>view.buf, view.len, into)
        return found
    finally:
        PyBuffer_Release(&view)


@cython.final
cdef class _Wide:
    """The columns of one tensor."""

    cdef int32_t *columns
    cdef Py_ssize_t width

    def __cinit__(self, columns):
        self.width = len(columns)
        self.columns = <int32_t *>PyMem_Malloc(max(self.width, 1) * sizeof(int32_t))
        if not self.columns:
            raise MemoryError
        for at in range(self.width):
            self.columns[at] = columns[at]

    cdef tuple numbers(self):
        return tuple([self.columns[at] for at in range(self.width)])

    def __dealloc__(self):
        PyMem_Free(self.columns)


@cython.final
cdef class Shard:
    cdef Py_buffer _buffer
    cdef uint64_t *_block
    cdef Py_ssize_t _count
    cdef tg_shard _shard
    cdef list _kept  # the names' texts, which the tables point into
    cdef dict _tensors
    cdef dict _outputs
    cdef Py_buffer _broken
    cdef uint64_t *_words  # of the block of rules; NULL: there are none
    cdef tg_rule *_rules
    cdef Py_ssize_t _ruled
    cdef _Wide _expected  # columns of inputs that have a rule
    cdef uint64_t *_stamps  # by column, the call that had it
    cdef uint64_t _turn

    def __cinit__(self, buffer, columns, tensors, outputs=None, rules=None, broken=None):
        cdef Py_ssize_t at
        cdef int rounding
        PyObject_GetBuffer(buffer, &self._buffer, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        columns = tuple(columns)
        places = _plan.places(columns)
        if self._buffer.len != places[len(columns)] * 8:
            raise ValueError("the buffer is of other columns")
        self._block = <uint64_t *>self._buffer.buf
        self._count = len(columns)
        self._kept = []
        self._shard.columns = <tg_column *>PyMem_Calloc(self._count, sizeof(tg_column))
        if not self._shard.columns:
            raise MemoryError
        for rounding in range(4):
            self._shard.edges[rounding] = <double *>PyMem_Malloc(self._count * _BINS * sizeof(double))
            if not self._shard.edges[rounding]:
                raise MemoryError
        for at in range(self._count):
            self._add(at, columns[at], places[at])
        self._tensors = {name: self._wide(wide) for name, wide in tensors.items()}
        self._outputs = {name: self._wide(wide) for name, wide in (outputs or {}).items()}
        if rules:
            self._hold_to(columns, rules, broken)
        self._block[0] += self._block[0] & 1

    cdef object _hold_to(self, columns, rules, broken):
        cdef Py_ssize_t at
        cdef int rounding
        cdef tg_rule *into
        if not all(0 <= index < self._count for index in rules):
            raise ValueError("a rule is of no column")
        places, words = _rules.rule_places(rules)
        if broken is None:
            raise ValueError("rules need a buffer")
        PyObject_GetBuffer(broken, &self._broken, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        if self._broken.len != words * 8:
            raise ValueError("the buffer is of other rules")
        self._rules = <tg_rule *>PyMem_Calloc(len(places), sizeof(tg_rule))
        self._stamps = <uint64_t *>PyMem_Calloc(self._count, sizeof(uint64_t))
        if not self._rules or not self._stamps:
            raise MemoryError
        self._ruled = len(places)
        known = {index for wide in self._tensors.values() for index in (<_Wide>wide).numbers()}
        self._expected = _Wide([index for index in places if index in known])
        for at, (index, place) in enumerate(places.items()):
            rule = rules[index]
            into = self._rules + at
            into.words = <uint64_t *>self._broken.buf + <Py_ssize_t>place
            if rule.distinct:
                into.sketch = <uint8_t *>self._broken.buf + <Py_ssize_t>_rules.registers_at(place)
            for rounding in range(4):
                into.low[rounding] = _plan.rounded(rule.low, rounding)
                into.high[rounding] = _plan.rounded(rule.high, rounding)
            into.required, into.typed = bool(rule.required), bool(rule.typed)
            if rule.among is not None:
                into.among.kind, into.among.count = 1, rule.among.cells
                into.among.names = <tg_names *>PyMem_Calloc(1, sizeof(tg_names))
                if not into.among.names:
                    raise MemoryError
                self._learn(into.among.names, rule.among)
            self._shard.columns[<Py_ssize_t>index].rule = into
        self._words = <uint64_t *>self._broken.buf
        self._words[0] += self._words[0] & 1

    cdef _Wide _wide(self, wide):
        if not wide or not all(0 <= one < self._count for one in wide):
            raise ValueError("a tensor has no columns, or some that are not there")
        return _Wide(tuple(wide))

    cdef object _add(self, Py_ssize_t at, object column, Py_ssize_t place):
        cdef tg_column *into = self._shard.columns + at
        cdef int rounding
        into.cells = self._block + place
        into.count = column.cells
        for rounding in range(4):
            for edge, value in enumerate(_plan.edge_table(column, rounding)):
                self._shard.edges[rounding][at * _BINS + <Py_ssize_t>edge] = value
            self._shard.edges[rounding][at * _BINS + _BINS - 1] = float("inf")
        if isinstance(column, _plan.Numbers):
            into.kind = 0
            into.centre, into.scale = column.centre, column.scale
        elif isinstance(column, _plan.Names):
            into.kind = 1
            into.names = <tg_names *>PyMem_Calloc(1, sizeof(tg_names))
            if not into.names:
                raise MemoryError
            self._learn(into.names, column)
        else:
            into.kind = 2

    cdef object _learn(self, tg_names *into, object column):
        cdef int rounding
        cdef uint64_t slots = 4
        cdef Py_ssize_t at
        named = _plan.name_table(column)
        while slots < 2 * <uint64_t>len(named) + 2:
            slots *= 2
        into.mask = slots - 1
        into.slots = <tg_name *>PyMem_Calloc(slots, sizeof(tg_name))
        if not into.slots:
            raise MemoryError
        for at in range(<Py_ssize_t>slots):
            into.slots[at].cell = -1
        for text, cell in named.items():
            self._kept.append(text)
            tg_learn(into, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), cell)
        into.truth[0], into.truth[1] = _plan.truth_cells(column)
        into.fold = bool(column.fold)
        for rounding in range(4):
            numbers, cells = _plan.number_table(column, rounding)
            into.tables[rounding].numbers = <double *>PyMem_Malloc((len(numbers) + 1) * sizeof(double))
            into.tables[rounding].cells = <int32_t *>PyMem_Malloc((len(numbers) + 1) * sizeof(int32_t))
            if not into.tables[rounding].numbers or not into.tables[rounding].cells:
                raise MemoryError
            for at in range(<Py_ssize_t>len(numbers)):
                into.tables[rounding].numbers[at] = numbers[at]
                into.tables[rounding].cells[at] = cells[at]
            into.tables[rounding].count = len(numbers)

    def __dealloc__(self):
        cdef Py_ssize_t at
        cdef int rounding
        for at in range(self._count if self._shard.columns else 0):
            _forget(self._shard.columns[at].names)
        for at in range(self._ruled):
            _forget(self._rules[at].among.names)
        PyMem_Free(self._rules)
        PyMem_Free(self._stamps)
        PyMem_Free(self._shard.columns)
        for rounding in range(4):
            PyMem_Free(self._shard.edges[rounding])
        PyBuffer_Release(&self._broken)  # does nothing where there is none
        PyBuffer_Release(&self._buffer)

    def count(self, inputs, outputs=()):
        cdef Found[_AT_ONCE] some
        cdef Found *found = some
        cdef Py_ssize_t room = len(inputs) + len(outputs), n = 0, rows = -1
        cdef _Wide wide
        if room > _AT_ONCE:
            found = <Found *>PyMem_Malloc(room * sizeof(Found))
            if not found:
                raise MemoryError
        try:
            if self._asked(inputs, found, &n, &rows) >= 0:
                self._block[_UNSEEN] += 1
                return -1
            for tensor in outputs:
                wide = self._outputs.get(tensor.name)
                if wide is None:
                    continue
                data = tensor.data
                code = _CODES.get(tensor.datatype)
                if data is None or code is None:
                    continue
                found[n].columns, found[n].width, found[n].code = wide.columns, wide.width, code
                PyObject_GetBuffer(data, &found[n].view, PyBUF_C_CONTIGUOUS)
                n += 1
                if _rows(&found[n - 1], tensor.shape) != rows:
                    n -= 1
                    PyBuffer_Release(&found[n].view)
            self._counted(found, n, rows)
            return rows
        finally:
            _release(found, n)
            if found != some:
                PyMem_Free(found)

    def judge(self, inputs):
        cdef Found *found
        cdef Py_ssize_t n = 0, rows = -1, at, element, unseen
        cdef int broken = 0
        cdef const int32_t *column
        cdef const tg_rule *rule
        if not self._words:
            return None
        found = <Found *>PyMem_Malloc(max(len(inputs), 1) * sizeof(Found))
        if not found:
            raise MemoryError
        try:
            unseen = self._asked(inputs, found, &n, &rows)
            if unseen >= 0:
                self._refuse(self._words + _UNREAD)
                return -1, unseen, -1
            self._mark(found, n)
            for at in range(self._expected.width if rows else 0):
                column = self._expected.columns + at
                rule = self._shard.columns[column[0]].rule
                if self._stamps[column[0]] != self._turn and (rule.typed or rule.required):
                    broken = _SCHEMA if rule.typed else _MISSING
                    self._refuse(rule.words + _REFUSED + broken)
                    return column[0], 0, broken
            for at in range(n):
                element = tg_judge(
                    &self._shard, found[at].columns, found[at].width, rows, <const char *>found[at].view.buf,
                    found[at].code, &broken
                )
                if element >= 0:
                    column = found[at].columns + element % found[at].width
                    self._refuse(self._shard.columns[column[0]].rule.words + _REFUSED + broken)
                    return column[0], element // found[at].width, broken
            return None
        finally:
            _release(found, n)
            PyMem_Free(found)

    cdef Py_ssize_t _asked(self, object inputs, Found *found, Py_ssize_t *n, Py_ssize_t *rows) except? -2:
        """As `_drift_py.Shard._asked`: the position of a tensor that cannot be counted, or -1."""
        cdef Py_ssize_t size = len(inputs), position = -1, mine
        cdef _Wide wide
        for tensor in inputs:
            position += 1
            name = tensor.name
            wide = self._tensors.get(name) if name else None
            if wide is None and size == 1:
                wide = self._tensors.get("")
            if wide is None:
                continue
            data = tensor.data
            code = _CODES.get(tensor.datatype)
            if data is None or code is None:
                return position
            found[n[0]].columns, found[n[0]].width, found[n[0]].code = wide.columns, wide.width, code
            PyObject_GetBuffer(data, &found[n[0]].view, PyBUF_C_CONTIGUOUS)
            n[0] += 1
            mine = _rows(&found[n[0] - 1], tensor.shape)
            if mine < 0 or (n[0] > 1 and mine != rows[0]):
                return position
            rows[0] = mine
        if not n[0]:
            rows[0] = _first(inputs)
        return -1

    cdef void _refuse(self, uint64_t *word) noexcept:
        tg_begin(self._words)
        word[0] += 1
        tg_end(self._words)

    cdef void _mark(self, Found *found, Py_ssize_t n) noexcept:
        """Which columns a call has."""
        cdef Py_ssize_t at, f
        self._turn += 1
        for at in range(n):
            for f in range(found[at].width):
                self._stamps[found[at].columns[f]] = self._turn

    cdef void _counted(self, Found *found, Py_ssize_t n, Py_ssize_t rows) noexcept:
        cdef Py_ssize_t at
        cdef Found *one
        cdef const tg_rule *rule
        if self._words:
            self._mark(found, n)
            tg_begin(self._words)
            self._words[_ROWS] += <uint64_t>rows
            for at in range(self._expected.width):
                rule = self._shard.columns[self._expected.columns[at]].rule
                if rule.typed and self._stamps[self._expected.columns[at]] != self._turn:
                    rule.words[_SCHEMA] += <uint64_t>rows
        tg_begin(self._block)
        self._block[_ROWS] += <uint64_t>rows
        self._block[_CALLS] += 1
        for at in range(n):
            one = found + at
            if rows * one.width < _MANY:
                tg_loops[one.code](&self._shard, one.columns, one.width, rows, <const char *>one.view.buf)
            else:
                with nogil:
                    tg_loops[one.code](&self._shard, one.columns, one.width, rows, <const char *>one.view.buf)
        tg_end(self._block)
        if self._words:
            tg_end(self._words)


cdef void _forget(tg_names *names) noexcept:
    cdef int rounding
    if names:
        PyMem_Free(names.slots)
        for rounding in range(4):
            PyMem_Free(names.tables[rounding].numbers)
            PyMem_Free(names.tables[rounding].cells)
        PyMem_Free(names)


cdef void _release(Found *found, Py_ssize_t n) noexcept:
    while n:
        n -= 1
        PyBuffer_Release(&found[n].view)


cdef Py_ssize_t _rows(Found *found, object shape) except? -2:
    """As `_drift_py._rows`."""
    cdef Py_ssize_t elements, first = shape[0] if shape else 1
    if found.code == _BYTES:
        elements = tg_elements(<const char *>found.view.buf, found.view.len)
    else:
        elements = found.view.len // _SIZES[found.code]
        if elements * _SIZES[found.code] != found.view.len:
            return -1
    if 0 <= first <= elements and elements == first * found.width:
        return first
    return 1 if len(shape) == 1 and elements == found.width else -1


cdef Py_ssize_t _first(object inputs) except? -2:
    """As `_drift_py._first`."""
    if not inputs or not inputs[0].shape:
        return 1
    shape = inputs[0].shape
    return max(0, <Py_ssize_t>shape[0]) if all(shape) else 0
