"""What a client's certificate says of its owner, and which user that is.

Contract: certificates come from finished handshakes, so they verified against `listen.tls.client_ca`. Both
doors read them with the same parser. A name is taken whole and never mended: one that could be mistaken for
another (control characters, blanks around it, a wildcard) is nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

_LONGEST = 2048
"""Characters of a name (SPIFFE ID specification, 2.3: at most 2048 bytes)."""
_BROKEN = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library raises for a certificate that it cannot read; these have no class in common."""


class PeerCertificate(msgspec.Struct, frozen=True):
    """The names in a verified certificate."""

    san_uri: tuple[str, ...] = ()
    san_dns: tuple[str, ...] = ()
    cn: tuple[str, ...] = ()
    not_after: float = 0.0
    """Unix time of its end."""


@lru_cache(maxsize=4096)
def certificate_of(encoded: bytes) -> PeerCertificate:
    """The names of a certificate in DER or PEM; one whose names cannot be read has none."""
    pem = encoded.startswith(b"-----")
    try:
        found = x509.load_pem_x509_certificate(encoded) if pem else x509.load_der_x509_certificate(encoded)
        names: Any = ()
        with contextlib.suppress(x509.ExtensionNotFound):
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return PeerCertificate(
            tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
            tuple(names.get_values_for_type(x509.DNSName)) if names else (),
            tuple(str(one.value) for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
            found.not_valid_after_utc.timestamp(),
        )
    except _BROKEN:  # OpenSSL verified the signature, not that every name in it is well-formed
        return PeerCertificate()


def user_of(certificate: PeerCertificate, user_from: Literal["san_uri", "san_dns", "cn"]) -> str | None:
    """The user's name; None when the certificate has no such name, or has expired since its handshake.

    Of several DNS names the first counts, as their order is the CA's. Several URIs or common names are
    ambiguous and nobody's (an X.509-SVID has exactly one URI).
    """
    if certificate.not_after < time.time():
        return None
    names: tuple[str, ...] = getattr(certificate, user_from)
    if not names or (len(names) > 1 and user_from != "san_dns"):
        return None
    name = names[0]
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= _LONGEST or "*" in name:
        return None
    return name


def certificate_of_scope(scope: Mapping[str, Any]) -> PeerCertificate | None:
    """The certificate of the client of an ASGI request; None when it showed none."""
    return getattr(scope.get("tidegate.connection"), "certificate", None)
