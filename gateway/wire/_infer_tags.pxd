# cython: language_level=3
"""Fields of OIP's inference messages, for `_infer_c` and `_infer_write_c`."""

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
