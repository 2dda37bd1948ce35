"""What webhooks have to tell: put in with the step that it tells of, taken out by whoever delivers.

Contract: `put` is part of the caller's transaction, so that a message is there exactly when its step is; the same
message is put in once for each endpoint. `claim` gives an attempt to one of several gateways; when that one dies over
it, the message is due again after `LEASE_S`. So every message is delivered at least once, and its id says when it comes
twice. Rows stay, as the log of deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite

from governance.store.database import transaction
from governance.store.tables import WebhookDelivery
from governance.webhooks.messages import Message, Subscriber

_TABLE = WebhookDelivery.__table__  # type: ignore[attr-defined]  # SQLModel makes it for `table=True`
LEASE_S = 60.0
"""Longer than an attempt."""

DeliveryState: TypeAlias = Literal["waiting", "delivered", "failed"]


class Delivery(msgspec.Struct, frozen=True):
    """One row; see `governance.store.tables`."""

    id: int
    endpoint: str
    message: str
    type: str
    body: str
    made: float
    due: float
    tried: float | None
    attempts: int
    state: DeliveryState
    status: str


def put(connection: Connection, subscribers: Iterable[Subscriber], messages: Iterable[Message], now: float) -> None:
    """Put messages in for whoever wants them, in the connection's transaction."""
    rows = [
        {
            "endpoint": one.name,
            "message": message.id,
            "type": message.type,
            "body": message.body.decode(),
            "made": now,
            "due": now,
            "attempts": 0,
            "state": "waiting",
            "status": "",
        }
        for message in messages
        for one in subscribers
        if one.wants(message.type)
    ]
    if rows:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(_TABLE).on_conflict_do_nothing(index_elements=["endpoint", "message"]), rows)


class Outbox:
    """The deliveries of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, subscribers: Iterable[Subscriber], messages: Iterable[Message], now: float) -> None:
        """As the function, in a transaction of its own. Raises StoreError, as all the others."""
        with transaction(self._engine) as connection:
            put(connection, subscribers, messages, now)

    def due(self, endpoints: Sequence[str], now: float, most: int) -> list[Delivery]:
        """What is to be tried now, oldest first."""
        query = (
            select(_TABLE)
            .where(_TABLE.c.state == "waiting", _TABLE.c.due <= now, _TABLE.c.endpoint.in_(endpoints))
            .order_by(_TABLE.c.id)
            .limit(most)
        )
        return self._found(query)

    def claim(self, one: Delivery, now: float) -> bool:
        """Whether this attempt is the caller's; it counts from here on."""
        return self._changed(one, {"attempts": one.attempts + 1, "tried": now, "due": now + LEASE_S})

    def delivered(self, one: Delivery, status: str) -> None:
        """A claimed attempt has come to its end, as the next two."""
        self._changed(one, {"state": "delivered", "status": status}, claimed=1)

    def again(self, one: Delivery, status: str, due: float) -> None:
        """It is to be tried again."""
        self._changed(one, {"status": status, "due": due}, claimed=1)

    def failed(self, one: Delivery, status: str) -> None:
        """It is not tried again unless somebody asks for that."""
        self._changed(one, {"state": "failed", "status": status}, claimed=1)

    def retry(self, now: float, *, endpoint: str | None = None, message: str | None = None) -> int:
        """Make due now what is not delivered, with all its attempts before it; how many."""
        query = update(_TABLE).where(_TABLE.c.state != "delivered").values(state="waiting", due=now, attempts=0)
        if endpoint is not None:
            query = query.where(_TABLE.c.endpoint == endpoint)
        if message is not None:
            query = query.where(_TABLE.c.message == message)
        with transaction(self._engine) as connection:
            return int(connection.execute(query).rowcount)

    def log(self, *, endpoint: str | None, state: str | None, message: str | None, most: int) -> list[Delivery]:
        """Deliveries, newest first."""
        query = select(_TABLE).order_by(_TABLE.c.id.desc()).limit(most)
        for column, wanted in ((_TABLE.c.endpoint, endpoint), (_TABLE.c.state, state), (_TABLE.c.message, message)):
            if wanted is not None:
                query = query.where(column == wanted)
        return self._found(query)

    def _changed(self, one: Delivery, values: dict[str, Any], claimed: int = 0) -> bool:
        """Change a row that nobody else has tried or asked for since."""
        query = (
            update(_TABLE)
            .where(_TABLE.c.id == one.id, _TABLE.c.state == "waiting", _TABLE.c.attempts == one.attempts + claimed)
            .values(**values)
        )
        with transaction(self._engine) as connection:
            return int(connection.execute(query).rowcount) == 1

    def _found(self, query: Any) -> list[Delivery]:
        with transaction(self._engine) as connection:
            return [Delivery(**row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
