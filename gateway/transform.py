"""Step 7 of a route with a feature plan: raw columns become the model's tensors.

Contract: pure and synchronous; `apply` changes the call in place, once, before it is held against the model's metadata.
Columns come as one tensor each, `[n, 1]`, or as rows of JSON; an empty BYTES element, null and a column that is left
out are missing. What a client sent wrong is a `BadRequest` that names row and column, and never the value.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Final

import numpy as np

from gateway.errors import BadRequest, TooLarge
from gateway.wire.tensors import NUMPY, SIZES, count_elements, materialise
from gateway.wire.types import Buffer, InferCall, InputTensor, Rows
from gateway.wire.validate import ModelSignature
from governance.documents.words import suggest
from governance.features.reading import Loaded
from kernels.features import Refused

_SHOWN: Final = {"number": "FP64", "boolean": "BOOL", "string": "BYTES", "timestamp": "BYTES"}
"""The datatype that a column's metadata shows."""
_NUMBERS: Final = frozenset(set(NUMPY) - {"BOOL"})
"""Datatypes that a number's column takes."""
_OUT_SIZES: Final = {"FP32": 4, "FP64": 8, "INT32": 4, "INT64": 8}
MANY: Final = 100_000
"""Values from which on a call is transformed on a thread: some ms, in which others shall not wait."""


_AT_ONCE: Final = 4096
"""Rows of JSON values that are taken together: 3 ms, after which other threads may have the interpreter."""


class RouteFeatures:
    """A route's plan, ready to be applied."""

    def __init__(self, loaded: Loaded, accept: frozenset[str]) -> None:
        """Takes a plan that holds.

        Args:
            loaded: the plan.
            accept: forms that are taken: `columns`, `rows`, `tensors`.
        """
        self.digest = loaded.digest
        self._program = loaded.compiled.program
        self._accept = accept
        self._kinds = {one.name: one.kind for one in self._program.inputs}
        self._tensors = {tensor.name: tensor for tensor in self._program.tensors}
        self._row_bytes = sum(tensor.width * _OUT_SIZES[tensor.datatype] for tensor in self._program.tensors)
        self._row_values = len(self._kinds) + sum(tensor.width for tensor in self._program.tensors)

    def metadata(self) -> list[tuple[str, str, tuple[int, int]]] | None:
        """Name, datatype and shape of what the route takes; None: the model's own tensors."""
        if self._accept == {"tensors"}:
            return None
        return [(name, _SHOWN[kind], (-1, 1)) for name, kind in self._kinds.items()]

    def misfits(self, signature: ModelSignature) -> str:
        """Why the model cannot take what the plan makes, for the log; empty: it can."""
        if not signature.known:
            return ""
        for name, tensor in self._tensors.items():
            expected = signature.inputs.get(name)
            if expected is None:
                return f"the model has no input '{name}'"
            if expected.datatype != tensor.datatype:
                return f"'{name}' is {tensor.datatype} in the plan and {expected.datatype} in the model"
            if not expected.ragged and (len(expected.shape) != 2 or expected.shape[1] not in (-1, tensor.width)):
                return f"'{name}' is [n, {tensor.width}] in the plan and {list(expected.shape)} in the model"
        missing = signature.required - self._tensors.keys()
        return f"the plan does not make '{min(missing)}'" if missing else ""

    def has(self, names: frozenset[str]) -> bool:
        """Whether one of these is a raw column."""
        return not names.isdisjoint(self._kinds)

    def many(self, call: InferCall) -> bool:
        """Whether the call has so many values that others should not wait for it."""
        rows = call.rows.count if call.rows is not None else _rows_of(call)
        return rows * self._row_values >= MANY

    def apply(self, call: InferCall, limit: int) -> None:
        """Make the model's tensors.

        Args:
            call: changed in place; a call that has the model's tensors already, where those are accepted, is not.
            limit: most bytes of them (`limits.body`).

        Raises:
            BadRequest: it is no call of this route's columns.
            TooLarge: the tensors would be.
        """
        if call.rows is not None:
            self._take("rows", call)
            count, made = call.rows.count, self._of_rows(call.rows, limit)
        elif self._is_made(call):
            return
        else:
            self._take("columns", call)
            count, made = self._of_columns(call, limit)
        call.inputs = [
            InputTensor(name, tensor.datatype, [count, tensor.width], None, data)
            for (name, tensor), data in zip(self._tensors.items(), made, strict=True)
        ]
        # Its head is not the one that came.
        call.rows, call.known, call.tail = None, None, b""

    def _is_made(self, call: InferCall) -> bool:
        """Whether it has the model's tensors, where they are accepted."""
        if "tensors" not in self._accept:
            return False
        if call.raw or self._accept == {"tensors"}:
            return True
        names = {tensor.name for tensor in call.inputs}
        return not names.isdisjoint(self._tensors) and names.isdisjoint(self._kinds)

    def _take(self, form: str, call: InferCall) -> None:
        if form not in self._accept:
            forms = {"columns": "a tensor for each column", "rows": "rows of JSON", "tensors": "the model's tensors"}
            taken = " or ".join(words for name, words in forms.items() if name in self._accept)
            raise BadRequest(f"model '{call.model}' does not take {forms[form]} here; it takes {taken}")

    def _room(self, count: int, limit: int) -> None:
        if count * self._row_bytes > limit:
            raise TooLarge(f"{count} rows make tensors larger than {limit} bytes; send fewer at once")

    def _of_rows(self, rows: Rows, limit: int) -> list[bytes]:
        self._room(rows.count, limit)
        positions = None
        if rows.columns is not None:
            for name in rows.columns:
                if name not in self._kinds:
                    raise self._unknown(name)
            places = {name: at for at, name in enumerate(rows.columns)}
            positions = [places.get(name, -1) for name in self._kinds]
        parts: list[list[bytes]] = []
        for first in range(0, max(1, rows.count), _AT_ONCE):
            some = rows.rows if rows.count <= _AT_ONCE else rows.rows[first : first + _AT_ONCE]
            try:
                parts.append(self._program.rows(some, positions))
            except Refused as refused:
                if refused.reason == "column":
                    raise self._unknown(refused.column, f"row {first + refused.row + 1}: ") from None
                raise _refusal(refused, first) from None
        return parts[0] if len(parts) == 1 else [b"".join(tensor) for tensor in zip(*parts, strict=True)]

    def _of_columns(self, call: InferCall, limit: int) -> tuple[int, list[bytes]]:
        if call.raw:
            raise BadRequest(f"a raw request has one tensor without a name, and model '{call.model}' takes columns")
        if not call.inputs:
            raise BadRequest(f"no column was sent to model '{call.model}'")
        count = _rows_of(call)
        self._room(count, limit)
        columns: dict[str, tuple[str, Buffer]] = {}
        for tensor in call.inputs:
            if tensor.name in columns:
                raise BadRequest(f"input '{tensor.name}' already exists in request")
            columns[tensor.name] = self._column(tensor, count)
        try:
            return count, self._program.columns(count, [columns.get(name) for name in self._kinds])
        except Refused as refused:
            raise _refusal(refused) from None

    def _column(self, tensor: InputTensor, count: int) -> tuple[str, Buffer]:
        """A column's datatype and bytes, of exactly so many values."""
        name, kind = tensor.name, self._kinds.get(tensor.name)
        if kind is None:
            raise self._unknown(name)
        if tensor.datatype not in _NUMBERS if kind == "number" else tensor.datatype != _SHOWN[kind]:
            wanted = "a number's" if kind == "number" else f"'{_SHOWN[kind]}'"
            raise BadRequest(f"input '{name}' data-type is '{tensor.datatype}', and this column's is {wanted}")
        if len(tensor.shape) != 2 or tensor.shape[1] != 1 or tensor.shape[0] < 0:
            raise BadRequest(f"unexpected shape for input '{name}': a column is [n,1], got {_dims(tensor.shape)}")
        if tensor.shape[0] != count:
            raise BadRequest(f"input '{name}' has {tensor.shape[0]} rows, and the first has {count}")
        if tensor.shm is not None:
            raise BadRequest(f"input '{name}' lies in shared memory, and columns have to be sent")
        data = materialise(tensor)
        size = SIZES[tensor.datatype]
        if size:
            if len(data) != count * size:
                raise BadRequest(
                    f"input byte size mismatch for input '{name}'. Expected {count * size}, got {len(data)}"
                )
            return tensor.datatype, data
        try:
            found = count_elements(data)
        except ValueError as error:
            raise BadRequest(f"input '{name}': {error}") from None
        if found != count:
            raise BadRequest(f"expected {count} string elements for input '{name}', got {found}")
        return tensor.datatype, data

    def _unknown(self, name: str, where: str = "") -> BadRequest:
        return BadRequest(
            f"{where}there is no column '{name[:80]}': {suggest(name[:80], list(self._kinds), 'columns')}"
        )


def columns_of(rows: Rows) -> list[InputTensor]:
    """Rows that a plan has taken, as a tensor for each column that they name.

    A column of numbers alone is FP64 (missing: NaN), any other BYTES (missing: empty).
    """
    values, names = rows.rows, rows.columns
    if names is not None:
        return [_tensor_of(name, [row[at] for row in values]) for at, name in enumerate(names)]
    return [_tensor_of(name, [row.get(name) for row in values]) for name in dict.fromkeys(chain.from_iterable(values))]


def _tensor_of(name: str, values: list[Any]) -> InputTensor:
    shape = [len(values), 1]
    if all(value is None or type(value) in (int, float) for value in values):
        numbers = np.array([math.nan if value is None else _float(value) for value in values], np.float64)
        return InputTensor(name, "FP64", shape, None, numbers.tobytes())
    texts = [_text_of(value) for value in values]
    data = b"".join([len(text).to_bytes(4, "little") + text for text in texts])
    return InputTensor(name, "BYTES", shape, None, data)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond FP64
        return math.inf if value > 0 else -math.inf


def _text_of(value: Any) -> bytes:
    if value is None:
        return b""
    return (str(value).lower() if isinstance(value, bool) else str(value)).encode("utf-8", "surrogatepass")


def _rows_of(call: InferCall) -> int:
    """How many rows the first column says there are."""
    shape: Any = call.inputs[0].shape if call.inputs else ()
    return max(0, shape[0]) if shape else 0


def _refusal(refused: Refused, first: int = 0) -> BadRequest:
    return BadRequest(f"row {first + refused.row + 1}: '{refused.column}' {refused.words}")


def _dims(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
