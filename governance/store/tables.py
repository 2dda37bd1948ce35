"""The tables. A change of one is a migration, too: `tests/registry/test_store.py` compares them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class RegistryStep(SQLModel, table=True):
    """One step (`governance.registry.events.Event`). Rows are added and never changed but for `recorded`."""

    __tablename__ = "registry_step"
    __table_args__ = (UniqueConstraint("model", "version", "number", name="uq_registry_step"),)

    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(sa_type=Text)
    version: str = Field(sa_type=Text)
    number: int
    """0 for a version's first; with the unique constraint it is what keeps two people from the same step."""
    entry: str = Field(sa_type=Text)
    """The step, JSON."""
    recorded: bool = Field(default=False)
    """Whether its record is in the audit log's hands."""


class MonitorTile(SQLModel, table=True):
    """What a monitor counted in a while (`governance.monitor.tile`); written and read by `governance.store.tiles`."""

    __tablename__ = "monitor_tile"
    __table_args__ = (Index("ix_monitor_tile_level_start", "level", "start"),)

    route: str = Field(sa_type=Text, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    """Of the profile and the outputs that are watched."""
    level: int = Field(sa_type=Integer, primary_key=True, sa_column_kwargs={"autoincrement": False})
    """Seconds of it: 60, 300, 3600 or 86400."""
    start: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    """Unix time in seconds, a multiple of `level`."""
    replica: str = Field(sa_type=Text, primary_key=True)
    """Who counted it; empty: all, merged."""
    tile: bytes = Field(sa_type=LargeBinary)


class MonitorReplica(SQLModel, table=True):
    """How far one gateway's counts of a monitor have been written: what makes a tile count once."""

    __tablename__ = "monitor_replica"

    route: str = Field(sa_type=Text, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    replica: str = Field(sa_type=Text, primary_key=True)
    through: int = Field(sa_type=BigInteger)
    """Unix nanoseconds of the last record of its journal that is in tiles."""


class WebhookDelivery(SQLModel, table=True):
    """One message (`governance.webhooks.messages`) for one endpoint, and how far its delivery has come."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        UniqueConstraint("endpoint", "message", name="uq_webhook_delivery"),
        Index("ix_webhook_delivery_due", "state", "due"),
    )

    id: int | None = Field(default=None, primary_key=True)
    endpoint: str = Field(sa_type=Text)
    """Its name in the settings."""
    message: str = Field(sa_type=Text)
    """Its id, the same for every endpoint; with the unique constraint a message is put in once."""
    type: str = Field(sa_type=Text)
    body: str = Field(sa_type=Text)
    """As it is signed and sent."""
    made: float = Field(sa_type=Double)
    """Unix time, as the next two: when it was put in."""
    due: float = Field(sa_type=Double)
    """When it is to be tried next, while it waits."""
    tried: float | None = Field(default=None, sa_type=Double)
    """When it was tried last."""
    attempts: int = Field(default=0)
    state: str = Field(sa_type=Text)
    """`waiting`, `delivered` or `failed`."""
    status: str = Field(default="", sa_type=Text)
    """What the last attempt came to."""
