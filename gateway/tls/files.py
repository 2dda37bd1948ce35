"""Certificates and keys in PEM files, read once and judged.

Contract: every reader returns the bytes that it judged, or raises `TlsFileError` whose text names the file and
says what to do; it never contains anything of a key. Warnings are returned beside. No other module opens these
files.
"""

from __future__ import annotations

import datetime as dt
import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

SOON = dt.timedelta(days=14)
"""A certificate that ends within this time is warned of (Let's Encrypt renews with 30 of 90 days left)."""
_LARGEST = 4 << 20
"""Bytes. The system's bundle of all public CAs has a quarter of a MiB."""
_LEAST_RSA_BITS = 2048
"""NIST SP 800-57 part 1: 112 bits of security. OpenSSL's default level refuses less as well."""
_BROKEN = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for files that it cannot read: its errors have no class in common. Whatever it is, it is
the file's fault."""


class TlsFileError(ValueError):
    """A file that cannot be used; `code` as in findings."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_chain(path: Path, now: dt.datetime | None = None) -> tuple[bytes, x509.Certificate, list[str]]:
    """A certificate and its chain.

    Returns:
        The bytes, the certificate itself (the first in the file), and warnings.

    Raises:
        TlsFileError: unreadable, no certificate, expired or not valid yet.
    """
    data = _read(path)
    leaf = _certificates(data, path)[0]
    now = now or dt.datetime.now(dt.UTC)
    if leaf.not_valid_after_utc <= now:
        raise TlsFileError("expired", f"{path} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it")
    if leaf.not_valid_before_utc > now:
        since = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise TlsFileError("not-yet-valid", f"{path} is not valid before {since}: look at this machine's clock")
    warnings = []
    if leaf.not_valid_after_utc <= now + SOON:
        warnings.append(f"{path} expires on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it")
    return data, leaf, warnings


def read_key(path: Path, certificate: x509.Certificate, certificate_path: Path) -> bytes:
    """The private key of a certificate.

    Raises:
        TlsFileError: unreadable, readable by others, with a passphrase, of a kind that is not served, or the key
            of another certificate.
    """
    data = _read(path, secret=True)
    key = _key(data, path)
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _LEAST_RSA_BITS:
            message = f"{path} is an RSA key of {key.key_size} bits: make one of {_LEAST_RSA_BITS} or more"
            raise TlsFileError("weak-key", message)
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TlsFileError("wrong-key", f"{path} is neither an RSA nor an EC key: gRPC serves no other kind")
    if _public(key.public_key()) != _public(certificate.public_key()):
        message = f"{path} is not the key of {certificate_path}: put the pair that belongs together in place"
        raise TlsFileError("key-mismatch", message)
    return data


def read_cas(path: Path, now: dt.datetime | None = None) -> tuple[bytes, list[str]]:
    """CA certificates.

    Returns:
        The bytes, and warnings.

    Raises:
        TlsFileError: unreadable, no certificate, or every one expired.
    """
    data = _read(path)
    now = now or dt.datetime.now(dt.UTC)
    ends = [certificate.not_valid_after_utc for certificate in _certificates(data, path)]
    if max(ends) <= now:
        message = f"every certificate in {path} has expired, the last on {max(ends):%Y-%m-%d %H:%M} UTC: renew it"
        raise TlsFileError("expired", message)
    over = sum(end <= now for end in ends)
    return data, [f"{over} of {len(ends)} certificates in {path} have expired: remove them"] if over else []


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            # Judged on what was opened, not on the name, which may lead elsewhere by now.
            if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = f"{stat.S_IMODE(status.st_mode):03o}"
                message = f"{path} is a private key and its mode {mode} lets other users in: chmod 600 {path}"
                raise TlsFileError("open-key", message)
            if not stat.S_ISREG(status.st_mode):
                raise TlsFileError("unreadable-file", f"{path} is no ordinary file: name a PEM file")
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, TlsFileError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TlsFileError(
            "unreadable-file", f"{path} cannot be read ({reason}): check the path and its rights"
        ) from None
    if len(data) > _LARGEST:
        raise TlsFileError("too-large", f"{path} is larger than {_LARGEST >> 20} MiB: this is no PEM file")
    return data


def _certificates(data: bytes, path: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(data)
        for one in found:
            one.public_key()  # some faults are only found when a part is asked for
            one.not_valid_after_utc  # noqa: B018
    except _BROKEN:
        raise TlsFileError("no-certificate", f"{path} holds no certificate that can be read (PEM)") from None
    return found


def _key(data: bytes, path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        message = f"{path} has a passphrase, which nobody could type: write it without (openssl pkey -in ... -out ...)"
        raise TlsFileError("wrong-key", message) from None
    except _BROKEN:  # the library's text stays away, since it may quote what it could not read
        raise TlsFileError("wrong-key", f"{path} holds no private key that can be read (PEM)") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
