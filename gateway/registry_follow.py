"""Follows the store: what the registry says lands in `state_dir/registry/view.json`, where workers read it.

Contract: one follower a gateway, in the supervisor, looks each second. While the store is away or empty, or its
history is one that nobody could have made, the file stays as it is and the log says so once.
"""

from __future__ import annotations

import asyncio

from gateway import logs
from gateway.approvals import view_file
from gateway.settings import Settings
from governance.audit.files import make_folder, replace
from governance.errors import RegistryBroken, StoreError
from governance.registry.events import decode
from governance.registry.view import View, encode, view_of
from governance.store.reading import Reader, reader

_log = logs.get("registry")

_NOTHING = encode(View())
LOOK_S = 1.0
"""With the snapshot's own 1.7 s within the 5 s that are promised."""


class Follower:
    """Of one gateway's registry."""

    def __init__(self, settings: Settings) -> None:
        self._path = view_file(settings.state_dir)
        self._reader: Reader = reader(settings.store.url or "", settings.state_dir)
        self._seen: tuple[int, int] | None = None
        self._trouble = ""

    def look(self) -> None:
        """Once. Blocks, for some seconds when a server is away; never raises."""
        try:
            latest = self._reader.latest()
            if latest == self._seen:
                self._well()
                return
            content = encode(view_of([decode(entry) for entry in self._reader.entries()]))
            before = self._path.read_bytes() if self._path.exists() else b""
            if content == _NOTHING and before not in (b"", content):
                # Steps are only ever added: this is a database that was lost, or a file system that is not mounted.
                raise StoreError(f"the store is empty and was not; restore it, or remove {self._path}")
            if before != content:
                make_folder(self._path.parent)
                replace(self._path, content, alone=False)
            self._seen = latest
            self._well()
        except (StoreError, RegistryBroken, OSError) as error:
            if self._trouble != str(error):
                _log.error("the registry cannot be followed, what was known last holds: %s", error)
            self._trouble = str(error)

    def _well(self) -> None:
        if self._trouble:
            _log.info("the registry is followed again")
        self._trouble = ""

    async def follow(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                await asyncio.to_thread(self.look)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()
