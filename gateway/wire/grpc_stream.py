"""`ModelStreamInfer` to an upstream: calls as they are sent, and answers as Triton sends them.

Contract: sans-IO, over serialised messages. The usual ones are written by `_infer_write_c` and read by `_infer_c`,
everything else by protobuf, which is their specification (`TIDEGATE_NO_EXTENSIONS=1` takes protobuf for all).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.errors import BadGateway
from gateway.wire.grpc import EMPTY_FINAL, NO_EXTENSIONS, decode_response, encode_request
from gateway.wire.types import InferAnswer, InferCall

if TYPE_CHECKING or not NO_EXTENSIONS:
    from gateway.wire._infer_c import read_stream_response as _read_usual_answer
    from gateway.wire._infer_write_c import write_stream_request as _write_usual_request
else:

    def _read_usual_answer(message: bytes) -> None:
        """Never."""

    def _write_usual_request(call: InferCall, model: str, version: str, call_id: str) -> None:
        """Never."""


_FINAL: Final = "triton_final_response"

StreamAnswer: TypeAlias = tuple[str, str, InferAnswer | BadGateway | None, bool]
"""Id, error message, answer (None with an error message; BadGateway: it cannot be read), whether it is the last."""


def encode_stream_request(call: InferCall, model: str, version: str, call_id: str) -> bytes:
    """The call as a serialised `ModelInferRequest` for an upstream's stream.

    Its end will be told (`triton_enable_empty_final_response`); model, version and id are those given here.
    """
    usual = _write_usual_request(call, model, version, call_id)
    return _encode_stream_request(call, model, version, call_id) if usual is None else usual


def _encode_stream_request(call: InferCall, model: str, version: str, call_id: str) -> bytes:
    message = encode_request(call)
    message.model_name, message.model_version, message.id = model, version, call_id
    message.parameters[EMPTY_FINAL].bool_param = True
    return bytes(message.SerializeToString())


def decode_stream_answer(message: bytes) -> StreamAnswer:
    """A serialised `ModelStreamInferResponse` of an upstream.

    Triton says which message of a call is the last, except that nothing follows an error without that word.

    Raises:
        BadGateway: not such a message.
    """
    usual = _read_usual_answer(message)
    return _decode_stream_answer(message) if usual is None else usual


def _decode_stream_answer(message: bytes) -> StreamAnswer:
    try:
        read = service_pb2.ModelStreamInferResponse.FromString(message)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadGateway("the model server's answer could not be read", detail=str(error)) from None
    response = read.infer_response
    final = response.parameters[_FINAL].bool_param if _FINAL in response.parameters else bool(read.error_message)
    if read.error_message:
        return response.id, read.error_message, None, final
    try:
        return response.id, "", decode_response(response), final
    except BadGateway as unreadable:
        return response.id, "", unreadable, final
