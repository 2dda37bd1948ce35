"""Reading a log as records: for people, for other programs, for tables.

Contract: entries in log order, as the log's files have them, from the first one that was not pruned; nothing is
verified here. An entry that is no record is shown as `{"index", "entry"}` with its bytes in base64, and not left out.
"""

from __future__ import annotations

import base64
import calendar
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from governance.audit import record as records
from governance.audit.checkpoint import Checkpoint, unverified
from governance.audit.note import NoteError
from governance.audit.pruned import read_pruned
from governance.audit.tiles import WIDTH
from governance.audit.treefiles import TreeFiles
from governance.errors import AuditInputError

_FOLLOW_S = 0.5
_ROWS = 16_384
"""Records in one row group of a Parquet file: some 10 MB in memory."""


def read_checkpoint(folder: Path) -> Checkpoint:
    """What the log says of itself, whoever signed it. Raises AuditInputError."""
    path = folder / "checkpoint"
    try:
        return unverified(path.read_bytes())
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): give the folder of a log") from None
    except NoteError as error:
        raise AuditInputError(f"{path}: not a checkpoint ({error}): `tidegate audit verify` says more") from None


def entries(
    folder: Path, first: int = 0, last: int | None = None, size: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """The entries `(index, raw)` from `first` to `last`, both included.

    Args:
        folder: the log.
        first: index of the first; those that were pruned are passed over.
        last: index of the last; None: the last there is.
        size: of the log; None: as its checkpoint says.

    Raises:
        AuditInputError: something cannot be read, or all that was asked for was pruned.
    """
    if size is None:
        size = read_checkpoint(folder).size
    pruned = read_pruned(folder, size)
    if pruned is not None and first < pruned.before:
        if last is not None and first <= last < pruned.before:
            raise AuditInputError(f"{folder}: {pruned}: the first that is there is {pruned.before}")
        first = pruned.before
    end = size if last is None else min(size, last + 1)
    files = TreeFiles(folder, size)
    for index in range(first // WIDTH, -(-end // WIDTH)):
        begin = index * WIDTH
        try:
            found = files.bundle(index, min(WIDTH, size - begin))
        except (OSError, ValueError) as error:
            raise AuditInputError(f"{folder}: {error}: `tidegate audit verify` says more") from None
        for at, entry in enumerate(found, begin):
            if first <= at < end:
                yield at, entry


def follow(folder: Path, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """The entries from `first` on, and then every one that comes, for ever. Raises AuditInputError."""
    while True:
        for index, entry in entries(folder, first):
            first = index + 1
            yield index, entry
        time.sleep(_FOLLOW_S)


def as_object(index: int, entry: bytes) -> dict[str, Any]:
    """An entry as a JSON object that begins with its index."""
    try:
        return {"index": index, **records.decode(entry)}
    except ValueError:
        return {"index": index, "entry": base64.b64encode(entry).decode()}


def export(folder: Path, to: Path) -> int:
    """Write every record that is there to a file, whose ending says how: `.jsonl` or `.parquet`; how many there were.

    Raises:
        AuditInputError: the ending is another, the log cannot be read, the file cannot be written, or Parquet's
            library is missing.
    """
    writers = {".jsonl": _to_jsonl, ".parquet": _to_parquet}
    writer = writers.get(to.suffix)
    if writer is None:
        raise AuditInputError(f"{to}: its ending says no form: name it FILE.jsonl or FILE.parquet")
    size = read_checkpoint(folder).size
    count = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for index, entry in entries(folder, size=size):
            count += 1
            yield as_object(index, entry)

    try:
        writer(rows(), to)
    except OSError as error:
        raise AuditInputError(f"{to}: cannot be written ({error.strerror}): check the path, rights and room") from None
    return count


def _to_jsonl(rows: Iterator[dict[str, Any]], to: Path) -> None:
    with to.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


_INTEGERS = {"index", "latency_us", "rule"}


def _to_parquet(rows: Iterator[dict[str, Any]], to: Path) -> None:
    """One column a field, nested ones as JSON text; `time` both as text and, in `time_ns`, as a timestamp."""
    try:
        import pyarrow as pa  # noqa: PLC0415  heavy, and only wanted here
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError:
        raise AuditInputError(f"{to}: Parquet needs a library: `pip install tidegate[parquet]`") from None
    kinds = {name: pa.int64() if name in _INTEGERS else pa.string() for name in ("index", *records.FIELDS, "entry")}
    kinds["roles"], kinds["allowed"] = pa.list_(pa.string()), pa.bool_()
    schema = pa.schema([*kinds.items(), ("time_ns", pa.timestamp("ns", tz="UTC"))])
    with pq.ParquetWriter(to, schema, compression="zstd") as writer:
        while chunk := list(itertools.islice(rows, _ROWS)):
            columns = [pa.array([_cell(row.get(name), name) for row in chunk], kind) for name, kind in kinds.items()]
            stamps = pa.array([_nanoseconds(row.get("time")) for row in chunk], schema.field("time_ns").type)
            writer.write_table(pa.table([*columns, stamps], schema=schema))


def _cell(value: Any, name: str) -> Any:
    if name in _INTEGERS:
        return value if isinstance(value, int) else None
    if name == "allowed":
        return value if isinstance(value, bool) else None
    if name == "roles":
        return [str(item) for item in value] if isinstance(value, list) else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _nanoseconds(text: Any) -> int | None:
    """Nanoseconds since 1970 of a record's `time`; None: it has not that form."""
    try:
        seconds, _, rest = str(text).removesuffix("Z").partition(".")
        return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(f"{rest:0<9}"[:9])
    except ValueError:
        return None
