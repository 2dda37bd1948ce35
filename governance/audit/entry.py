"""Entries of decisions that differ in id, digests, latency and time alone.

Contract: what `record.encode` writes of such records is the same up to those five values. So it is written once, with
nothing in their places, and the entry of each decision is made of the pieces between them: the same bytes, for a fifth
of the time (`tests/audit/test_audit_entry.py`).

The only place that chooses between the C twin and its specification in Python.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from governance.audit._entry_py import SMALL, Form
from governance.audit.record import Record, encode

if TYPE_CHECKING:
    from kernels.hashing import HmacSha256

__all__ = ["SMALL", "Form", "form_of"]

_MOST_BYTES = 8 << 10
"""Of a form: far from the 64 KiB of a log entry, beyond which fields are cut."""
_forms: dict[type, type[Form]] = {}
"""By the class of the digests' maker; else the specification."""
if not TYPE_CHECKING and not os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from governance.audit import _entry_c
    from kernels.hashing import _hmac_c

    _forms[_hmac_c.HmacSha256] = _entry_c.Form


def form_of(record: Record, mac: HmacSha256) -> Form | None:
    """The form of records like this one; None: they have none.

    Args:
        record: with its subject as it stands in the log; id, digests, latency and time are overwritten.
        mac: makes the digests.
    """
    record.id = record.input_digest = record.output_digest = record.latency_us = None
    record.time = ""
    if record.details is not None:
        return None
    text = encode(record, mac.hex)
    if record.cut is not None or len(text) > _MOST_BYTES:
        return None
    # In the order of RFC 8785. None of it can stand in a value: quotes are escaped there.
    first, _, text = text.partition(b'"id":null,"input_digest":null,')
    third, _, text = text.partition(b'"latency_us":null')
    fourth, _, text = text.partition(b'"output_digest":null')
    fifth, _, last = text.partition(b'"time":""')
    pieces = (
        first + b'"id":"',
        b'","input_digest":',
        b"," + third + b'"latency_us":',
        fourth + b'"output_digest":',
        fifth + b'"time":"',
        b'"' + last,
    )
    return _forms.get(type(mac), Form)(pieces, mac)
