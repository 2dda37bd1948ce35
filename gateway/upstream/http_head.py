"""The text of a request's head, and the address it goes to.

Contract: nothing a caller gives can end a header line or a request early; what could is refused as BadRequest
with the header's name. Framing headers (`content-length`, `connection`, `transfer-encoding`, `host`) are the
connection's own and must not be in the caller's headers.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import BadRequest
from gateway.headers import Travelling


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT` as host (without brackets) and port.

    Raises:
        ValueError: no port, or one that is not a number.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def host_header(host: str, port: int) -> str:
    """The `host` header of a server: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header lines `name: value` + CR LF each, in latin-1 (RFC 9110 5.5), ready for `Pool.request`.

    Raises:
        BadRequest: a name or value holds CR, LF or NUL, or a character outside of latin-1.
    """
    if type(headers) is not Travelling:
        return _block(headers)
    try:
        return headers.block
    except AttributeError:
        headers.block = _block(headers)
        return headers.block


def _block(headers: Iterable[tuple[str, str]]) -> bytes:
    pairs = list(headers)
    text = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    # One count over the whole block instead of a scan of each name and value: a CR, LF or NUL too many is
    # found here, and only then looked for by name.
    lines = len(pairs)
    if text.count("\n") != lines or text.count("\r") != lines or "\0" in text or not text.isascii():
        return _careful(pairs)
    return text.encode("ascii")


def _careful(pairs: list[tuple[str, str]]) -> bytes:
    lines: list[bytes] = []
    for name, value in pairs:
        line = f"{name}: {value}"
        if "\r" in line or "\n" in line or "\0" in line or not name.isascii():
            raise BadRequest(f"header {name.encode('ascii', 'backslashreplace').decode()!r} has an invalid character")
        try:
            lines.append(line.encode("latin-1") + b"\r\n")
        except UnicodeEncodeError:
            raise BadRequest(f"header {name!r} has a character outside of latin-1") from None
    return b"".join(lines)


def request_line(method: str, target: str) -> bytes:
    """`METHOD TARGET HTTP/1.1` + CR LF.

    Raises:
        BadRequest: the target holds a space, a control character or anything that is not ASCII.
    """
    if not target.isascii() or not target.isprintable() or " " in target:
        raise BadRequest("the path has a character that must be percent-encoded")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")
