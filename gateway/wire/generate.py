"""Triton's generate extension: request bodies, server-sent events, and the names in an answer.

Contract: sans-IO. Bodies and events travel as they are; only what assignment and policy need is read, and
only `model_name` and `model_version` of an answer are ever rewritten.

Events follow the WHATWG stream format, of which Triton writes `data: {json}` and a blank line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.errors import BadGateway, BadRequest
from gateway.wire import complaints
from gateway.wire.json_text import MAX_DEPTH
from gateway.wire.types import Buffer, Param
from gateway.wire.validate import ModelSignature
from kernels.tensors import scan_json

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
"""As Triton says it."""
MAX_EVENT: Final = 64 * 1024 * 1024
"""Most bytes of one event; beyond it the upstream is taken to be broken."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', re.DOTALL)


class GenerateCall(msgspec.Struct):
    """What the gateway reads of a generate request."""

    id: str = ""
    parameters: dict[str, Param] = {}
    """Members of `parameters`, and members of the root that are neither tensors' arrays nor objects: Triton
    makes parameters of those that name no input."""
    members: dict[str, Any] = {}
    """Everything that may name an input: the root's members and those of `parameters`."""


def decode_request(body: Buffer) -> GenerateCall:
    """Check a generate request, and read what the gateway needs of it.

    Args:
        body: sent on as it is; Triton itself takes no compressed body here.

    Raises:
        BadRequest: no JSON object, a name given twice, nesting beyond 100, an `id` that is no string, or a
        reserved
            or ill-typed parameter.
    """
    try:
        scan_json(body, MAX_DEPTH)
        root = _loads(body)
    except ValueError as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(root, dict):
        raise BadRequest("attempt to get members for non-object")
    request_id = root.get("id", "")
    if not isinstance(request_id, str):
        raise BadRequest(f"Unable to parse 'id': {complaints.NOT_STRING}")
    nested = root.get("parameters", {})
    if not isinstance(nested, dict):
        raise BadRequest("Expected JSON object for keyword: 'parameters'")
    parameters: dict[str, Param] = {
        key: value
        for key, value in root.items()
        if key not in {"id", "parameters"} and isinstance(value, (str, int, float, bool))
    }
    for key, value in nested.items():
        if key.startswith("triton_"):
            raise BadRequest(complaints.RESERVED)
        # A list is tensor data under a tensor's name; Triton allows it here, too.
        if isinstance(value, (str, int, float, bool)):
            parameters[key] = value
    tensors = {**nested, **{key: value for key, value in root.items() if key not in {"id", "parameters"}}}
    return GenerateCall(id=request_id, parameters=parameters, members=tensors)


def check(call: GenerateCall, signature: ModelSignature, model: str) -> None:
    """Judge the members that name the model's inputs: one value or a flat list of them, each of the input's datatype.

    Triton 2.51 answers what does not fit with 500, and wraps integers beyond their range.

    Raises:
        BadRequest: it names the input.
    """
    for name, expected in signature.inputs.items():
        if name not in call.members:
            if name in signature.required:
                raise BadRequest(f"expected input '{name}' for model '{model}'")
            continue
        value = call.members[name]
        for item in value if isinstance(value, list) else [value]:
            if not _fits(item, expected.datatype):
                raise BadRequest(f"the value of input '{name}' for model '{model}' is no {expected.datatype}")


def _fits(value: object, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if datatype.startswith(("INT", "UINT")):
        bits = int(datatype.lstrip("UINT"))
        low, high = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        return isinstance(value, int) and low <= value < high
    return True


def _loads(body: Buffer) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        # Sound, so it holds NaN or Infinity, which only the standard library reads.
        return json.loads(bytes(body))


def rename(text: bytes, model_name: str, model_version: str | None = None) -> bytes:
    """The JSON object with its root's `model_name` and `model_version` replaced, all else byte for byte.

    Args:
        text: an answer of generate or the data of an event.
        model_name: the name the client asked for.
        model_version: None leaves the version.
    """
    wanted = {b'"model_name"': model_name}
    if model_version is not None:
        wanted[b'"model_version"'] = model_version
    parts: list[bytes] = []
    last = 0
    for key, start, end in _root_members(text):
        if key in wanted:
            parts += (text[last:start], json.dumps(wanted[key], ensure_ascii=False).encode())
            last = end
    return b"".join([*parts, text[last:]]) if parts else text


def _root_members(text: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The root's members whose values are strings: name as written, start and end of the value."""
    depth = 0
    key = b""
    after_colon = False
    previous = b""
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in {b"{", b"["}:
            depth += 1
        elif token in {b"}", b"]"}:
            depth -= 1
        elif depth == 1:
            if token == b":":
                key = previous
                after_colon = True
            elif token == b",":
                after_colon = False
            elif after_colon:
                yield key, match.start(), match.end()
            else:
                previous = token


class EventReader:
    """Bytes in, the data of whole events out; a stream may be split anywhere."""

    def __init__(self) -> None:
        self._line = bytearray()
        """The line that has not ended."""
        self._data: list[bytes] = []
        """`data` lines of the event that has not ended."""
        self._size = 0
        self._started = False
        self._skip_newline = False
        """The last byte was a carriage return: a line feed after it belongs to it."""

    def feed(self, chunk: Buffer) -> list[bytes]:
        """The data of the events that end within this chunk.

        Raises:
            BadGateway: an event of more than `MAX_EVENT` bytes.
        """
        events: list[bytes] = []
        text = bytes(chunk)
        if self._skip_newline and text:
            text = text.removeprefix(b"\n")
            self._skip_newline = False
        if not text:
            return events
        self._skip_newline = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines[:-1]:
            self._line += line
            self._end_line(events)
        self._line += lines[-1]
        if self._size + len(self._line) > MAX_EVENT:
            raise BadGateway("the model server sent an event that is too large")
        return events

    def _end_line(self, events: list[bytes]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":  # comments have an empty name; event, id and retry mean nothing to inference
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > MAX_EVENT:
                raise BadGateway("the model server sent an event that is too large")


def event(data: bytes) -> bytes:
    """An event with this data, as Triton writes it; JSON has no raw line ends, other text may."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    return b"data: " + data + b"\n\n"
