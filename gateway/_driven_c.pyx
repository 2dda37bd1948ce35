# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`gateway.driven` in C; the specification is `_driven_py.py`.

Design:
a) `Direct` is a future of its own, not a subclass of asyncio's: all that asyncio asks of one is here (docs.python.org,
   "Extending asyncio"), and what it does most, to be awaited by a `Driven` and given a result, needs neither a list of
   callbacks nor an iterator;
b) what an `await` gives and takes goes by `am_send` (CPython's PyIter_Send), for which no StopIteration is made;
c) `Driven` sends and is resumed by the same protocol.
"""

cimport cython
from cpython.exc cimport PyErr_SetObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    int PyIter_Send(object iterator, object value, PyObject **result) except -1
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **) noexcept

cdef extern from *:
    """
    static inline void tg_set_send(PyObject *type, sendfunc send) {
        ((PyTypeObject *)type)->tp_as_async->am_send = send;
    }
    """
    void tg_set_send(object type, sendfunc send)

# A `Driven` is in the midst of a step.
cdef bint _running = False

cdef object _CancelledError = asyncio.CancelledError
cdef object _InvalidStateError = asyncio.InvalidStateError

cdef enum:
    PENDING
    ANSWERED
    FAILED
    CANCELLED


@cython.final
@cython.freelist(64)
cdef class Direct:
    """A future that resumes a `Driven` at once; for everyone else it is a future."""

    cdef object loop
    cdef Driven driven
    cdef object value
    """The result, the exception, or the message of a cancellation."""
    cdef int state
    cdef list callbacks
    """(callback, context); None: there are none."""
    cdef public bint _asyncio_future_blocking

    def get_loop(self):
        """The loop that it belongs to."""
        return self.loop

    def done(self):
        """Whether it has an end."""
        return self.state != PENDING

    def cancelled(self):
        """Whether that is a cancellation."""
        return self.state == CANCELLED

    def result(self):
        """What it was set to; raises what was set as an exception, or that there is nothing yet."""
        if self.state == ANSWERED:
            return self.value
        raise self.failure()

    def exception(self):
        """The exception that was set; None: it has a result. Raises that it was cancelled, or has no end yet."""
        if self.state == ANSWERED:
            return None
        if self.state == FAILED:
            return self.value
        raise self.failure()

    cdef object failure(self):
        if self.state == FAILED:
            return self.value
        if self.state == CANCELLED:
            return _CancelledError() if self.value is None else _CancelledError(self.value)
        return _InvalidStateError("Result is not set.")

    def set_result(self, result):
        """The result; resumes who waits."""
        self.end(ANSWERED, result)
        if self.driven is not None:
            self.driven.step(None)

    def set_exception(self, exception):
        """The failure; resumes who waits in a later turn of the loop."""
        if isinstance(exception, type):
            exception = exception()
        if isinstance(exception, StopIteration):
            raise TypeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        self.end(FAILED, exception)
        if self.driven is not None:
            self.loop.call_soon(self.driven.resume, self)

    def cancel(self, msg=None):
        """As a future's; resumes who waits in a later turn of the loop."""
        if self.state != PENDING:
            return False
        self.end(CANCELLED, msg)
        if self.driven is not None:
            self.loop.call_soon(self.driven.resume, self)
        return True

    cdef int end(self, int state, object value) except -1:
        if self.state != PENDING:
            raise _InvalidStateError("invalid state")
        self.state, self.value = state, value
        if self.callbacks is not None:
            callbacks, self.callbacks = self.callbacks, None
            for callback, context in callbacks:
                self.loop.call_soon(callback, self, context=context)
        return 0

    def add_done_callback(self, callback, *, context=None):
        """Call it in a later turn of the loop, once there is an end."""
        if context is None:
            context = contextvars.copy_context()
        if self.state != PENDING:
            self.loop.call_soon(callback, self, context=context)
        elif self.callbacks is None:
            self.callbacks = [(callback, context)]
        else:
            self.callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Do not; how often it was to be called."""
        if self.callbacks is None:
            return 0
        kept = [each for each in self.callbacks if each[0] != callback]
        removed = len(self.callbacks) - len(kept)
        self.callbacks = kept or None
        return removed

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.state == PENDING:
            self._asyncio_future_blocking = True
            return self
        raise StopIteration(self.result())


# A slot of the type, called by the interpreter: what is raised is set as its error and told by PYGEN_ERROR.
cdef PySendResult _send(PyObject *it, PyObject *sent, PyObject **result) noexcept:
    """What `await` asks for: the future itself while it has no end, then its result."""
    cdef Direct self = <Direct>it
    if self.state == PENDING:
        self._asyncio_future_blocking = True
        Py_INCREF(self)
        result[0] = it
        return PYGEN_NEXT
    if self.state == ANSWERED:
        Py_INCREF(self.value)
        result[0] = <PyObject *>self.value
        return PYGEN_RETURN
    result[0] = NULL
    _raised(self)
    return PYGEN_ERROR


# Leaves an error set on purpose, which Cython would otherwise take for its own and report.
cdef int _raised(Direct self) noexcept:
    """Leave its failure as the error that is set."""
    error = self.failure()
    PyErr_SetObject(type(error), error)
    return 0


tg_set_send(Direct, _send)


def answer_of(loop):
    """What the running coroutine is going to wait for: a `Direct` within a `Driven`, else a future."""
    cdef Direct made
    if not _running:
        return loop.create_future()
    made = Direct.__new__(Direct)
    made.loop = loop
    return made


@cython.final
@cython.freelist(64)
cdef class Driven:
    """Runs a coroutine to its end.

    Args:
        loop: that runs now.
        coroutine: MUST not have begun.
        done: called once with result and error when it has ended; the error is None when there is a result.
    """

    cdef object __weakref__
    cdef object loop
    cdef object coroutine
    cdef object done
    cdef object waits_for
    cdef bint to_cancel
    """At the next step."""
    cdef int cancels

    def __init__(self, loop, coroutine, done):
        self.loop = loop
        self.coroutine = coroutine
        self.done = done

    def start(self):
        """Run until it has to wait, or to its end."""
        self.step(None)

    def resume(self, future):
        """What it waits for is done."""
        if future is self.waits_for:
            self.step(None)

    def cancel(self, msg=None):
        """As `asyncio.Task.cancel`: CancelledError is raised where it waits, in a later turn of the loop."""
        self.cancels += 1
        waits_for = self.waits_for
        if waits_for is None or not waits_for.cancel(msg):
            self.to_cancel = True
        return True

    def cancelling(self):
        """Requests to cancel that nobody took back."""
        return self.cancels

    def uncancel(self):
        """Takes one back; returns what is left."""
        if self.cancels:
            self.cancels -= 1
        return self.cancels

    cdef int step(self, error) except -1:
        global _running
        cdef PyObject *got = NULL
        cdef int status = PYGEN_NEXT
        self.waits_for = None
        if self.to_cancel:
            self.to_cancel = False
            error = _CancelledError()
        failed = None
        # What may run a coroutine of its own is a task to asyncio (docs.python.org, "Extending asyncio").
        _enter_task(self.loop, self)
        _running = True
        try:
            if error is None:
                status = PyIter_Send(self.coroutine, None, &got)
                result = <object>got
                Py_DECREF(result)  # the one that came with it
            else:
                result = self.coroutine.throw(error)
        except StopIteration as stop:  # of `throw` alone
            status, result = PYGEN_RETURN, stop.value
        except BaseException as raised:
            status, result, failed = PYGEN_ERROR, None, raised
        _running = False
        _leave_task(self.loop, self)
        if status == PYGEN_NEXT:
            self.wait(result)
        else:
            self.done(result, failed)
        return 0

    cdef int wait(self, waits_for) except -1:
        """It has yielded a future, or None to let others run."""
        cdef Direct direct
        if waits_for is None:
            self.loop.call_soon(self._go_on)
            return 0
        self.waits_for = waits_for
        if type(waits_for) is Direct:
            direct = <Direct>waits_for
            direct._asyncio_future_blocking = False
            direct.driven = self
        else:
            waits_for._asyncio_future_blocking = False  # the protocol between futures and tasks
            waits_for.add_done_callback(self.resume)
        if self.to_cancel and waits_for.cancel():
            self.to_cancel = False
        return 0

    def _go_on(self):
        self.step(None)
