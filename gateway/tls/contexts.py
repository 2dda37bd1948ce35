"""`ssl.SSLContext`s from PEM bytes.

Contract: TLS 1.2 and 1.3 only, forward secrecy and AEAD ciphers only (Mozilla's "intermediate" without the
CBC suites and RFC 9325), no renegotiation, no compression. Keys never touch a disk on the way: OpenSSL reads
them from anonymous memory.
"""

from __future__ import annotations

import os
import ssl
from typing import Any, Literal

from gateway.tls.material import ClientFiles, ServerFiles
from gateway.tls.mode import ClientCertificates

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of TLS 1.3 are all sound."""

_VERIFY = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


class RollingContext(ssl.SSLContext):
    """A context for a listener's whole life, whose every new connection is made by `current`.

    `SSLContext` can be given another certificate, but CAs can only be added, and what it verifies is shared
    with handshakes under way; so contexts are replaced as a whole. asyncio and uvloop ask the listener's
    context for one object a connection (`wrap_bio`): that is where the current one takes over.
    """

    current: ssl.SSLContext

    def __new__(cls, current: ssl.SSLContext) -> RollingContext:  # noqa: PYI034 - SSLContext is made in __new__
        """Made in `__new__`, as its base is."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made.current = current
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """The current context's."""
        return self.current.wrap_bio(*args, **kwargs)


def server_context(files: ServerFiles, clients: ClientCertificates, *, alpn: str) -> ssl.SSLContext:
    """For a listener.

    Args:
        files: the pair, and the CAs of clients when `clients` is not `none`.
        clients: whether clients show certificates.
        alpn: the protocol that is spoken (RFC 7301 name).

    Raises:
        ssl.SSLError: OpenSSL does not take the pair or the CAs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_pair(context, files.cert, files.key)
    if clients != "none":
        assert files.client_ca is not None
        context.load_verify_locations(cadata=files.client_ca.decode("ascii", "replace"))
    context.verify_mode = _VERIFY[clients]
    context.set_alpn_protocols([alpn])
    return context


def client_context(files: ClientFiles, alpn: Literal["http/1.1", "h2"] = "http/1.1") -> ssl.SSLContext:
    """For connections to a model server that speak `alpn`: its certificate and its name are verified.

    Raises:
        ssl.SSLError: OpenSSL does not take the pair or the CAs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if files.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cadata=files.ca.decode("ascii", "replace"))
    if files.cert is not None and files.key is not None:
        _load_pair(context, files.cert, files.key)
    context.set_alpn_protocols([alpn])
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    # `load_cert_chain` takes names of files only.
    fd = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as stream:
            stream.write(key.rstrip() + b"\n" + cert)
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_passphrase)
    finally:
        os.close(fd)


def _no_passphrase() -> str:
    """OpenSSL would ask at the terminal. Keys with a passphrase were refused before."""
    return ""
