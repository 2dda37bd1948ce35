# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The usual `ModelInferResponse`, and the usual `ModelInferRequest` to an upstream's stream, written without protobuf's
objects.

What is usual: raw contents for every tensor, parameters of the request or answer alone. For everything else the answer
is None, and the caller takes protobuf's way (`wire.grpc`, `wire.grpc_stream`), which is the specification.

Design: the size of the whole message is counted first, so that its bytes are written once, in place.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from gateway.wire._infer_tags cimport (
    BOOL_PARAM,
    DATATYPE,
    DOUBLE_PARAM,
    ID,
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

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef str EMPTY_FINAL = "triton_enable_empty_final_response"


class Unusual(Exception):
    """Protobuf's way is to be taken."""


cdef Py_ssize_t varint_size(uint64_t value) noexcept:
    cdef Py_ssize_t size = 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


cdef uint8_t *put_varint(uint8_t *at, uint64_t value) noexcept:
    while value > 0x7F:
        at[0] = <uint8_t>(value & 0x7F | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef Py_ssize_t text_size(object value) except -1:
    """Of a field; 0 when it is empty, which protobuf does not write."""
    cdef Py_ssize_t size
    PyUnicode_AsUTF8AndSize(value, &size)
    return 1 + varint_size(size) + size if size else 0


cdef uint8_t *put_text(uint8_t *at, uint8_t tag, object value) except NULL:
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(value, &size)
    if size == 0:
        return at
    at[0] = tag
    at = put_varint(at + 1, size)
    memcpy(at, data, size)
    return at + size


cdef Py_ssize_t shape_size(list shape) except -1:
    """Of the packed numbers, without tag and length."""
    cdef Py_ssize_t size = 0
    for dim in shape:
        size += varint_size(<uint64_t><int64_t>dim)
    return size


cdef Py_ssize_t output_size(object tensor, Py_ssize_t dims) except -1:
    cdef Py_ssize_t size = text_size(tensor.name) + text_size(tensor.datatype)
    return size + 1 + varint_size(dims) + dims if dims else size


cdef Py_ssize_t bytes_of(object data) except -1:
    return PyBytes_GET_SIZE(data) if type(data) is bytes else data.nbytes


cdef uint8_t *put_data(uint8_t *at, uint8_t tag, object data) except NULL:
    cdef Py_buffer view
    cdef Py_ssize_t size
    at[0] = tag
    if type(data) is bytes:
        size = PyBytes_GET_SIZE(data)
        at = put_varint(at + 1, size)
        memcpy(at, PyBytes_AS_STRING(data), size)
        return at + size
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    at = put_varint(at + 1, view.len)
    memcpy(at, view.buf, view.len)
    at += view.len
    PyBuffer_Release(&view)
    return at


cdef struct Value:
    int choice
    uint64_t number
    double real
    Py_ssize_t size  # of the message that holds it


cdef int valued(Value *v, str key, object value, bint request) except -1:
    """A parameter as `wire.grpc` writes it: Triton reads some of a request's in a type of their own."""
    cdef Py_ssize_t size
    v.number = 0
    if type(value) is bool:
        v.choice, v.number = BOOL_PARAM, value
    elif type(value) is int:
        if request and (key == "sequence_id" or key == "timeout"):  # uint64 that travel as int64, two's complement
            v.choice, v.number = INT64_PARAM, <uint64_t>value if value >= 0 else <uint64_t><int64_t>value
        elif request and key == "priority":
            v.choice, v.number = UINT64_PARAM, <uint64_t>value
        elif value <= INT64_MAX:
            v.choice, v.number = INT64_PARAM, <uint64_t><int64_t>value
        else:
            v.choice, v.number = UINT64_PARAM, <uint64_t>value
    elif type(value) is float:
        v.choice, v.real, v.size = DOUBLE_PARAM, value, 9
        return 0
    elif type(value) is str:
        PyUnicode_AsUTF8AndSize(value, &size)
        v.choice, v.size = STRING_PARAM, 1 + varint_size(size) + size
        return 0
    else:
        raise Unusual
    v.size = 1 + varint_size(v.number)
    return 0


cdef Py_ssize_t whole_size(Py_ssize_t size) noexcept:
    """Of a length-delimited field whose content has this size."""
    return 1 + varint_size(size) + size


cdef Py_ssize_t parameter_size(str key, object value, bint request) except -1:
    """Of the entry, without its tag and length. Map entries have both fields, also empty ones."""
    cdef Value v
    cdef Py_ssize_t size
    PyUnicode_AsUTF8AndSize(key, &size)
    valued(&v, key, value, request)
    return whole_size(size) + whole_size(v.size)


cdef uint8_t *put_parameter(uint8_t *at, str key, object value, bint request) except NULL:
    cdef Value v
    cdef Py_ssize_t size
    cdef const char *data
    at[0] = PARAMETERS
    at = put_varint(at + 1, parameter_size(key, value, request))
    data = PyUnicode_AsUTF8AndSize(key, &size)
    at[0] = KEY
    at = put_varint(at + 1, size)
    memcpy(at, data, size)
    at += size
    valued(&v, key, value, request)
    at[0] = VALUE
    at = put_varint(at + 1, v.size)
    at[0] = <uint8_t>v.choice
    at += 1
    if v.choice == STRING_PARAM:
        data = PyUnicode_AsUTF8AndSize(value, &size)
        at = put_varint(at, size)
        memcpy(at, data, size)
        return at + size
    if v.choice == DOUBLE_PARAM:
        memcpy(at, &v.real, 8)
        return at + 8
    return put_varint(at, v.number)


cdef uint8_t *put_tensor(uint8_t *at, uint8_t tag, object tensor) except NULL:
    """Name, datatype and shape."""
    cdef Py_ssize_t dims = shape_size(tensor.shape)
    at[0] = tag
    at = put_varint(at + 1, output_size(tensor, dims))
    at = put_text(at, NAME, tensor.name)
    at = put_text(at, DATATYPE, tensor.datatype)
    if dims:
        at[0] = SHAPE
        at = put_varint(at + 1, dims)
        for dim in tensor.shape:
            at = put_varint(at, <uint64_t><int64_t>dim)
    return at


cdef Py_ssize_t tensor_size(object tensor) except -1:
    """Of the tensor and its raw contents, as two fields."""
    data = tensor.data
    if tensor.parameters or tensor.shm is not None or not (type(data) is bytes or type(data) is memoryview):
        raise Unusual
    return whole_size(output_size(tensor, shape_size(tensor.shape))) + whole_size(bytes_of(data))


cdef bytes response(answer):
    cdef Py_ssize_t size
    cdef uint8_t *at
    cdef list outputs = answer.outputs
    cdef dict parameters = answer.parameters
    if len(parameters) > 1:  # their order is protobuf's
        raise Unusual
    size = text_size(answer.model_name) + text_size(answer.model_version) + text_size(answer.id)
    for key, value in parameters.items():
        size += whole_size(parameter_size(key, value, False))
    for tensor in outputs:
        size += tensor_size(tensor)
    message = PyBytes_FromStringAndSize(NULL, size)
    at = <uint8_t *>PyBytes_AS_STRING(message)
    at = put_text(at, MODEL_NAME, answer.model_name)
    at = put_text(at, MODEL_VERSION, answer.model_version)
    at = put_text(at, ID, answer.id)
    for key, value in parameters.items():
        at = put_parameter(at, key, value, False)
    for tensor in outputs:
        at = put_tensor(at, RESPONSE_OUTPUTS, tensor)
    for tensor in outputs:
        at = put_data(at, RAW_OUTPUTS, tensor.data)
    assert at - <uint8_t *>PyBytes_AS_STRING(message) == size
    return message


def write_response(answer):
    """An `InferAnswer` as a serialised `ModelInferResponse`.

    None: it has more than names, shapes, raw data and one parameter.
    """
    try:
        return response(answer)
    except (Unusual, OverflowError, UnicodeEncodeError):  # protobuf says what is wrong with it
        return None


cdef bytes request(call, str model, str version, str id):
    cdef Py_ssize_t size
    cdef uint8_t *at
    cdef list inputs = call.inputs, outputs = call.outputs
    cdef dict parameters = {**call.parameters, EMPTY_FINAL: True}
    size = text_size(model) + text_size(version) + text_size(id)
    for key, value in parameters.items():
        size += whole_size(parameter_size(key, value, True))
    for tensor in inputs:
        size += tensor_size(tensor)
    for output in outputs:
        if output.parameters or output.classification or output.shm is not None:
            raise Unusual
        size += whole_size(text_size(output.name))
    message = PyBytes_FromStringAndSize(NULL, size)
    at = <uint8_t *>PyBytes_AS_STRING(message)
    at = put_text(at, MODEL_NAME, model)
    at = put_text(at, MODEL_VERSION, version)
    at = put_text(at, ID, id)
    for key, value in parameters.items():
        at = put_parameter(at, key, value, True)
    for tensor in inputs:
        at = put_tensor(at, INPUTS, tensor)
    for output in outputs:
        at[0] = OUTPUTS
        at = put_varint(at + 1, text_size(output.name))
        at = put_text(at, NAME, output.name)
    for tensor in inputs:
        at = put_data(at, RAW_INPUTS, tensor.data)
    assert at - <uint8_t *>PyBytes_AS_STRING(message) == size
    return message


def write_stream_request(call, str model, str version, str call_id):
    """An `InferCall` as `wire.grpc_stream.encode_stream_request` writes it, parameters in any order.

    None: it has more than names, shapes, raw data and parameters of the request.
    """
    try:
        return request(call, model, version, call_id)
    except (Unusual, OverflowError, UnicodeEncodeError):  # protobuf says what is wrong with it
        return None
