"""Paths of a model's pages on a model server (OIP HTTP)."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote


@lru_cache(maxsize=4096)
def model_target(model: str, version: str = "", page: str = "") -> str:
    """`/v2/models/MODEL[/versions/VERSION][/PAGE]`, percent-encoded; version "": the server's choice."""
    target = f"/v2/models/{quote(model, safe='')}"
    if version:
        target += f"/versions/{quote(version, safe='')}"
    return f"{target}/{page}" if page else target
