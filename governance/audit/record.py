"""The canonical record: one JSON object in the form of RFC 8785 (JCS) for every decision.

Contract: the fields of `Record`, all of them in every record, null where they say nothing. They are declared in
the order of RFC 8785, section 3.2.3, so that the encoder writes them canonically; numbers are integers within
2^53, and what may be larger (times, ids) is text. `encode` never fails and never gives more than a log entry can
hold: what does not fit is cut by the rule of `cut`.

`docs/audit-record.md` is made from this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from governance.audit.tiles import MOST_ENTRY

SCHEMA = "tidegate.audit/1"
MOST_INTEGER = 2**53 - 1
"""The largest integer that JSON carries everywhere (RFC 8785, section 3.2.2.3; RFC 7493, section 2.2)."""

Kind: TypeAlias = Literal["inference", "control", "policy", "registry", "settings", "approval", "erasure"]
Outcome: TypeAlias = Literal["served", "refused", "shed", "failed", "cancelled"]


class Record(msgspec.Struct, kw_only=True):
    """One decision. The texts under the fields are the schema's documentation; what follows `Duty:` asks for it."""

    action: str | None = None
    """What was asked for, as the policy names it: `infer`, `load`, `approve`, `erase`. Duty: AI Act 12(2); SR 26-2."""

    allowed: bool | None = None
    """Whether the policy allowed it; null: it was not asked, since nobody knew yet who it was, or it asks for no more
    than that. Duty: GDPR 15(1)(h), 22; replay of the decision."""

    cut: list[str] | None = None
    """Names of the fields that were cut because the record was too long for a log entry. Duty: none lost silently."""

    details: dict[str, Any] | None = None
    """More facts of a change or approval: names to texts, integers, booleans, null, lists and objects of them.
    Duty: AI Act 12(2)(a), substantial modification."""

    id: str | None = None
    """The request id, as the client sent it or the gateway made it; a repeated id has one record each. Duty: AI Act
    12(1), traceability; Reg B 1002.12, to find an application's decision again."""

    input_digest: str | None = None
    """HMAC-SHA-256, hexadecimal, of the body as received, uncompressed; null where none was read or it lay in shared
    memory. Duty: AI Act 12(3)(c), which input data; GDPR 5(1)(c), and not the data itself."""

    kind: Kind
    """`inference`, `control`, `policy`, `registry`, `settings`, `approval` or `erasure`. Duty: AI Act 12(2)."""

    latency_us: int | None = None
    """Microseconds from the request's first byte to the end of its answer. Duty: AI Act 12(3)(a), period of use."""

    model: str | None = None
    """The model or route as the client asked for it. Duty: AI Act 12(1); SR 26-2, inventory."""

    object: str | None = None
    """What was asked of, as the policy names it: `model:NAME`, `policy`, `server`. Duty: AI Act 12(2)."""

    outcome: Outcome
    """`served`, `refused` (policy, credentials, content), `shed` (limits, overload), `failed`, or `cancelled`: the
    client left, before its answer or amid its body.
    Duty: AI Act 12(2)(b), 72."""

    output_digest: str | None = None
    """Like `input_digest`, of the body as sent. Duty: AI Act 12(1)."""

    phase: Literal["start", "end"] | None = None
    """Of a stream that two records bracket; null for all else. Duty: AI Act 12(3)(a), start and end of each use."""

    policy: str | None = None
    """Hash of the policy in force. Duty: AI Act 12(2)(a); SR 26-2, change control."""

    roles: list[str] | None = None
    """Roles that the credential itself carried, as decided with. Duty: replay of the decision."""

    rule: int | None = None
    """Line of the policy's rule that decided; null: no rule did. Duty: GDPR 15(1)(h), 22; AI Act 86."""

    schema: str = SCHEMA
    """`tidegate.audit/1`. A change of meaning makes another name. Duty: ISO/IEC DIS 24970."""

    sealed: str | None = None
    """The subject's name under the subject's own key (AES-256-GCM, base64 of nonce and ciphertext); null where subjects
    are not sealed. Unreadable for ever once the key is destroyed. Duty: GDPR 17."""

    snapshot: str | None = None
    """Hash of settings, policy and routes in force. Duty: AI Act 12(2)(a)."""

    status: str | None = None
    """HTTP status or gRPC status name that the client was answered. Duty: AI Act 12(2)(b)."""

    subject: str | None = None
    """Who asked: `user:NAME`, or with `audit.erasure` a pseudonym, `person:HEX`, one for each person; null: unknown.
    Duty: AI Act 12(3)(d), 26(5); GDPR 25, pseudonyms."""

    tenant: str | None = None
    """The subject's tenant. Duty: GDPR 30."""

    time: str = ""
    """When it was decided: RFC 3339, UTC, nine digits of a second. Duty: AI Act 12(3)(a)."""

    trace: str | None = None
    """W3C trace id of a sampled request. Duty: AI Act 12(1), to find the rest of the story."""

    upstream: str | None = None
    """The model servers that it went to, by their name in the settings. Duty: AI Act 12(1)."""

    variant: str | None = None
    """Which variant of the route. Duty: AI Act 12(1); SR 26-2, challenger and champion told apart."""

    version: str | None = None
    """Version of the model that served, or was to. Duty: AI Act 12(1), 72."""


FIELDS = Record.__struct_fields__
_FREE = tuple(name for name in FIELDS if name not in {"cut", "kind", "outcome", "phase", "schema", "time"})
_encoder = msgspec.json.Encoder(order=None)

_LONG, _KEPT, _MOST_ITEMS = 256, 64, 16
"""Texts of more bytes, and how many characters of them stay; lists of more items."""


class RecordError(ValueError):
    """A record that RFC 8785 cannot carry: a defect of whoever made it."""


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits, of nanoseconds since 1970."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    # Formatting the second costs the most and is the same for many. Taken and put as one: any thread may come by.
    second, text = _last[0]
    if seconds != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _last[0] = seconds, text
    return f"{text}.{rest:09d}Z"


_last = [(-1, "")]


def check_details(value: object, where: str = "details") -> None:
    """Refuse what has no canonical form here: floats, large integers, names that are not ASCII.

    Raises:
        RecordError: it says where.
    """
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > MOST_INTEGER:
            raise RecordError(f"{where}: {value} is beyond 2^53: give it as text")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if not (isinstance(name, str) and name.isascii()):
                raise RecordError(f"{where}: names are ASCII text, not {name!r}")
            check_details(item, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_details(item, f"{where}[{number}]")
    else:
        raise RecordError(f"{where}: {type(value).__name__} has no form here: give it as text")


def encode(record: Record, digest: Callable[[bytes], str]) -> bytes:
    """The record as a log entry.

    Args:
        record: with everything filled in; cut in place when it is too long.
        digest: of bytes, keyed: stands for what is cut away.

    Raises:
        RecordError: `details` or `latency_us` are not what they may be.
    """
    if record.details is not None:
        check_details(record.details)
        record.details = _sorted(record.details)
    if record.latency_us is not None and not 0 <= record.latency_us <= MOST_INTEGER:
        raise RecordError(f"latency_us: {record.latency_us}")
    try:
        entry = _encoder.encode(record)
    except UnicodeEncodeError:
        # Header bytes that are no text reach us as lone surrogates, which UTF-8 does not have.
        for name in _FREE:
            setattr(record, name, _without_surrogates(getattr(record, name)))
        entry = _encoder.encode(record)
    return entry if len(entry) <= MOST_ENTRY else _cut(record, digest)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_surrogates(item) for name, item in value.items()}
    return value


def _cut(record: Record, digest: Callable[[bytes], str]) -> bytes:
    """A record that is too long, shortened: every long text to its beginning and the digest of the whole."""

    def short(text: str) -> str:
        raw = text.encode()
        return text if len(raw) <= _LONG else f"{text[:_KEPT]}... ({len(raw)} bytes, hmac-sha256 {digest(raw)})"

    cut = []
    for name in _FREE:
        value = getattr(record, name)
        small = value
        if isinstance(value, str):
            small = short(value)
        elif isinstance(value, list):
            small = [short(item) for item in value[:_MOST_ITEMS]]
            if len(value) > _MOST_ITEMS:
                whole = digest(_encoder.encode(value))
                small.append(f"... ({len(value)} in all, hmac-sha256 {whole})")
        elif isinstance(value, dict):
            raw = _encoder.encode(value)
            if len(raw) > _LONG:
                small = {"bytes": len(raw), "hmac_sha256": digest(raw)}
        if small != value:
            cut.append(name)
            setattr(record, name, small)
    record.cut = cut
    return _encoder.encode(record)


def decode(entry: bytes) -> dict[str, Any]:
    """A log entry as a JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        value = msgspec.json.decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  a malformed entry is a bad value, whatever its type
    return value
