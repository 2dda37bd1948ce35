"""The `audit` section: what is recorded, and who vouches for the record."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.settings.forms import FilePath, Section
from governance.audit.record import Kind
from governance.audit.retention import Duty


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


class RetentionClass(Section, frozen=True):
    """Records that are kept for their own time; one of several classes is kept for the longest of them."""

    name: str
    """As prunings state it."""
    days: Annotated[int, msgspec.Meta(ge=1)]
    """How long they are kept, from the time in them."""
    duty: Duty = "ai-act-19"
    """The law that asks for them, below whose span none may go: `ai-act-19` (articles 19 and 26(6): 184 days),
    `ai-act-18` (documents: 3653), `reg-b-1002.12` (25 months: 762), `reg-b-1002.12-business` (12 months: 366). `none`
    says that you know of none."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of records; none: of every kind."""
    models: tuple[str, ...] = ()
    """Models or routes, as clients ask for them; none: all, and what is about none."""


class Retention(Section, frozen=True):
    """The stated policy under which `tidegate audit prune` takes off the log's beginning; nothing else ever does."""

    policy: str
    """Its name, and where it can be read: stands in the log with each pruning."""
    days: Annotated[int, msgspec.Meta(ge=1)]
    """How long records of none of the classes are kept."""
    duty: Duty = "ai-act-19"
    """As of a class."""
    classes: tuple[RetentionClass, ...] = ()
    """Records that are kept for another time."""


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
    pseudonyms: bool = False
    """Subjects stand in the log as pseudonyms that one key makes, and no name is kept anywhere. Nobody can be erased,
    and whoever has the key can say which pseudonym a name has. `erasure` does the same with a key for each subject."""
    origin: str = ""
    """The log's name, of this `state_dir` alone; empty: made at the first start from the host's name and chance."""
    witnesses: tuple[AskedWitness, ...] = ()
    """Who is asked to cosign its checkpoints, every few seconds while it grows."""
    witness: Witnessing | None = None
    """Whose checkpoints this gateway cosigns; absent: nobody's."""
    retention: Retention | None = None
    """How long records are kept; absent: for ever."""
