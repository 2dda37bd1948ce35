"""The registry's steps, written and read.

Contract: `append` is durable when it returns, and there is one step of a number: who comes second gets `Overtaken` and
has to look again. Every step is marked until the audit log has its record; `unrecorded` are those that a crash left.
With a step go the messages that webhooks tell of it, in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from governance.registry.desk import Overtaken
from governance.registry.events import Event, decode, encode
from governance.registry.machine import Standing
from governance.store.database import transaction
from governance.store.outbox import put
from governance.store.tables import RegistryStep
from governance.webhooks.messages import Subscriber, of_step

_TABLE = RegistryStep.__table__  # type: ignore[attr-defined]  # SQLModel makes it for `table=True`


class Steps:
    """The steps in one database.

    Args:
        engine: of it.
        subscribers: who is told of new steps.
    """

    def __init__(self, engine: Engine, subscribers: Sequence[Subscriber] = ()) -> None:
        self._engine = engine
        self._subscribers = subscribers

    def of(self, model: str, version: str) -> list[Event]:
        """The steps of one version, in order. Raises StoreError, RegistryBroken."""
        with transaction(self._engine) as connection:
            return _of(connection, model, version)

    def all(self) -> list[Event]:
        """Every step, in the order of their writing. Raises as `of`."""
        with transaction(self._engine) as connection:
            return [
                decode(entry) for entry in connection.execute(select(_TABLE.c.entry).order_by(_TABLE.c.id)).scalars()
            ]

    def append(self, step: Event) -> None:
        """Write one step, and what is told of it. Raises Overtaken, StoreError, RegistryBroken."""
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
            if self._subscribers:
                then = Standing(_of(connection, step.model, step.version))
                put(connection, self._subscribers, [of_step(step, then)], time.time())

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


def _of(connection: Connection, model: str, version: str) -> list[Event]:
    query = select(_TABLE.c.entry).where(_TABLE.c.model == model, _TABLE.c.version == version).order_by(_TABLE.c.number)
    return [decode(entry) for entry in connection.execute(query).scalars()]
