"""OIP over HTTP: requests and answers, JSON with or without the binary extension.

Contract: sans-IO. Tensor bytes are views of the buffer they came in and parts of the buffer list they leave
in; they are never joined. A request is checked whole as JSON (syntax, UTF-8, names given twice, nesting)
but the numbers of a `data` array are read later, by `wire.tensors`. What is wrong with a request is a
`BadRequest` in Triton's words where Triton has words; what is wrong with an answer is a `BadGateway`.

Layout of a body: JSON of `Inference-Header-Content-Length` (IHCL) bytes, then the bytes of the tensors that
carry `binary_data_size`, in the order of the JSON. Without IHCL the whole body is JSON; IHCL 0 is a raw
binary request (one unnamed input).
"""

from gateway.wire.http_answer import decode_response, encode_response
from gateway.wire.http_request import decode_request, encode_request, parse_header_length
from gateway.wire.json_text import BINARY, JSON, MAX_DEPTH

__all__ = (
    "BINARY",
    "JSON",
    "MAX_DEPTH",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "parse_header_length",
)
