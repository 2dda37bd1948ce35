"""The registry's steps, written and read.

Contract: `append` is durable when it returns, and there is one step of a number: who comes second gets `Overtaken` and
has to look again. Every step is marked until the audit log has its record; `unrecorded` are those that a crash left.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from governance.registry.desk import Overtaken
from governance.registry.events import Event, decode, encode
from governance.store.database import transaction
from governance.store.tables import RegistryStep

_TABLE = RegistryStep.__table__  # type: ignore[attr-defined]  # SQLModel makes it for `table=True`


class Steps:
    """The steps in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, model: str, version: str) -> list[Event]:
        """The steps of one version, in order. Raises StoreError, RegistryBroken."""
        query = (
            select(_TABLE.c.entry).where(_TABLE.c.model == model, _TABLE.c.version == version).order_by(_TABLE.c.number)
        )
        return self._decoded(query)

    def all(self) -> list[Event]:
        """Every step, in the order of their writing. Raises as `of`."""
        return self._decoded(select(_TABLE.c.entry).order_by(_TABLE.c.id))

    def _decoded(self, query: object) -> list[Event]:
        with transaction(self._engine) as connection:
            return [decode(entry) for entry in connection.execute(query).scalars()]  # type: ignore[call-overload]

    def append(self, step: Event) -> None:
        """Write one step. Raises Overtaken, StoreError."""
        row = {
            "model": step.model,
            "version": step.version,
            "number": step.number,
            "entry": encode(step).decode(),
            "recorded": False,
        }
        with transaction(self._engine) as connection:
            try:
                connection.execute(insert(_TABLE).values(**row))
            except IntegrityError:
                raise Overtaken from None

    def unrecorded(self) -> list[tuple[int, Event]]:
        """Steps whose records are not known to be in the audit log, with their rows, oldest first."""
        query = select(_TABLE.c.id, _TABLE.c.entry).where(_TABLE.c.recorded.is_(False)).order_by(_TABLE.c.id)
        with transaction(self._engine) as connection:
            return [(row, decode(entry)) for row, entry in connection.execute(query)]

    def recorded(self, rows: Sequence[int]) -> None:
        """Their records are. Raises StoreError."""
        with transaction(self._engine) as connection:
            connection.execute(update(_TABLE).where(_TABLE.c.id.in_(rows)).values(recorded=True))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
