"""Gateways' monitors and one store, without the gateways: real shards, journals and databases."""

import struct
from types import SimpleNamespace

import numpy as np

from gateway.monitors import Board, History
from governance.monitor import profile, tile
from governance.store import tiles as stored
from governance.store.database import open_database
from governance.tables import Column, Table
from kernels import drift

SECOND = 10**9
BEGIN = 1_800_000_000 // 86400 * 86400
"""A midnight, Unix seconds."""
AWAY = "postgresql://tide@127.0.0.1:1/away"


def made(folder):
    """A profile of two columns."""
    path = folder / "data"
    path.touch()
    columns = {"x": Column([i / 7 for i in range(100)], written=False), "n": Column([*"abcd"] * 25, written=False)}
    return profile.build(Table(path, 100, columns, ()))


class Gateway:
    """What one has of a monitor."""

    def __init__(self, folder, url, store=None, route="r", seed=1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if url != AWAY:
            open_database(url or "", store or folder).dispose()  # in this process: another one costs seconds
        self.history = History(url, store or folder)
        self.board = Board(folder / "monitors", self.history)
        self.monitor = self.board.of({route: made(folder)})[route]
        for shard in self.monitor.folder.glob("shard-*"):
            with shard.open("r+b") as file:  # time goes as the test says
                file.seek(16)
                file.write(struct.pack("=Q", BEGIN * SECOND))
        self.rng = np.random.default_rng(seed)

    def count(self, rows):
        names = self.rng.choice([*"abcde", ""], rows)
        text = b"".join(len(name).to_bytes(4, "little") + name.encode() for name in names.tolist())
        numbers = self.rng.normal(7, 5, rows) * 10.0 ** self.rng.integers(0, 3)
        self.monitor.count(
            [
                SimpleNamespace(name="x", datatype="FP64", shape=[rows], data=numbers.tobytes()),
                SimpleNamespace(name="n", datatype="BYTES", shape=[rows], data=text),
            ]
        )

    def minute(self, at, *, feed=True):
        """What the keeper of the machine does; Unix seconds."""
        self.monitor.keep(at * SECOND)
        if feed:
            self.history.feed([self.monitor.past], at * SECOND)

    def block(self):
        return self.monitor.merged()[1]


def in_store(plain, monitor, levels=stored.LEVELS):
    """The block of all tiles in the store, and how many there are by level."""
    with plain.transaction(write=False) as execute:
        rows = execute("SELECT level, tile FROM monitor_tile WHERE route = ?", (monitor.route,))
    by_level = {level: sum(row[0] == level for row in rows) for level in levels}
    merged = tile.merge([bytes(row[1]) for row in rows])
    return monitor.past._format.decode(merged), by_level


def merged(*gateways):
    columns = gateways[0].monitor.past._format.columns
    return drift.merge(columns, [gateway.block().tobytes() for gateway in gateways])
