"""The files of a tlog-tiles log in a folder, of one size.

Contract: reads only; a full tile or bundle stands in for its partial (tlog-tiles), and what lies beyond the size
is never looked at. Nothing is verified here: what the files say is checked against a root by those who ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from governance.audit.tiles import HASH, WIDTH, bundle_path, entries_of, tile_path
from kernels import merkle

_MOST_CACHED = 64


class TreeFiles:
    """One log as it was at one size."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._cache: dict[tuple[int, int], bytes] = {}

    def _read(self, full: str, partial: str) -> bytes:
        """The partial file, or the full one. Raises OSError, of the one that should be there."""
        try:
            return (self.folder / partial).read_bytes()
        except FileNotFoundError:
            if full == partial:
                raise
            try:
                return (self.folder / full).read_bytes()
            except FileNotFoundError:
                raise FileNotFoundError(2, "No such file or directory", str(self.folder / partial)) from None

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The first `width` hashes of a tile.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds fewer, or no whole number of them.
        """
        content = self._read(tile_path(level, index), tile_path(level, index, width))
        if len(content) % HASH or len(content) < HASH * width:
            raise ValueError(f"{tile_path(level, index, width)}: {len(content)} bytes and not {HASH * width}")
        return content[: HASH * width]

    def bundle(self, index: int, width: int) -> Sequence[bytes]:
        """The first `width` entries of a bundle.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds fewer, or is no bundle.
        """
        path = bundle_path(index, width)
        try:
            entries = entries_of(self._read(bundle_path(index), path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if len(entries) < width:
            raise ValueError(f"{path}: {len(entries)} entries and not {width}")
        return entries[:width]

    def present(self, index: int) -> None:
        """Look whether a full bundle is there. Raises FileNotFoundError; it is not."""
        (self.folder / bundle_path(index)).stat()

    def width(self, level: int, index: int) -> int:
        """How many hashes a tile of that level has in this tree."""
        return min(WIDTH, (self.size >> (8 * level)) - WIDTH * index)

    def node(self, level: int, index: int) -> bytes:
        """The root of a perfect subtree, from the tile that holds it or its parts. Raises OSError, ValueError."""
        row, height = divmod(level, 8)
        first = index << height
        tile = first // WIDTH
        content = self._cache.get((row, tile))
        if content is None:
            content = self.tile(row, tile, self.width(row, tile))
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            self._cache[row, tile] = content
        at = HASH * (first % WIDTH)
        return merkle.fold([content[at + HASH * i : at + HASH * (i + 1)] for i in range(1 << height)])

    def entry(self, index: int) -> bytes:
        """One entry. Raises OSError, ValueError."""
        at, within = divmod(index, WIDTH)
        return self.bundle(at, min(WIDTH, self.size - at * WIDTH))[within]
