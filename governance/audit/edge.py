"""The right edge of a growing tree: what a log has to remember to append to it.

Contract: pure. For each level of tiles the hashes of the tile that is not full yet; from them come the root, and
with new leaves the tiles to write. An edge never changes: `extended` makes another, so that a step that fails
leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from governance.audit.tiles import WIDTH, hashes_of, levels, tile_path
from kernels import merkle


class Edge(msgspec.Struct, frozen=True):
    """The tree of the first `size` leaves, as far as appending needs it."""

    size: int = 0
    rows: tuple[tuple[bytes, ...], ...] = ()
    """Row L: the hashes of the last, partial tile of level L; `size // 256**L % 256` of them."""

    def node(self, level: int, index: int) -> bytes:
        """The root of a perfect subtree that lies in a partial tile."""
        row, height = self.rows[level // 8], level % 8
        at = (index << height) % WIDTH
        return merkle.fold(row[at : at + (1 << height)])

    @property
    def root(self) -> bytes:
        """The tree's root."""
        return merkle.root(self.size, self.node)

    def extended(self, leaves: Sequence[bytes]) -> tuple[Edge, list[tuple[str, bytes]]]:
        """The edge with more leaf hashes, and the tiles `(path, content)` that are new, full ones first."""
        rows = [list(row) for row in self.rows]
        tiles = []
        new: Sequence[bytes] = leaves
        level, index = 0, self.size // WIDTH
        while new:
            if level == len(rows):
                rows.append([])
            row = rows[level]
            row.extend(new)
            full = [row[at : at + WIDTH] for at in range(0, len(row) - WIDTH + 1, WIDTH)]
            tiles += [(tile_path(level, index + i), b"".join(tile)) for i, tile in enumerate(full)]
            del row[: WIDTH * len(full)]
            if row:
                tiles.append((tile_path(level, index + len(full), len(row)), b"".join(row)))
            new = [merkle.fold(tile) for tile in full]
            level, index = level + 1, index // WIDTH
        tiles.sort(key=lambda tile: ".p/" in tile[0])
        return Edge(self.size + len(leaves), tuple(map(tuple, rows))), tiles


def edge_tiles(size: int) -> list[tuple[int, int, int]]:
    """The partial tiles `(level, index, width)` that an edge of that size is read from; width 0: none."""
    counts = [size >> (8 * level) for level in range(levels(size))]
    return [(level, count // WIDTH, count % WIDTH) for level, count in enumerate(counts)]


def edge_from(size: int, contents: Sequence[bytes]) -> Edge:
    """The edge from the contents of `edge_tiles(size)`, level by level. Raises ValueError."""
    rows = [
        tuple(hashes_of(content)[:width]) for content, (_, _, width) in zip(contents, edge_tiles(size), strict=True)
    ]
    for row, (level, _, width) in zip(rows, edge_tiles(size), strict=True):
        if len(row) != width:
            raise ValueError(f"the last tile of level {level} has {len(row)} hashes and not {width}")
    return Edge(size, tuple(rows))
