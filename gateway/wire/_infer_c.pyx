# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The usual `ModelInferRequest`, `ModelInferResponse` and `ModelStreamInferResponse`, read and written without
protobuf's objects.

What is usual: raw contents for every tensor, parameters of the request or answer alone, fields that OIP has in the wire
types that it gives them. For everything else, whether it is right or wrong, the answer is None, and the caller takes
protobuf's way (`wire.grpc`), which is the specification: where these functions answer, they answer as it does.

Design: one pass over the message with a cursor that never passes its end; Python's objects are made as the pass comes
to them. `Unusual` ends it, from wherever it is.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from gateway.wire.tensors import DATATYPES
from gateway.wire.types import MAX_RANK, InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

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

# Tags: field number << 3 | wire type.
cdef enum:
    MODEL_NAME = 1 << 3 | 2
    MODEL_VERSION = 2 << 3 | 2
    ID = 3 << 3 | 2
    PARAMETERS = 4 << 3 | 2
    INPUTS = 5 << 3 | 2
    OUTPUTS = 6 << 3 | 2
    RAW_INPUTS = 7 << 3 | 2
    NAME = 1 << 3 | 2
    DATATYPE = 2 << 3 | 2
    SHAPE = 3 << 3 | 2
    KEY = 1 << 3 | 2
    VALUE = 2 << 3 | 2
    BOOL_PARAM = 1 << 3
    INT64_PARAM = 2 << 3
    STRING_PARAM = 3 << 3 | 2
    DOUBLE_PARAM = 4 << 3 | 1
    UINT64_PARAM = 5 << 3
    RESPONSE_OUTPUTS = 5 << 3 | 2
    RAW_OUTPUTS = 6 << 3 | 2
    INFER_RESPONSE = 2 << 3 | 2


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
        `wire.grpc.StreamAnswer`, large raw contents as views of the message; None: it is not of the usual form, is an
        error, or is wrong.
    """
    try:
        return whole_answer(message)
    except Unusual:
        return None


# --- writing -----------------------------------------------------------------------------------------------


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
    """An `InferCall` as `wire.grpc.encode_stream_request` writes it, parameters in any order.

    None: it has more than names, shapes, raw data and parameters of the request.
    """
    try:
        return request(call, model, version, call_id)
    except (Unusual, OverflowError, UnicodeEncodeError):  # protobuf says what is wrong with it
        return None
