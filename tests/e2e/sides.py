"""Asks the same of Triton and of the gateway in front of it, in raw HTTP and raw gRPC, for the differential tests.

Nothing here is a client library: what is sent is what the test says, and what came is compared as it came.
"""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gateway_fixture import Answer


def ask(
    address: str,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    """One request on a connection of its own; an iterable body is sent in chunks."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        chunked = body is not None and not isinstance(body, bytes)
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if chunked:
            connection.putheader("transfer-encoding", "chunked")
        elif body is not None:
            connection.putheader("content-length", str(len(body)))
        elif method == "POST":
            connection.putheader("content-length", "0")
        connection.endheaders(body, encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def joined(head: dict[str, Any], *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and binary parts, and its headers."""
    text = json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
    return b"".join([text, *blobs]), headers


def tensors(reply: Answer) -> dict[str, Any]:
    """The outputs of an OIP answer by name, JSON and binary alike, as plain lists; what is no tensor as it is."""
    length = reply.headers.get("inference-header-content-length")
    head = json.loads(reply.body if length is None else reply.body[: int(length)])
    rest = b"" if length is None else reply.body[int(length) :]
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            output["data"] = values(output["datatype"], rest[:size])
            rest = rest[size:]
    assert not rest
    return head


NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",  # as bits
}


def values(datatype: str, data: bytes) -> list[Any]:
    """Raw tensor bytes as a list; BYTES as latin-1 text."""
    if datatype != "BYTES":
        return np.frombuffer(data, NUMPY[datatype]).tolist()
    found = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size].decode("latin-1"))
        data = data[4 + size :]
    return found


def raw(datatype: str, items: list[Any]) -> bytes:
    """A list as raw tensor bytes."""
    if datatype != "BYTES":
        return np.array(items, NUMPY[datatype]).tobytes()
    encoded = [item if isinstance(item, bytes) else item.encode() for item in items]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
