"""What the history of monitors costs: `python -m bench.tiles [--url postgresql://...]`, a database of its own.

Gateways with a monitor of numeric columns each write a minute at a time, as their workers do; then days go by, of which
every fifth minute is simulated. CPU is this process's (the gateways'), bytes are the database's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from governance.monitor import tile
from governance.store import tiles as stored
from governance.store.plain import Plain
from kernels import drift

BEGIN = 1_800_000_000 // 86400 * 86400
SERIES = stored.Series("credit", "0" * 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="", help="an empty PostgreSQL database; absent: SQLite")
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=15)
    parser.add_argument("--rows", type=int, default=600, help="that a gateway serves in a minute")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Plain(asked.url, Path(folder)), asked)


def measure(plain: Plain, asked: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    edges = tuple(np.quantile(rng.normal(size=10_000), np.arange(1, 10) / 10).tolist())
    columns = [drift.Numbers(edges, 0.0, 2.0**16)] * asked.columns
    form = tile.Format(columns)
    plain.ready()
    counted = [minute_of(rng, columns, asked.rows) for _ in range(20)]

    before, now = counted[0], drift.merge(columns, [block.tobytes() for block in counted[:2]])
    spent = time.process_time()
    for _ in range(200):
        # What a worker does each minute, with four others' blocks to merge, but for the disk.
        drift.merge(columns, [block.tobytes() for block in counted[:4]])
        found = form.difference(now, before)
        assert found is not None
        made = form.encode(found)
    print(f"merge of 4 workers, difference and tile: {(time.process_time() - spent) * 5:.2f} ms of CPU a minute")
    print(f"a tile of {asked.columns} columns and {asked.rows} rows: {len(made)} bytes")

    made_tiles = [form.encode(block) for block in counted]
    spent = time.process_time()
    for minute in range(asked.minutes):
        for gateway in range(asked.gateways):
            write(plain, f"gateway-{gateway:03}-0123456789abcdef", minute, made_tiles[(minute + gateway) % 20])
    writes = asked.minutes * asked.gateways
    print(f"one write of a gateway: {(time.process_time() - spent) / writes * 1e3:.2f} ms of CPU, {writes} of them")
    show(plain, f"{asked.minutes} minutes of {asked.gateways} gateways")

    spent = time.process_time()
    moved = stored.fold(plain, BEGIN + 60 * asked.minutes + 600)
    each = (time.process_time() - spent) / moved * 1e3
    print(f"merging them: {each:.2f} ms of CPU a tile, {each * asked.gateways:.0f} ms a minute in one of the gateways")
    spent = time.process_time()
    read = stored.read(plain, SERIES, "gateway-000-0123456789abcdef", BEGIN)
    form.decode(tile.merge(read.tiles))
    print(f"a window over {len(read.tiles)} tiles: {(time.process_time() - spent) * 1e3:.1f} ms of CPU")

    day = 0
    for day in range(1, 41):
        for minute in range(0, 1440, 60 if day < 38 else 5):
            write(plain, "gateway-000-0123456789abcdef", day * 1440 + minute, made_tiles[minute // 5 % 20])
        if day % 5 == 0 or day > 36:
            stored.fold(plain, BEGIN + 86400 * (day + 1))
    show(plain, f"{day} days of all gateways, merged")


def minute_of(rng: np.random.Generator, columns: list[drift.Numbers], rows: int) -> npt.NDArray[np.uint64]:
    """What a worker counts in a minute."""
    block = bytearray(drift.nbytes(columns))
    shard = drift.Shard(block, columns, *drift.tensors_of([f"x_{at}" for at in range(len(columns))]))
    values = rng.normal(rng.normal(0, 0.2), 1, (rows, len(columns))).astype(np.float32)
    shard.count([Values(values.shape, values.tobytes())])
    return drift.merge(columns, [bytes(block)])


class Values:
    """A tensor as calls have it."""

    name, datatype = "x", "FP32"

    def __init__(self, shape: tuple[int, ...], data: bytes) -> None:
        self.shape, self.data = shape, data


def write(plain: Plain, gateway: str, minute: int, made: bytes) -> None:
    fresh = stored.Tile(BEGIN + 60 * minute, made)
    stored.append(plain, SERIES, gateway, lambda _: ([fresh], fresh.start * 10**9))


def show(plain: Plain, what: str) -> None:
    with plain.transaction(write=False) as execute:
        levels = execute(
            "SELECT level, COUNT(*), SUM(LENGTH(tile)) FROM monitor_tile GROUP BY level ORDER BY level", ()
        )
        if plain.shared:
            ((size,),) = execute("SELECT pg_total_relation_size('monitor_tile')", ())
        else:
            ((size,),) = execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", ())
    print(f"{what}: {int(size) / 2**20:.1f} MiB with indices, and what is free in them")
    for level, count, bytes_ in levels:
        print(f"    level {level}: {count} tiles of {int(bytes_) / count:.0f} bytes")


if __name__ == "__main__":
    main()
