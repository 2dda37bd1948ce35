"""Entries of one form in Python: the specification, and what runs where `_entry_c` does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from governance.audit.record import MOST_INTEGER, timestamp

if TYPE_CHECKING:
    from governance.ports import Body
    from kernels.hashing import HmacSha256

SMALL: Final = 32 << 10
"""Bytes of bodies whose digests are taken on the spot: 19 us at most, about what a thread's waking costs."""
LONGEST_ID: Final = 128


@final
class Form:
    """See `entry.py`."""

    __slots__ = ("_mac", "_pieces")

    def __init__(self, pieces: tuple[bytes, bytes, bytes, bytes, bytes, bytes], mac: HmacSha256) -> None:
        self._pieces = pieces
        self._mac = mac

    def entry(
        self,
        request_id: str,
        latency_us: int,
        time_ns: int,
        inputs: Body | None,
        outputs: Body | None,
    ) -> bytes | None:
        """The entry of one decision.

        None: the bodies are not small (`SMALL`), or the id is not 1 to 128 characters of printable ASCII without `"`
        and backslash, or the latency is no number of a record.
        """
        if sum(map(len, inputs or ())) + sum(map(len, outputs or ())) > SMALL:
            return None
        if not 0 < len(request_id) <= LONGEST_ID or not request_id.isascii() or not request_id.isprintable():
            return None
        if '"' in request_id or "\\" in request_id:
            return None
        if not 0 <= latency_us <= MOST_INTEGER:
            return None
        first, second, third, fourth, fifth, last = self._pieces
        return b"".join(
            (
                first,
                request_id.encode(),
                second,
                self._digest(inputs),
                third,
                b"%d" % latency_us,
                fourth,
                self._digest(outputs),
                fifth,
                timestamp(time_ns).encode(),
                last,
            )
        )

    def _digest(self, body: Body | None) -> bytes:
        return b"null" if body is None else b'"%b"' % self._mac.hexdigest(body).encode()
