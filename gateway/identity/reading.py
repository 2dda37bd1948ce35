"""The key sets that the settings name as files: read, judged, watched.

Contract: as for certificates: what is judged is what is used, so the bytes go into the snapshot and its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.identity.jwks import MOST_BYTES, KeySetError, parse
from gateway.settings import Settings
from governance.documents.convert import Places
from governance.types import Finding


def is_url(jwks: str) -> bool:
    """Whether the keys are asked for over HTTP."""
    return jwks.startswith(("http://", "https://"))


def urls(settings: Settings) -> set[str]:
    """The URLs that are asked for keys."""
    return set() if settings.identity is None else {one.jwks for one in settings.identity.jwt if is_url(one.jwks)}


def watched(settings: Settings) -> Iterator[Path]:
    """The key set files."""
    if settings.identity is not None:
        yield from (Path(one.jwks) for one in settings.identity.jwt if not is_url(one.jwks))


def read_key_sets(settings: Settings, file: str, places: Places) -> tuple[dict[str, bytes], list[Finding]]:
    """The bytes of every key set file, and what is wrong with them.

    Args:
        settings: well-formed.
        file: the settings file's name in findings.
        places: where everything stands in it.
    """
    found: dict[str, bytes] = {}
    findings: list[Finding] = []
    for at, one in enumerate(() if settings.identity is None else settings.identity.jwt):
        if is_url(one.jwks):
            continue
        try:
            with Path(one.jwks).open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
            parse(data)
        except (OSError, ValueError) as error:
            if isinstance(error, KeySetError):
                findings.append(Finding(one.jwks, error.line, 1, "error", "key-set", str(error)))
                continue
            line, column = places.of(("identity", "jwt", at, "jwks"))
            why = error.strerror if isinstance(error, OSError) else "no path"
            message = f"`identity.jwt[{at}].jwks` {one.jwks} cannot be read ({why}): check the path and its rights"
            findings.append(Finding(file, line, column, "error", "unreadable-key-set", message))
            continue
        found[one.jwks] = data
    return found, findings
