"""On which replica a sequence's state is.

Contract: a model server keeps a sequence in memory, so every call of it must reach the replica that had its
first one. That replica and its life are pinned under (upstream, model, version, correlation id), shared by the
workers, whatever route or door a call came by. A pin whose replica is gone or has begun another life stays, so
that every further call is told, until `sequence_start` begins anew or the pin is the one unused for longest.

A call without a pin and without `sequence_start` is the model server's to judge where there is one replica;
between several a guess could meet a state of long ago, so a model with Triton's sequence batcher answers in
Triton's words, and other models, to whom the id means nothing, get the replica that its hash says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.errors import SequenceLost, UpstreamAnswered
from gateway.routing.pins import Pins
from gateway.routing.sequences import hash64, sequence_id
from gateway.wire.types import Param

if TYPE_CHECKING:
    from gateway.upstream.replica import Replica

LOST = "the sequence's state was lost with its replica: start it again"
_LOW = (1 << 32) - 1


def _pin_of(replica: Replica) -> int:
    return (replica.life_key & _LOW) << 32 | replica.life


class SequencePins:
    """The pins of one upstream."""

    def __init__(self, upstream: str, pins: Pins) -> None:
        self._upstream = upstream
        self._pins = pins

    def key(self, model: str, version: str, parameters: Mapping[str, Param]) -> int:
        """Of the call's sequence; 0: it is in none."""
        sequence = sequence_id(parameters)
        if sequence is None:
            return 0
        kind = "number" if isinstance(sequence, int) else "string"
        return hash64("replica", self._upstream, model, version, kind, str(sequence))

    def holder(self, key: int, replicas: Sequence[Replica], *, begins: bool) -> Replica | None:
        """The replica that has the sequence; None: it begins, or nothing is known of it.

        One that begins stays where it was while that replica lives, so that no state is left behind there. One that
        began on a replica that is taken for down, since all of them are, goes on there: it is of the life that began
        with that fall, and a server that knows nothing of it says so.

        Raises:
            SequenceLost: its replica is gone, is being removed, or has begun another life.
        """
        value = self._pins.get(key)
        if not value:
            return None
        for replica in replicas:
            if not replica.draining and _pin_of(replica) == value:
                return replica
        if begins:
            return None
        raise SequenceLost(LOST)

    def pin(self, key: int, replica: Replica, *, ends: bool) -> None:
        """The call goes there; its last call unpins the sequence."""
        value = _pin_of(replica)
        if ends:
            self._pins.drop(key)
        elif self._pins.get(key) != value:
            self._pins.drop(key)
            self._pins.put(key, value)

    def lose(self, key: int) -> None:
        """A call of it broke on the way: whether the state has it is not known, so it is lost."""
        self._pins.drop(key)
        self._pins.put(key, _LOST_PIN)


_LOST_PIN = 1 << 32
"""Of no replica's life: lives are never 0."""


def not_started(sequence: object, model: str) -> UpstreamAnswered:
    """Triton's own words."""
    return UpstreamAnswered(
        f"inference request for sequence {sequence} to model '{model}' must specify the START flag on the first "
        "request of the sequence",
        status=400,
    )
