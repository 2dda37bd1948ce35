"""The `store` and `registry` sections: which model versions may serve, and where that is kept."""

from __future__ import annotations

from typing import Literal

from gateway.settings.forms import FilePath, Section


class Store(Section, frozen=True):
    """The database of the registry, of what monitors counted, and of webhooks."""

    url: str | None = None
    """`postgresql://USER:PASSWORD@HOST:PORT/NAME`, with libpq's options (`?sslmode=verify-full`), for several gateways
    that share one registry and the history of their monitors; PostgreSQL 15 or newer. Write the password as `${NAME}`.
    Absent: SQLite, in `state_dir/store`."""

    def __repr__(self) -> str:
        """Without the URL, which may hold a password."""
        return f"Store(url={None if self.url is None else '...'})"


class Registry(Section, frozen=True):
    """Which model versions may serve; see `docs/registry.md`."""

    enforce: Literal["true", "warn", "false"] = "false"
    """`true`: requests for a version that is not approved are refused (403), and a variant without a version is served
    by its model's live version. `warn`: they are served and counted. `false`: nobody looks."""
    requirements: FilePath | None = None
    """What each risk class asks for (YAML): approvals, gates. `tidegate registry submit` needs it."""
