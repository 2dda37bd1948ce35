"""One step in the life of a model version, as the store keeps it.

Contract: steps are only ever added. Each carries the SHA-256 of the text of the one before it of the same version, so
that a step that was taken out or changed in the database is found. What steps amount to is `machine.py`'s.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Literal, TypeAlias

import msgspec

from governance.errors import RegistryBroken

FIRST = "0" * 64
"""`previous` of a version's first step."""

Kind: TypeAlias = Literal[
    "registered", "submitted", "approved", "rejected", "voided", "promoted", "deprecated", "retired"
]


class Binding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What exactly is agreed to: SHA-256, in hex, of each part."""

    files: str
    """Of the version's folder, by `digests.tree`."""
    card: str
    evidence: dict[str, str] = {}
    """By the evidence's name."""
    requirements: str = ""
    """Of the file of requirements; from submission on, as the next."""
    policy: str = ""
    """Of the policy in force."""

    @property
    def digest(self) -> str:
        """SHA-256 of its JSON with sorted keys: what an approval speaks of."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Sources(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the bound parts lie, relative to the settings' folder where they lie below it."""

    files: str
    card: str
    evidence: dict[str, str] = {}


class Need(msgspec.Struct, frozen=True):
    """So many people of a role."""

    role: str
    """As the policy writes it: `role:NAME`."""
    count: int = 1


class GateResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether one gate holds, and by what."""

    gate: str
    """`card`, `metric`, `fairness`, `scan`, `shadow` or `lineage`."""
    ok: bool
    wanted: str
    measured: str
    evidence: str = ""
    """SHA-256 of the file that was read; empty: there is none."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step."""

    model: str
    version: str
    number: int
    """0 for a version's first step."""
    time: dt.datetime
    kind: Kind
    by: str
    """`user:NAME`."""
    previous: str = FIRST
    reason: str = ""
    proof: str = ""
    """How `by` was proved: `api_key`, or `local` where the settings have nobody prove anything."""
    policy: str = ""
    """Hash of the policy that allowed it."""
    binding: Binding | None = None
    """Of `registered` without requirements and policy, of `submitted` with them."""
    sources: Sources | None = None
    """Of `registered`."""
    risk: str = ""
    """Of `submitted`, as the next five: the class by which it was judged."""
    needs: tuple[Need, ...] = ()
    valid_s: int | None = None
    """How long the approval holds; null: without end."""
    review_s: int | None = None
    """After how long it is to be looked at again."""
    gates: tuple[GateResult, ...] = ()
    digest: str = ""
    """Of `approved`: the binding that was agreed to."""
    roles: tuple[str, ...] = ()
    """Of `approved`: those of the needed roles that the person holds."""
    sunset: dt.datetime | None = None
    """Of `deprecated`, as the next: when it is planned to go."""
    link: str = ""
    """A page about it."""


_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The text that is stored."""
    return msgspec.json.encode(event)


def decode(text: bytes | str) -> Event:
    """A stored step. Raises RegistryBroken."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RegistryBroken(f"the store holds a step that is none ({error}): restore it from a backup") from None


def text_digest(text: bytes) -> str:
    """What the next step's `previous` is."""
    return hashlib.sha256(text).hexdigest()
