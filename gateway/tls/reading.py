"""The settings' certificates and keys, from their files to `Material`.

Contract: never raises for what lies in files: what is wrong is a `Problem` at a place of the settings, and the
material lacks that part.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.settings import Settings, Tls, UpstreamTls
from gateway.tls.contexts import client_context, server_context
from gateway.tls.files import TlsFileError, read_cas, read_chain, read_key
from gateway.tls.material import ClientFiles, Material, ServerFiles
from governance.documents.convert import Place

_Made = TypeVar("_Made", ServerFiles, ClientFiles)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, at a place of the settings."""

    place: Place
    severity: str
    """`error` or `warning`."""
    code: str
    message: str


def read_material(settings: Settings) -> tuple[Material, list[Problem]]:
    """All files of the settings, read and judged."""
    problems: list[Problem] = []
    listen = None
    if settings.listen.tls is not None:
        listen = _server(settings.listen.tls, ("listen", "tls"), problems)
    upstreams: dict[str, ClientFiles] = {}
    for name, upstream in settings.upstreams.items():
        if upstream.tls is not None:
            files = _client(upstream.tls, ("upstreams", name, "tls"), problems)
            if files is not None:
                upstreams[name] = files
    backend = settings.limits.backend_tls
    if backend is not None:  # only judged here: whoever connects reads them
        _client(UpstreamTls(ca=backend.ca, cert=backend.cert, key=backend.key), ("limits", "backend_tls"), problems)
    return Material(listen, upstreams), problems


def watched(settings: Settings) -> Iterator[Path]:
    """The files whose change is a change of the material."""
    sections: list[Tls | UpstreamTls | None] = [settings.listen.tls]
    sections += [upstream.tls for upstream in settings.upstreams.values()]
    for section in sections:
        if isinstance(section, Tls):
            files: tuple[Path | None, ...] = (section.cert, section.key, section.client_ca)
        elif section is not None:
            files = (section.ca, section.cert, section.key)
        else:
            continue
        yield from (file for file in files if file is not None)


def _server(tls: Tls, place: Place, problems: list[Problem]) -> ServerFiles | None:
    before = _errors(problems)
    pair = _pair(tls.cert, tls.key, place, problems)
    client_ca = _cas(tls.client_ca, (*place, "client_ca"), problems)
    if pair is None or _errors(problems) > before:
        return None
    return _taken(ServerFiles(*pair, client_ca), (*place, "cert"), problems)


def _client(tls: UpstreamTls, place: Place, problems: list[Problem]) -> ClientFiles | None:
    before = _errors(problems)
    ca = _cas(tls.ca, (*place, "ca"), problems)
    pair: tuple[bytes, bytes] | None = None
    if tls.cert is not None and tls.key is not None:
        pair = _pair(tls.cert, tls.key, place, problems)
    if _errors(problems) > before:
        return None
    cert, key = (None, None) if pair is None else pair
    files = ClientFiles(ca, cert, key, tls.server_name)
    return _taken(files, (*place, "ca" if pair is None else "cert"), problems)


def _pair(cert: Path, key: Path, place: Place, problems: list[Problem]) -> tuple[bytes, bytes] | None:
    at = "cert"
    try:
        chain, leaf, warnings = read_chain(cert)
        problems += [Problem((*place, at), "warning", "expires-soon", text) for text in warnings]
        at = "key"
        return chain, read_key(key, leaf, cert)
    except TlsFileError as error:
        problems.append(Problem((*place, at), "error", error.code, str(error)))
        return None


def _cas(path: Path | None, place: Place, problems: list[Problem]) -> bytes | None:
    if path is None:
        return None
    try:
        data, warnings = read_cas(path)
    except TlsFileError as error:
        problems.append(Problem(place, "error", error.code, str(error)))
        return None
    problems += [Problem(place, "warning", "expired", text) for text in warnings]
    return data


def _taken(files: _Made, place: Place, problems: list[Problem]) -> _Made | None:
    """The files, when OpenSSL takes them too."""
    try:
        if isinstance(files, ServerFiles):
            server_context(files, "none" if files.client_ca is None else "required", alpn="http/1.1")
        else:
            client_context(files)
    except ssl.SSLError as error:
        reason = (error.reason or "no reason given").replace("_", " ").lower()
        problems.append(Problem(place, "error", "refused", f"OpenSSL does not take these certificates: {reason}"))
        return None
    return files


def _errors(problems: list[Problem]) -> int:
    return sum(problem.severity == "error" for problem in problems)
