"""Feature plans, and the rows and columns that clients send to routes with one."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable

from gateway.errors import TidegateError
from gateway.transform import RouteFeatures
from gateway.wire import grpc, http, rows
from governance.features.reading import Loaded, parse
from kernels.features import COLUMN_DATATYPES, Refused

PLAN = b"""\
schema_version: tidegate.features/1
inputs: {n: {type: number, infinite: allow}, b: boolean, s: string, t: timestamp, u: {type: string, missing: refuse}}
steps:
- {impute: {n: {fill: 1}}}
- {one_hot: {s: {categories: [a, longer than eight], missing: category, unknown: ignore}, u: {categories: [x]}}}
- {cyclic: {t: {period: year}}}
- {compute: {z: log(n) / n}}
outputs: {f: {columns: [n, b, s, t, z, u]}, i: {datatype: INT32, columns: [u]}}
"""
_loaded, _ = parse(PLAN, "plan")
assert _loaded is not None
_FEATURES = RouteFeatures(_loaded, frozenset({"columns", "rows", "tensors"}))
_LIMIT = 1 << 20


def feature_plan(data: bytes) -> None:
    """A plan; one that holds takes an empty row or refuses it."""
    loaded, findings = parse(data, "plan")
    assert (loaded is None) == any(one.severity == "error" for one in findings)
    for one in findings:
        assert one.file == "plan"
        assert one.line >= 1
        assert one.column >= 1
        assert one.message
    if isinstance(loaded, Loaded):
        with contextlib.suppress(Refused):
            made = loaded.compiled.program.rows([{}])
            assert [len(one) > 0 for one in made] == [True] * len(made)


def _applied(call) -> None:
    _FEATURES.many(call)
    _FEATURES.apply(call, _LIMIT)
    for tensor in call.inputs:
        if tensor.name in ("f", "i") and tensor.json is None and tensor.contents is None and tensor.shm is None:
            count, width = tensor.shape
            assert len(tensor.data) == count * width * 4 or tensor.parameters is not None


def feature_rows(data: bytes) -> None:
    """A body of rows."""
    with contextlib.suppress(TidegateError):
        call = rows.decode_request(data, "m", "", 100)
        if call is not None:
            _applied(call)


def feature_columns(data: bytes) -> None:
    """A body of OIP, in JSON or binary, or a message; then raw bytes as columns."""
    length = int.from_bytes(data[:2]) if len(data) > 1 else 0xFFFF
    with contextlib.suppress(TidegateError):
        _applied(http.decode_request(data[2:], length if length <= len(data) - 2 else None, "m", ""))
    with contextlib.suppress(TidegateError):
        _applied(grpc.decode_request(data[2:]))
    assert _loaded is not None
    count, body = data[0] % 4 if data else 0, data[1:]
    columns = [(COLUMN_DATATYPES[len(body) % 9], body), ("BOOL", body), ("BYTES", body), None, ("BYTES", body)]
    with contextlib.suppress(ValueError):
        made = _loaded.compiled.program.columns(count, columns)
        assert [len(one) for one in made] == [count * tensor.width * 4 for tensor in _loaded.compiled.program.tensors]


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (feature_plan, feature_rows, feature_columns)
}


def seeds() -> dict[str, list[bytes]]:
    """Sound inputs."""
    row = {"n": 1.5, "b": True, "s": "a", "t": "2024-02-29T10:00:00Z", "u": "x"}
    split = {"columns": list(row), "data": [list(row.values())], "index": [0]}
    item = struct.pack("<I", 1) + b"x"
    inputs = [
        {"name": "n", "datatype": "FP64", "shape": [1, 1], "data": [1]},
        {"name": "u", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]},
    ]
    return {
        "feature_plan": [PLAN],
        "feature_rows": [
            json.dumps({"id": "a", "instances": [row, {"u": "x"}]}).encode(),
            json.dumps({"dataframe_split": split, "outputs": [{"name": "o"}]}).encode(),
        ],
        "feature_columns": [b"\xff\xff" + json.dumps({"inputs": inputs}).encode(), b"\1" + item, b"\2" + item * 2],
    }
