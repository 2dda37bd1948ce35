"""The `audit` section: what is recorded, and who vouches for the record."""

from __future__ import annotations

from typing import Literal

from gateway.settings.forms import FilePath, Section


class AskedWitness(Section, frozen=True):
    """Someone who cosigns this log's checkpoints: another gateway, or any C2SP tlog-witness."""

    url: str
    """Its submission prefix, `http://` or `https://`; of another gateway `http://HOST:PORT/audit/witness`."""
    key: str
    """Its verifier key (`NAME+HEX+BASE64`, type 0x04); of another gateway the line in `audit/witness.vkey`."""
    ca: FilePath | None = None
    """Authorities that its certificate must come from (PEM); absent: the system's."""


class Witnessing(Section, frozen=True):
    """This gateway as a witness of other logs, at `POST /audit/witness/add-checkpoint`."""

    logs: tuple[str, ...] = ()
    """Verifier keys of the logs that it cosigns; of another gateway the line in `audit/log.vkey`."""


class Audit(Section, frozen=True):
    """The audit log."""

    mode: Literal["off", "async", "strict"] = "async"
    """`async`: every decision is recorded, and answers do not wait for it. `strict`: no answer goes out before its
    record is on the disk; while none can be written, 503. `off`: nothing is recorded."""
    on_failure: Literal["refuse", "serve"] = "refuse"
    """While the log cannot be written: `refuse` answers 503. `serve` goes on; decisions that do not fit into memory
    until then are in no record, which is counted (`tidegate_audit_dropped_total`). With `strict` always `refuse`."""
    erasure: bool = False
    """Subjects stand in the log as pseudonyms, sealed under keys that `tidegate audit erase` destroys."""
    origin: str = ""
    """The log's name, of this `state_dir` alone; empty: made at the first start from the host's name and chance."""
    witnesses: tuple[AskedWitness, ...] = ()
    """Who is asked to cosign its checkpoints, every few seconds while it grows."""
    witness: Witnessing | None = None
    """Whose checkpoints this gateway cosigns; absent: nobody's."""
