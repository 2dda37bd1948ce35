# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The usual `ModelInferRequest` and `ModelStreamInferResponse`, read without protobuf's objects.

What is usual: raw contents for every tensor, parameters of the request or answer alone, fields that OIP has in the wire
types that it gives them. For everything else, whether it is right or wrong, the answer is None, and the caller takes
protobuf's way (`wire.grpc`), which is the specification: where these functions answer, they answer as it does.

Design: one pass over the message with a cursor that never passes its end; Python's objects are made as the pass comes
to them. `Unusual` ends it, from wherever it is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from gateway.wire._infer_tags cimport (
    BOOL_PARAM,
    DATATYPE,
    DOUBLE_PARAM,
    ID,
    INFER_RESPONSE,
    INPUTS,
    INT64_PARAM,
    KEY,
    MODEL_NAME,
    MODEL_VERSION,
    NAME,
    OUTPUTS,
    PARAMETERS,
    RAW_INPUTS,
    RAW_OUTPUTS,
    RESPONSE_OUTPUTS,
    SHAPE,
    STRING_PARAM,
    UINT64_PARAM,
    VALUE,
)

from gateway.wire.tensors import DATATYPES
from gateway.wire.types import MAX_RANK, InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor

# From here on a view of the message costs less than a copy: 148 ns for the first view and 72 ns for each further one;
# 49 ns for a copy of 128 bytes, 114 ns of 4 KiB, 163 ns of 8 KiB.
cdef Py_ssize_t VIEW = 4096
# Fields beyond one for each tensor: names, parameters. A request with more is read by protobuf, which counts as well.
cdef Py_ssize_t SPARE_FIELDS = 1024

cdef frozenset _DATATYPES = DATATYPES
cdef int _MAX_RANK = MAX_RANK
cdef object _Call = InferCall, _Input = InputTensor, _Output = OutputRequest
cdef object _Answer = InferAnswer, _Tensor = OutputTensor
cdef str EMPTY_FINAL = "triton_enable_empty_final_response"
cdef str FINAL = "triton_final_response"


class Unusual(Exception):
    """Protobuf's way is to be taken."""


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef int varint(Cursor *c, uint64_t *value) except -1:
    """At most nine bytes, or ten for 64 bits."""
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef uint8_t byte
    while c.at < c.end and shift < 64:
        byte = c.at[0]
        c.at += 1
        if shift == 63 and byte > 1:
            break
        found |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = found
            return 0
        shift += 7
    raise Unusual


cdef int inner(Cursor *c, Cursor *into) except -1:
    """The content of a length-delimited field."""
    cdef uint64_t size = 0
    varint(c, &size)
    if size > <uint64_t>(c.end - c.at):
        raise Unusual
    into.at = c.at
    into.end = c.at = c.at + size
    return 0


cdef str text(Cursor *c):
    cdef Cursor t
    inner(c, &t)
    try:
        return PyUnicode_DecodeUTF8(<const char *>t.at, t.end - t.at, NULL)
    except UnicodeDecodeError:
        raise Unusual from None


cdef tuple entry(Cursor *c):
    """One entry of parameters: key, value, and which of the choices it is."""
    cdef Cursor e, v
    cdef uint64_t number = 0
    cdef double real
    cdef str key = ""
    cdef int choice = 0
    cdef uint8_t tag
    value = None
    inner(c, &e)
    while e.at < e.end:
        tag = e.at[0]
        e.at += 1
        if tag == KEY:
            key = text(&e)
        elif tag == VALUE:
            inner(&e, &v)
            while v.at < v.end:
                choice = v.at[0]
                v.at += 1
                if choice == STRING_PARAM:
                    value = text(&v)
                elif choice == DOUBLE_PARAM:
                    if v.end - v.at < 8:
                        raise Unusual
                    memcpy(&real, v.at, 8)
                    v.at += 8
                    value = real
                elif choice == BOOL_PARAM or choice == INT64_PARAM or choice == UINT64_PARAM:
                    varint(&v, &number)
                    if choice == BOOL_PARAM:
                        value = number != 0
                    elif choice == INT64_PARAM:
                        value = <int64_t>number
                    else:
                        value = number
                else:
                    raise Unusual
        else:
            raise Unusual
    if value is None:
        raise Unusual
    return key, value, choice


cdef int parameter(Cursor *c, dict into) except -1:
    """One entry of the request's parameters, judged as `wire.grpc` judges them."""
    cdef str key
    cdef int choice
    key, value, choice = entry(c)
    if key == "sequence_id":
        if not (choice == STRING_PARAM or (choice == INT64_PARAM and value >= 0)):
            raise Unusual
    elif key == "sequence_start" or key == "sequence_end" or key == EMPTY_FINAL:
        if choice != BOOL_PARAM:
            raise Unusual
    elif key == "priority":
        if not (choice == UINT64_PARAM or (choice == INT64_PARAM and value >= 0)):
            raise Unusual
    elif key == "timeout":
        if choice != INT64_PARAM or value < 0:
            raise Unusual
    elif key.startswith("triton_"):
        raise Unusual
    into[key] = value
    return 0


cdef object a_tensor(Cursor *c, object make):
    """Name, datatype and shape: fields that inputs and outputs have under the same numbers."""
    cdef Cursor item, dims
    cdef uint64_t number = 0
    cdef uint8_t tag
    cdef str name = "", datatype = ""
    cdef list shape = []
    inner(c, &item)
    while item.at < item.end:
        tag = item.at[0]
        item.at += 1
        if tag == NAME:
            name = text(&item)
        elif tag == DATATYPE:
            datatype = text(&item)
        elif tag == SHAPE:
            inner(&item, &dims)
            while dims.at < dims.end:
                varint(&dims, &number)
                shape.append(<int64_t>number)
                if len(shape) > _MAX_RANK:
                    raise Unusual
        else:
            raise Unusual
    return make(name, datatype, shape)


cdef object an_input(Cursor *c):
    """Without its data."""
    tensor = a_tensor(c, _Input)
    if tensor.datatype not in _DATATYPES:
        raise Unusual
    return tensor


cdef object an_output(Cursor *c):
    cdef Cursor item
    cdef uint8_t tag
    cdef str name = ""
    inner(c, &item)
    while item.at < item.end:
        tag = item.at[0]
        item.at += 1
        if tag != NAME:
            raise Unusual
        name = text(&item)
    return _Output(name, None, True)


cdef object whole(bytes message, Py_ssize_t tensors):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(message)
    cdef Cursor c, raw
    cdef Py_ssize_t fields = 0, most = 3 * tensors + SPARE_FIELDS, index = 0
    cdef uint8_t tag
    cdef str model = "", version = "", id = ""
    cdef dict parameters = {}
    cdef list inputs = [], outputs = [], contents = []
    cdef object view = None
    c.at, c.end = start, start + PyBytes_GET_SIZE(message)
    while c.at < c.end:
        tag = c.at[0]
        c.at += 1
        fields += 1
        if fields > most:
            raise Unusual
        if tag == RAW_INPUTS:
            inner(&c, &raw)
            if raw.end - raw.at < VIEW:
                contents.append(PyBytes_FromStringAndSize(<const char *>raw.at, raw.end - raw.at))
            else:
                if view is None:
                    view = memoryview(message)
                contents.append(view[raw.at - start:raw.end - start])
        elif tag == INPUTS:
            inputs.append(an_input(&c))
        elif tag == OUTPUTS:
            outputs.append(an_output(&c))
        elif tag == PARAMETERS:
            parameter(&c, parameters)
        elif tag == MODEL_NAME:
            model = text(&c)
        elif tag == MODEL_VERSION:
            version = text(&c)
        elif tag == ID:
            id = text(&c)
        else:
            raise Unusual
    if len(contents) != len(inputs) or len(inputs) + len(outputs) > tensors:
        raise Unusual
    for item in inputs:
        item.data = contents[index]
        index += 1
    return _Call(model, version, id, parameters, inputs, outputs)


def read_request(bytes message, Py_ssize_t tensors):
    """A serialised `ModelInferRequest`.

    Args:
        message: as it came.
        tensors: most inputs and outputs.

    Returns:
        The call, large raw contents as views of the message; None: it is not of the usual form, or is wrong.
    """
    try:
        return whole(message, tensors)
    except Unusual:
        return None


cdef object whole_answer(bytes message):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(message)
    cdef Cursor outer, c, raw
    cdef Py_ssize_t index = 0
    cdef uint8_t tag
    cdef str model = "", version = "", id = ""
    cdef dict parameters = {}
    cdef list outputs = [], contents = []
    cdef object view = None
    outer.at, outer.end = start, start + PyBytes_GET_SIZE(message)
    if outer.at == outer.end or outer.at[0] != INFER_RESPONSE:
        raise Unusual
    outer.at += 1
    inner(&outer, &c)
    if outer.at != outer.end:  # an error message, or a second part of the answer
        raise Unusual
    while c.at < c.end:
        tag = c.at[0]
        c.at += 1
        if tag == RAW_OUTPUTS:
            inner(&c, &raw)
            if raw.end - raw.at < VIEW:
                contents.append(PyBytes_FromStringAndSize(<const char *>raw.at, raw.end - raw.at))
            else:
                if view is None:
                    view = memoryview(message)
                contents.append(view[raw.at - start:raw.end - start])
        elif tag == RESPONSE_OUTPUTS:
            outputs.append(a_tensor(&c, _Tensor))
        elif tag == PARAMETERS:
            key, value, _ = entry(&c)
            parameters[key] = value
        elif tag == MODEL_NAME:
            model = text(&c)
        elif tag == MODEL_VERSION:
            version = text(&c)
        elif tag == ID:
            id = text(&c)
        else:
            raise Unusual
    if len(contents) != len(outputs):
        if contents:
            raise Unusual
        contents = [b""] * len(outputs)
    for item in outputs:
        item.data = contents[index]
        index += 1
    return id, "", _Answer(model, version, id, parameters, outputs), parameters.get(FINAL) is True


def read_stream_response(bytes message):
    """A serialised `ModelStreamInferResponse`.

    Returns:
        `wire.grpc_stream.StreamAnswer`, large raw contents as views of the message; None: it is not of the usual form,
        is an error, or is wrong.
    """
    try:
        return whole_answer(message)
    except Unusual:
        return None
