"""W3C Trace Context (https://www.w3.org/TR/trace-context-2/): `traceparent` and `tracestate`, both ways.

Contract: sans-IO. What is malformed is as good as absent, as the recommendation says: a bad `traceparent`
begins a new trace, a bad `tracestate` is dropped alone. Header values are as `gateway.headers` makes them:
several of one name are joined by commas, so that two `traceparent`s are malformed.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Level 2: the trace id's lower 56 bits are random. Passed on as it came."""

_LENGTH: Final = 55
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SIMPLE_KEY: Final = r"[a-z0-9][a-z0-9_\-*/]{0,255}"
_TENANT_KEY: Final = r"[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER: Final = re.compile(
    rf"(?:{_TENANT_KEY}|{_SIMPLE_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MEMBERS: Final = 32
_STATE_LENGTH: Final = 512
"""What must be passed on at least; beyond, members over 128 characters go first, then the last ones."""
_LONG_MEMBER: Final = 128


class TraceContext(msgspec.Struct, frozen=True):
    """A caller's trace context."""

    trace_id: int
    """128 bits, not 0."""
    span_id: int
    """64 bits, not 0: the caller's span."""
    flags: int
    state: str = ""
    """`tracestate`, valid and no longer than 512 characters; empty: none."""

    @property
    def sampled(self) -> bool:
        """Whether the caller records this trace."""
        return bool(self.flags & SAMPLED)


def parse(traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
    """The caller's context; None when there is none or it is malformed."""
    if traceparent is None:
        return None
    text = traceparent.strip(" \t")
    match = _PARENT.match(text)
    if match is None:
        return None
    version, trace_id, span_id, flags = match.groups()
    # A later version may append fields after a dash; version 00 has none, and ff is never one.
    if version == "ff" or (len(text) > _LENGTH and (version == "00" or text[_LENGTH] != "-")):
        return None
    context = TraceContext(
        int(trace_id, 16), int(span_id, 16), int(flags, 16) & (SAMPLED | RANDOM), parse_state(tracestate)
    )
    return context if context.trace_id and context.span_id else None


def parse_state(tracestate: str | None) -> str:
    """The valid `tracestate`, shortened when it must be; empty when there is none or it is malformed."""
    if not tracestate:
        return ""
    members = [member.strip(" \t") for member in tracestate.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _MEMBERS or len(keys) != len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if len(",".join(members)) > _STATE_LENGTH:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    while len(",".join(members)) > _STATE_LENGTH:
        members.pop()
    return ",".join(members)


def format_parent(trace_id: int, span_id: int, flags: int) -> str:
    """A `traceparent` of version 00."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
