# cython: language_level=3, boundscheck=False, wraparound=False
"""The usual call of an upstream, without a coroutine; the specification is `attempts.run`.

Design:
a) A `Straight` is awaited in the place of that coroutine. It does at once what the coroutine would have done up to the
   answer, when nothing stands in the way: one replica that is well, a model that is quick, tensors in binary, a free
   connection. Else, before anything was done, it becomes the coroutine.
b) It is the future that it waits for as well: a `Driven` is resumed in the stack of `Line.data_received`, a task in a
   later turn of the loop.
c) Of what comes it takes a whole response with status 200 and a known head. With all else (an error, a refusal, a
   cancellation, an unknown head) it becomes the coroutine too, which goes on from what has begun (`plan.Begun`): what
   failures mean is written down there alone.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from gateway.upstream._counts_c cimport Circuit, Counted, Deposits, Judged, Known, Speed, Tally, monotonic
from gateway.upstream._line_c cimport Line, ResponseHead, Shelf, Waiter
from gateway.wire._by_heart_c cimport KnownRequest, formed, known_answer

from asyncio import CancelledError, InvalidStateError

from gateway.errors import TidegateError
from gateway.upstream.attempts import run
from gateway.upstream.http_client import EXACT_BELOW as _EXACT_BELOW
from gateway.upstream.http_client import JOINED as _JOINED
from gateway.upstream.http_head import header_block
from gateway.upstream.http_response import Response
from gateway.upstream.plan import Begun, CallPlan, Sending
from gateway.upstream.shm_calls import FROM as _FROM
from gateway.upstream.targets import model_target
from gateway.upstream.tries import leave

cdef double EXACT_BELOW = _EXACT_BELOW
cdef Py_ssize_t JOINED = _JOINED, FROM = _FROM, MOST_LANES = 1024

cdef enum State:
    NEW
    WAITING
    ANSWERED  # by what is usual
    RESPONDED  # by anything else
    FAILED
    CANCELLED
    HANDED_OVER  # to the coroutine
    ENDED


cdef inline bint held(object mapping, object key, object value) except -1:
    """Whether it is what a `dict` has under that key."""
    return PyDict_GetItemWithError(mapping, key) == <PyObject *>value


@cython.final
cdef class Lane:
    """What a model's calls find on the one replica of an upstream, looked up once."""

    cdef Counted replica, served
    cdef Circuit breaker
    cdef Tally outlier
    cdef Speed speed
    cdef Judged ejection
    cdef Deposits budget
    cdef Shelf pool
    cdef object latency, traffic, watch, shared
    cdef bytes start
    """Request line and `host` header."""
    cdef bint http_alone


cdef bint is_small(object call) except -1:
    """Whether copying its tensors costs nothing much."""
    cdef Py_ssize_t size = 0
    for tensor in call.inputs:
        if tensor.data is not None:
            size += len(tensor.data)
    return size <= JOINED


cdef class Calls:
    """Calls of an upstream."""

    cdef public object _only
    cdef public object resilience
    cdef dict lanes

    def known_signature(self, str model not None, str version not None=""):
        """What is known of a model without asking; None: nothing yet."""
        if self._only is None:
            return self._known_among(model, version)
        return (<Known?>self._only.signatures).look(model, version)

    def infer(self, call, *, str model not None, str version not None="", headers=(), double timeout, plan=None):
        """One inference by one of the replicas."""
        cdef Straight straight
        if self._only is None or "sequence_id" in call.parameters:
            sending = Sending(call, model, version, headers, CallPlan() if plan is None else plan)
            return self._infer(sending, timeout)
        straight = Straight.__new__(Straight)
        straight.upstream, straight.call, straight.model, straight.version = self, call, model, version
        straight.headers, straight.timeout = headers, timeout
        straight.plan = CallPlan() if plan is None else plan
        return straight

    cdef Lane lane(self, str model, str version):
        """None: there is none, or calls are hedged."""
        cdef Lane lane
        cdef tuple key = (model, version)
        if self.lanes is None:
            self.lanes = {}
        lane = <Lane>self.lanes.get(key)
        if lane is not None and lane.replica is self._only and held(lane.traffic, model, lane.served):
            return lane
        replica, shared = self._only, self.resilience
        served = replica.traffic.get(model)
        if shared.hedge is not None or served is None:
            return None
        lane = Lane.__new__(Lane)
        lane.replica, lane.served, lane.traffic = replica, served, replica.traffic
        lane.breaker, lane.speed, lane.latency = served.breaker, served.quickness, served.latency
        lane.outlier, lane.ejection, lane.budget = replica.outlier, shared.ejection, shared.budget
        lane.pool, lane.watch, lane.shared = replica._pool, replica._watch, replica._shared
        lane.http_alone = replica.grpc_address is None
        lane.start = replica._pool._start_lines("POST", model_target(model, version, "infer"))
        if len(self.lanes) >= MOST_LANES:
            self.lanes.clear()
        self.lanes[key] = lane
        return lane


@cython.final
cdef class Straight(Waiter):
    """One call on its way."""

    cdef Calls upstream
    cdef object call, plan, headers
    cdef str model, version
    cdef double timeout
    cdef State state
    # From when it was sent
    cdef Lane lane
    cdef Line line
    cdef bytes request
    cdef double began, sent_at
    cdef Py_ssize_t epoch, load
    # Who waits
    cdef bint blocking
    cdef object waiting, context
    # What came
    cdef ResponseHead head
    cdef bytes data
    cdef object came
    cdef object coroutine

    # -- as a coroutine --------------------------------------------------------------------------------------

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        """Go on until there is something to wait for, or to the answer."""
        if self.state == ANSWERED:
            answer = self.answer()
            if answer is not None:
                raise StopIteration(answer)
            return self.hand_over()
        if self.state == NEW:
            if self.send_off():
                self.state = WAITING
                self.blocking = True
                return self
            self.state = HANDED_OVER
            self.coroutine = run(
                self.upstream, Sending(self.call, self.model, self.version, self.headers, self.plan), self.timeout
            )
        if self.state == HANDED_OVER:
            return self.coroutine.send(None)
        if self.state == WAITING:
            raise RuntimeError("await wasn't used with future")
        if self.state == ENDED:
            raise RuntimeError("cannot reuse already awaited coroutine")
        return self.hand_over()

    def send(self, value):
        """As a coroutine's."""
        return self.__next__() if self.state != HANDED_OVER else self.coroutine.send(value)

    def throw(self, error, value=None, traceback=None):
        """As a coroutine's."""
        if isinstance(error, type):
            error = value if isinstance(value, BaseException) else error()
        if self.state == NEW or self.state == ENDED:
            self.state = ENDED
            raise error
        if self.state == WAITING:
            self.hand_over()
        elif self.state != HANDED_OVER:
            return self.hand_over()  # it raises what came
        return self.coroutine.throw(error)

    def close(self):
        """As a coroutine's."""
        if self.state == NEW or self.state == ENDED:
            self.state = ENDED
            return
        if self.state != HANDED_OVER:
            try:
                self.hand_over()
            except (StopIteration, TidegateError, CancelledError):
                return
        self.coroutine.close()

    # -- as a future -----------------------------------------------------------------------------------------

    def add_done_callback(self, callback, *, context=None):
        """Whoever waits: a `Driven`, which has no context, or a task."""
        self.waiting, self.context = callback, context

    @property
    def _asyncio_future_blocking(self):
        """Of the protocol between futures and tasks; None: to asyncio it is no future yet, but a coroutine."""
        return None if self.state == NEW else self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value):
        self.blocking = value

    def get_loop(self):
        """The loop of the connection."""
        if self.line is None:
            raise RuntimeError("it has not been awaited")
        return self.line._loop

    def done(self):
        """Whether something has come."""
        return self.state != WAITING

    def cancelled(self):
        """Whether it was cancelled before."""
        return self.state == CANCELLED

    def result(self):
        """None where something has come, for the task that is woken."""
        if self.state == FAILED:
            raise self.came
        if self.state == CANCELLED:
            raise CancelledError
        if self.state == WAITING:
            raise InvalidStateError("Result is not set.")

    def cancel(self, msg=None):
        """Whoever waits is resumed in a later turn of the loop."""
        if self.state != WAITING:
            return False
        self.state = CANCELLED
        self.wake_later()
        return True

    def set_result(self, response):
        """A response that is none of the usual, whole."""
        self.state, self.came = RESPONDED, response
        self.wake()

    def set_exception(self, error):
        """Whoever waits is resumed in a later turn of the loop, so that closing connections resume nobody."""
        self.state, self.came = FAILED, error
        self.wake_later()

    cdef int answered(self, ResponseHead head, bytes data) except -1:
        if self.state != WAITING:
            return 0  # cancelled, and not yet told
        self.state, self.head, self.data = ANSWERED, head, data
        self.wake()
        return 0

    cdef int wake(self) except -1:
        waiting = self.waiting
        if self.context is not None:
            return self.wake_later()
        self.waiting = None
        if waiting is not None:
            waiting(self)
        return 0

    cdef int wake_later(self) except -1:
        if self.waiting is not None:
            self.line._loop.call_soon(self.waiting, self, context=self.context)
        return 0

    # -- the call --------------------------------------------------------------------------------------------

    cdef bint send_off(self) except -1:
        """Send it; False, and nothing was done, where it is none of the usual."""
        cdef Lane lane
        cdef Shelf pool
        cdef Line line
        cdef bytes block, framed, request
        if self.timeout < EXACT_BELOW or self.plan.heeds_timeout:
            return False
        lane = self.upstream.lane(self.model, self.version)
        if lane is None or not lane.breaker.closed or lane.outlier.out or not (lane.speed.quick or lane.http_alone):
            return False
        pool = lane.pool
        if pool._closing or pool._loop is None or not pool._idle:
            return False
        server = lane.watch.capabilities
        if server is None or not server.binary:
            return False
        call = self.call
        known = call.known
        if isinstance(known, KnownRequest):
            if (<KnownRequest>known).size > JOINED:
                return False
        elif not is_small(call):
            return False
        # What is so small goes by shared memory only for the sake of large outputs.
        if lane.shared is not None and lane.shared._rooms and lane.shared.carries(call, self.model, self.version):
            return False
        try:
            block = header_block(self.headers)
            framed, tail = formed(call)
        except TidegateError:
            return False  # it will be raised where it is accounted for
        self.sent_at = pool._loop.time()
        line = pool.pop(self.sent_at)
        if line is None:
            return False
        self.request = request = b"".join((lane.start, block, framed, tail))
        self.began = monotonic()
        lane.budget.put(self.began)
        self.lane, self.line, self.epoch = lane, line, lane.breaker.epoch
        self.plan.replica = lane.replica
        lane.replica.in_flight += 1
        lane.served.in_flight += 1
        self.load = lane.served.in_flight
        if pool._ticker is None:
            pool._tick()
        line._future = self
        line._without_body = False
        line.started(PyBytes_GET_SIZE(request))
        line.deadline = self.sent_at + self.timeout
        line._transport.write(request)
        return True

    cdef object answer(self):
        """The answer, when all that is told of a success has been told; None: the response is none of the usual."""
        cdef Lane lane = self.lane
        cdef ResponseHead head = self.head
        cdef double now, seconds
        cdef Py_ssize_t at = PyBytes_GET_SIZE(head.head) + 4
        answer = None
        if head.status == 200 and (lane.shared is None or head.length < FROM):
            answer = known_answer(self.data, at, head.json_length)
        if answer is None:
            self.came = Response(head.status, head.headers, self.data[at:])
            return None
        self.state = ENDED
        lane.replica.in_flight -= 1
        lane.served.in_flight -= 1
        now = monotonic()
        # Of many in flight each takes long because of the others (Little's law), however they travel.
        seconds = (now - self.began) / self.load
        if seconds >= lane.speed.bound or not lane.speed.sure:
            lane.speed.observe(seconds)
        if lane.latency is not None:
            lane.latency.observe(now - self.began)
        if lane.breaker.epoch == self.epoch and lane.breaker.closed:
            lane.breaker.failures = 0
        else:
            leave(lane.replica, self.model, lane.breaker, self.epoch, now, failed=False)
        lane.outlier.requests += 1
        lane.outlier.consecutive = 0
        if lane.outlier.out or now >= lane.ejection.judge_at:
            lane.ejection.settle(lane.outlier, now)
        return answer

    cdef object hand_over(self):
        """Become the coroutine, which finds what has begun; what it waits for then."""
        cdef Lane lane = self.lane
        future = self.line._loop.create_future()
        if self.state == CANCELLED:
            future.cancel()
        elif self.state == FAILED:
            future.set_exception(self.came)
        elif self.state != WAITING:
            future.set_result(self.came)
        if self.line._future is self:
            self.line._future = future
        self.state, self.came, self.head, self.data = HANDED_OVER, None, None, None
        lane.replica.in_flight -= 1
        lane.served.in_flight -= 1
        begun = Begun(
            lane.replica, lane.served, self.epoch, self.began, self.line, future, self.request, self.sent_at
        )
        sending = Sending(self.call, self.model, self.version, self.headers, self.plan, begun)
        self.coroutine = run(self.upstream, sending, self.timeout)
        return self.coroutine.send(None)
