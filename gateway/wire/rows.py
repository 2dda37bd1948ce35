"""Rows of JSON, as MLflow and TensorFlow Serving take them, for routes with a feature plan.

Two forms, each in place of `inputs` in a request of OIP; what else a request may have (`id`, `parameters`, `outputs`)
keeps its meaning, and the answer is OIP's:

    {"instances": [{"age": 39, "job": null}, ...]}
    {"dataframe_split": {"columns": ["age", "job"], "data": [[39, null], ...], "index": [...]}}

`index` is what pandas writes beside them; it says nothing to a model.

Contract: sans-IO. A value is a number, a text, true, false or null; nothing nests, and no name stands twice.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from gateway.errors import BadRequest
from gateway.wire.http_request import decode_request as decode_oip
from gateway.wire.json_text import MAX_DEPTH
from gateway.wire.types import Buffer, InferCall, Rows
from kernels.tensors import scan_json

_Value: TypeAlias = str | int | float | bool | None
_REST: Final = ("id", "parameters", "outputs")
_FORMS: Final = ("instances", "dataframe_split")


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    columns: tuple[str, ...]
    data: list[list[_Value]]
    index: list[Any] = []


_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw])
_instances = msgspec.json.Decoder(list[dict[str, _Value]])
_split = msgspec.json.Decoder(_Split)


def decode_request(body: Buffer, model: str, version: str, tensors: int) -> InferCall | None:
    """An inference request whose inputs are rows.

    Args:
        body: the uncompressed body, all of it JSON.
        model: the model's name in the address.
        version: the version in the address, "" for none.
        tensors: most outputs (`limits.tensors`).

    Returns:
        The call, whose `rows` are set; None: it is no request of rows.

    Raises:
        BadRequest: it is one, and wrong.
    """
    try:
        parts = _envelope.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # no object at all: what is wrong with it is said where all requests are read
    forms = [form for form in _FORMS if form in parts]
    if not forms:
        return None
    try:
        scan_json(body, MAX_DEPTH)
    except ValueError as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {error}") from None
    given = [*forms, *(("inputs",) if "inputs" in parts else ())]
    if len(given) > 1:
        raise BadRequest(f"a request has either '{given[0]}' or '{given[1]}', not both")
    for key in parts:
        if key not in (*_REST, *forms):
            raise BadRequest(f"unexpected key '{key[:80]}' beside '{forms[0]}'")
    rest = b"".join(b',"%b":%b' % (key.encode(), bytes(parts[key])) for key in _REST if key in parts)
    call = decode_oip(b'{"inputs":[]%b}' % rest, None, model, version, tensors)
    call.rows = _rows(forms[0], parts[forms[0]])
    return call


def _rows(form: str, raw: msgspec.Raw) -> Rows:
    try:
        if form == "instances":
            return Rows(_instances.decode(raw))
        split = _split.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"Unable to parse '{form}': {error}") from None
    width = len(split.columns)
    if len(set(split.columns)) < width:
        double = next(name for at, name in enumerate(split.columns) if name in split.columns[:at])
        raise BadRequest(f"the column '{double[:80]}' stands there twice")
    for at, row in enumerate(split.data):
        if len(row) != width:
            raise BadRequest(f"row {at + 1} has {len(row)} values, and there are {width} columns")
    return Rows(split.data, split.columns)
