"""What is wrong with `store` and `registry`, and with the file of requirements that they name.

Contract: as `check`. A URL that may hold a password is never repeated.
"""

from __future__ import annotations

import importlib.util
from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.settings.checker import Checker
from governance.documents.convert import Place, Places
from governance.registry.requirements import parse
from governance.types import Finding

_FORM = "postgresql://USER:PASSWORD@HOST:PORT/NAME"


def registry(settings: Settings, check: Checker) -> None:
    """Adds what is wrong with the two sections."""
    url, place = settings.store.url, ("store", "url")
    if url is None:
        return
    why = _not_postgres(url)
    if why:
        check.error(place, "wrong-value", f"`store.url` {why}: write {_FORM}, or remove it for SQLite in `state_dir`")
    elif importlib.util.find_spec("psycopg") is None:
        message = "`store.url` needs PostgreSQL's driver: pip install 'tidegate[postgres]'"
        check.error(place, "missing-extra", message)


def _not_postgres(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("postgresql", "postgres"):
        return "is no postgresql:// URL"
    if not url.isprintable() or " " in url or not parts.path.strip("/"):
        return "names no database"
    return ""


def check_requirements(settings: Settings, file: str, places: Places) -> list[Finding]:
    """What is wrong with `registry.requirements`, at its own lines."""
    named = None if settings.registry is None else settings.registry.requirements
    if named is None:
        return []
    try:
        data = named.read_bytes()
    except OSError as error:
        place: Place = ("registry", "requirements")
        message = f"`registry.requirements` {named} cannot be read ({error.strerror}): check the path and its rights"
        return [Finding(file, *places.of(place), "error", "unreadable-requirements", message)]
    return parse(data, str(named))[1]
