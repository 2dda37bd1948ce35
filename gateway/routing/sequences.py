"""Sequences: what makes a call part of one, and under which id the upstream knows it.

Contract: pure. A sequence is what Triton's `sequence_id` parameter names, a nonzero integer or a string that
is not empty; `sequence_start` and `sequence_end` mark its first and last call.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from gateway.wire.types import Param

_INT63 = (1 << 63) - 1
_LARGEST = (1 << 64) - 2


def sequence_id(parameters: Mapping[str, Param]) -> int | str | None:
    """The call's sequence; None for a call outside of any (no id, 0, "" or a value that is no id)."""
    value = parameters.get("sequence_id")
    if not value or isinstance(value, (bool, float)):
        return None
    return value


def hash64(*parts: str) -> int:
    """A 64-bit hash of texts, told apart from any other way to cut them; never 0 nor 2^64 - 1."""
    digest = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return min(int.from_bytes(digest.digest()[:8], "big"), _LARGEST) or 1


def upstream_sequence_id(tenant: str, sequence: int | str, *scope: str) -> int | str:
    """The id under which the upstream knows a tenant's sequence, of the client's own kind.

    Two tenants' equal ids differ, and equal calls agree on every worker and gateway. `scope` sets more apart:
    a shadow's copy of a sequence must never meet the sequence itself in the same model.

    A number stays a number, nonzero and below 2^63 because gRPC carries it in `int64_param`; a string becomes
    the 64 hex digits of a SHA-256 (Triton takes up to 128 characters).
    """
    parts = (tenant, str(sequence), *scope)
    if isinstance(sequence, int):
        return hash64("number", *parts) & _INT63 or 1
    data = "".join(f"{len(part)}:{part}" for part in ("string", *parts))
    return sha256(data.encode("utf-8", "surrogatepass")).hexdigest()
