"""The tables. A change of one is a migration, too: `tests/registry/test_store.py` compares them."""

from __future__ import annotations

from sqlalchemy import Text, UniqueConstraint
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
