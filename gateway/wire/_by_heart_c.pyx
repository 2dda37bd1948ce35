# cython: language_level=3, boundscheck=False, wraparound=False
"""JSON heads that have been read before; the specification is `_by_heart_py.py`.

Design:
a) the head that came last is compared with before the others are asked for by their hash;
b) small tensors are copied: a few hundred bytes cost less than a view of them;
c) a request's head upstream is kept with the header lines that tell of it; of calls that came by another door it is
   found by what it is made of.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from gateway.wire import http_answer, http_request
from gateway.wire._by_heart_py import (
    LONGEST_HEAD as _LONGEST_HEAD,
    MOST_HEADS as _MOST_HEADS,
    _MOST_FORMS as _FORMS,
    _MOST_SEEN as _SEEN,
    _MOST_TENSORS as _TENSORS,
)
from gateway.wire.json_text import BINARY
from gateway.wire.tensors import SIZES
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputTensor

cdef Py_ssize_t LONGEST_HEAD = _LONGEST_HEAD, MOST_HEADS = _MOST_HEADS, MOST_TENSORS = _TENSORS
cdef Py_ssize_t MOST_FORMS = _FORMS, MOST_SEEN = _SEEN
cdef Py_ssize_t COPIED = 4096  # bytes of tensors up to which they are copied
cdef bytes KIND = BINARY.encode()

cdef set seen = set()
cdef dict requests = {}
cdef dict answers = {}
cdef dict made = {}


@cython.final
cdef class Place:
    """A tensor of a head, and where behind the head its bytes stand."""

    cdef object name, datatype, shape, parameters
    cdef Py_ssize_t at, end


cdef list places(list tensors):
    """Those of the tensors, which let go of the body."""
    cdef Place place
    cdef list found = []
    cdef Py_ssize_t at = 0
    for tensor in tensors:
        place = Place.__new__(Place)
        place.name, place.datatype, place.shape, place.parameters = (
            tensor.name, tensor.datatype, tensor.shape, tensor.parameters
        )
        place.at = at
        at += len(tensor.data)
        place.end = at
        tensor.data = None
        found.append(place)
    return found


cdef object behind(object body, Py_ssize_t at):
    """The bytes of all tensors: copied, or a view of them."""
    cdef Py_ssize_t size = len(body) - at
    if size > COPIED:
        return memoryview(body)[at:]
    if PyBytes_CheckExact(body):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(body) + at, size)
    return bytes(body[at:])


cdef list tensors_of(list found, object kind, object tail):
    """Tensors of such a head with these bytes."""
    cdef Place place
    cdef list made = []
    cdef Py_ssize_t size = len(tail)
    for place in found:
        if place.at == 0 and place.end == size:
            data = tail
        elif PyBytes_CheckExact(tail):
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(tail) + place.at, place.end - place.at)
        else:
            data = tail[place.at:place.end]
        made.append(kind(place.name, place.datatype, place.shape, place.parameters, data))
    return made


cdef class KnownRequest:
    """A request's head."""

    def __init__(self, call, Py_ssize_t header_length, Py_ssize_t size):
        self.call, self.size, self.parameters = call, size, call.parameters
        self._fixed = all([SIZES.get(tensor.datatype) for tensor in call.inputs])
        self._inputs = places(call.inputs)

    cdef object make(self, object body, Py_ssize_t header_length, object model, object version):
        """The call with this body."""
        tail = behind(body, header_length)
        like = self.call
        inputs = tensors_of(self._inputs, InputTensor, tail)
        return InferCall(
            model, version, like.id, self.parameters, inputs, like.outputs, like.binary_data_output, False, self, tail
        )

    def fits(self, signature):
        """Whether a call of this head was found to fit that very signature, and no tensor needs another look."""
        return self._fits is signature

    def found_to_fit(self, signature):
        """A call of this head was. BYTES are judged each time: their size says nothing of their elements."""
        if self._fixed:
            self._fits = signature

    cdef bytes sent(self, object call):
        """The head that goes to a server which takes binary tensors and is told no timeout."""
        if self._sent is None:
            self._sent = bytes(http_request.encode_request(call)[1][0])
        return self._sent

    cdef bytes framed(self, object call):
        """The same behind its header lines, the last ones, and the empty line."""
        if self._framed is None:
            self._framed = framed(self.sent(call), len(call.tail), True)
        return self._framed


@cython.final
cdef class KnownAnswer:
    """An answer's head."""

    cdef bytes head
    cdef Py_ssize_t size
    """Of the whole body."""
    cdef object name, version, id, parameters
    cdef list _outputs
    cdef dict _written

    cdef object make(self, object tail):
        """The answer with these tensors."""
        outputs = tensors_of(self._outputs, OutputTensor, tail)
        return InferAnswer(self.name, self.version, self.id, self.parameters, outputs, self, tail)

    cdef tuple wrote(self, tuple key, object answer, bytes head):
        """It was written so, with all tensors behind it as the model server sent them."""
        if len(self._written) >= MOST_FORMS:
            self._written.clear()
        lines = b"content-type: %b\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n" % (
            KIND, len(head), len(head) + len(answer.tail)
        )
        self._written[key] = found = (lines, head)
        return found


cdef KnownRequest last_request = None
cdef KnownAnswer last_answer = None


cdef KnownRequest learn_request(bytes head, object call, Py_ssize_t size):
    """Keep what was made of a request's head, with a body of `size` bytes."""
    cdef KnownRequest known = KnownRequest(call, len(head), size)
    known.head = head
    if len(requests) >= MOST_HEADS:
        requests.clear()
    requests[head] = known
    return known


cdef KnownAnswer learn_answer(bytes head, object answer, Py_ssize_t size):
    """The same of an answer's."""
    cdef KnownAnswer known = KnownAnswer.__new__(KnownAnswer)
    known.head, known.size, known._written = head, size, {}
    known.name, known.version, known.id, known.parameters = (
        answer.model_name, answer.model_version, answer.id, answer.parameters
    )
    known._outputs = places(answer.outputs)
    if len(answers) >= MOST_HEADS:
        answers.clear()
    answers[head] = known
    return known


cdef bint again(bytes head) except -1:
    """Whether this head was seen before (or one of the same hash, which costs nothing but the learning)."""
    mark = hash(head)
    if mark in seen:
        return True
    if len(seen) >= MOST_SEEN:
        seen.clear()
    seen.add(mark)
    return False


cdef bint is_head(bytes head, const char *at, Py_ssize_t size) noexcept:
    return PyBytes_GET_SIZE(head) == size and not memcmp(PyBytes_AS_STRING(head), at, size)


cdef bint all_in_binary(list tensors) except -1:
    for tensor in tensors:
        if tensor.data is None:
            return False
    return True


def decode_request(body, header_length, model, version, Py_ssize_t tensors):
    """As `http_request.decode_request`, by heart where it can be."""
    global last_request
    cdef KnownRequest known
    cdef bytes head
    cdef Py_buffer view
    cdef Py_ssize_t length
    if header_length is None or header_length <= 0 or header_length > LONGEST_HEAD:
        return http_request.decode_request(body, header_length, model, version, tensors)
    length = header_length
    known = None
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        if length > view.len:
            length = view.len
        if last_request is not None and is_head(last_request.head, <const char *>view.buf, length):
            known, head = last_request, last_request.head
        else:
            head = PyBytes_FromStringAndSize(<const char *>view.buf, length)
            known = <KnownRequest>requests.get(head)
        length = view.len
    finally:
        PyBuffer_Release(&view)
    if known is not None and known.size == length >= header_length and tensors >= MOST_TENSORS:
        last_request = known
        return known.make(body, header_length, model, version)
    call = http_request.decode_request(body, header_length, model, version, tensors)
    if (
        not call.raw
        and call.inputs
        and len(call.inputs) + len(call.outputs) <= MOST_TENSORS
        and all_in_binary(call.inputs)
        and again(head)
    ):
        return learn_request(head, call, length).make(body, header_length, model, version)
    return call


def encode_request(call, *, bint want_binary, bint binary_input, timeout):
    """As `http_request.encode_request`, by heart where it can be."""
    cdef bytes head
    known = call.known
    if (
        isinstance(known, KnownRequest)
        and (<KnownRequest>known).parameters is call.parameters
        and want_binary
        and binary_input
        and not timeout
    ):
        head = (<KnownRequest>known).sent(call)
        return PyBytes_GET_SIZE(head), [head, call.tail]
    return http_request.encode_request(call, want_binary=want_binary, binary_input=binary_input, timeout=timeout)


cdef tuple contents(object call):
    """What a call's head is made of; None: of more than names, types, shapes and sizes."""
    cdef list found = [len(call.inputs)]
    if call.id or call.parameters:
        return None
    for tensor in call.inputs:
        data = tensor.data
        if data is None or tensor.parameters or tensor.shm is not None:
            return None
        shape = tensor.shape
        found += (tensor.name, tensor.datatype, len(data), len(shape))
        found += shape
    for output in call.outputs:
        if output.parameters or output.classification or output.shm is not None:
            return None
        found.append(output.name)
    return tuple(found)


cdef tuple formed(object call):
    """The last header lines of a call's request with its JSON head, and the bytes of all tensors.

    To a server that takes binary tensors and is told no timeout.
    """
    cdef tuple key
    cdef bytes head
    known = call.known
    if isinstance(known, KnownRequest) and (<KnownRequest>known).parameters is call.parameters:
        return (<KnownRequest>known).framed(call), call.tail
    key = contents(call)
    head = <bytes>made.get(key)
    if head is not None:
        if len(call.inputs) == 1:
            return head, call.inputs[0].data
        return head, b"".join([tensor.data for tensor in call.inputs])
    length, parts = http_request.encode_request(call)
    tail = b"".join(parts[1:])
    head = framed(parts[0], len(tail), length is not None)
    if key is not None and len(head) <= LONGEST_HEAD and len(call.inputs) <= MOST_TENSORS:
        if len(made) >= MOST_HEADS:
            made.clear()
        made[key] = head
    return head, tail


cdef bytes framed(bytes head, Py_ssize_t size, bint binary):
    """A JSON head before so many bytes, behind the header lines that tell of it and the empty line."""
    if not binary:
        return b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head)
    return (
        b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(head), len(head) + size, head)
    )


cdef object known_answer(bytes data, Py_ssize_t at, Py_ssize_t header_length):
    """The answer in the body that begins at `at`; None: its head is not known."""
    global last_answer
    cdef KnownAnswer known = last_answer
    cdef const char *body = PyBytes_AS_STRING(data) + at
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - at
    if header_length <= 0 or header_length > size or header_length > LONGEST_HEAD:
        return None
    if known is None or not is_head(known.head, body, header_length):
        known = <KnownAnswer>answers.get(PyBytes_FromStringAndSize(body, header_length))
        if known is None:
            return None
    if known.size != size:
        return None
    last_answer = known
    return known.make(behind(data, at + header_length))


def decode_response(body, header_length):
    """As `http_answer.decode_response`, by heart where it can be."""
    cdef KnownAnswer known
    if header_length is None or header_length <= 0 or header_length > LONGEST_HEAD:
        return http_answer.decode_response(body, header_length)
    if PyBytes_CheckExact(body):
        answer = known_answer(body, 0, header_length)
        if answer is not None:
            return answer
    head = bytes(body[:header_length])
    known = <KnownAnswer>answers.get(head)
    if known is not None and known.size == len(body) >= header_length:
        return known.make(behind(body, header_length))
    answer = http_answer.decode_response(body, header_length)
    if len(answer.outputs) <= MOST_TENSORS and all_in_binary(answer.outputs) and again(head):
        return learn_answer(head, answer, len(body)).make(behind(body, header_length))
    return answer


def written(answer, call):
    """HTTP header lines and the JSON head of a client's answer, with `answer.tail` as its tensors."""
    cdef KnownAnswer known
    cdef tuple key, found
    if not isinstance(answer.known, KnownAnswer) or call.known is None:
        return None
    known = <KnownAnswer>answer.known
    key = (call.known, answer.model_name, answer.model_version)
    found = <tuple>known._written.get(key)
    if found is not None:
        return found
    length, _, parts = http_answer.encode_response(answer, call)
    if length is None or sum([len(part) for part in parts[1:]]) != len(answer.tail):
        return None
    return known.wrote(key, answer, bytes(parts[0]))
