"""What failures mean, as tables; and tries that tell breaker and ejection how they ended."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway import settings
from gateway.errors import (
    BadGateway,
    BadRequest,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    SequenceLost,
    Unreachable,
    UpstreamAnswered,
)
from gateway.upstream import Upstream
from gateway.upstream.plan import CallPlan, is_failure, is_servers, late, may_retry
from gateway.upstream.tries import StreamTry

QUEUE_FULL = "[request id: 1] Exceeds maximum queue size 2"
QUEUE_LATE = "[request id: 1] Request timeout expired"
ENDED = "Stub process 'fails_0_0' is not healthy."


@pytest.mark.parametrize(
    ("error", "hurried", "failed", "servers"),
    [
        (Unreachable("x", sent=False), False, True, True),
        (Unreachable("x"), False, True, True),
        (BadGateway("x"), False, True, True),
        (DeadlineExceeded("x"), False, True, True),
        (DeadlineExceeded("x"), True, None, True),
        (UpstreamAnswered("the model raised UNAVAILABLE", status=503), False, True, False),
        (UpstreamAnswered("x", status=502), False, True, False),
        (UpstreamAnswered("x", status=504), False, True, False),
        (UpstreamAnswered("x", status=500), False, False, False),
        (UpstreamAnswered(ENDED, status=500), False, True, False),
        (UpstreamAnswered("x", status=400), False, False, False),
        (UpstreamAnswered("x", status=404), False, False, False),
        (UpstreamAnswered(QUEUE_FULL, status=503), False, None, False),
        (UpstreamAnswered(QUEUE_LATE, status=503), False, None, False),
        (CircuitOpen(), False, None, True),
        (SequenceLost("x"), False, None, True),
        (Cancelled("x"), False, None, True),
        (BadRequest("x"), False, None, True),
        (asyncio.CancelledError(), False, None, True),
    ],
)
def test_what_is_a_failure_and_whose(error, hurried, failed, servers):
    assert is_failure(error, hurried=hurried) is failed
    assert is_servers(error) is servers


@pytest.mark.parametrize(
    ("error", "plan", "safe"),
    [
        (Unreachable("x", sent=False), CallPlan(), True),
        (Unreachable("x", sent=False), CallPlan(idempotent=False), True),
        (Unreachable("x", sent=False), CallPlan(sequence=7), False),
        (Unreachable("x"), CallPlan(broken=1), True),
        (Unreachable("x"), CallPlan(broken=2), False),
        (Unreachable("x"), CallPlan(idempotent=False, broken=1), False),
        (CircuitOpen(), CallPlan(), True),
        (UpstreamAnswered("x", status=503), CallPlan(), True),
        (UpstreamAnswered("x", status=503), CallPlan(idempotent=False), False),
        (UpstreamAnswered("x", status=503), CallPlan(sequence="s"), False),
        (UpstreamAnswered("x", status=500), CallPlan(), False),
        (UpstreamAnswered(ENDED, status=500), CallPlan(broken=1), True),
        (UpstreamAnswered(ENDED, status=500), CallPlan(broken=2), False),
        (UpstreamAnswered(ENDED, status=500), CallPlan(idempotent=False, broken=1), False),
        (UpstreamAnswered(ENDED, status=500), CallPlan(sequence=7, broken=1), False),
        (DeadlineExceeded("x"), CallPlan(), False),
        (BadGateway("x"), CallPlan(), False),
    ],
)
def test_when_sending_again_is_safe(error, plan, safe):
    assert may_retry(error, plan) is safe


def test_a_queue_that_outlasts_the_deadline_is_the_deadlines_fault():
    error = UpstreamAnswered(QUEUE_LATE, status=503)
    assert late(error, 10.0, 9.0) is error
    assert isinstance(late(error, 10.0, 10.0), DeadlineExceeded)
    other = UpstreamAnswered("x", status=503)
    assert late(other, 10.0, 11.0) is other


class Told:
    """The events with their labels."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str]]] = []

    def on_event(self, name: str, **labels: str) -> None:
        self.events.append((name, labels))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def two(counters=None, **more) -> Upstream:
    """Two replicas that nobody has looked at; nothing is sent."""
    addresses = tuple(settings.ReplicaAddress(http=f"127.0.0.{at}:9") for at in (1, 2))
    up = Upstream("up", settings.Upstream(replicas=addresses, **more), counters=counters)
    up.resilience.ejection.members = [each.outlier for each in up.replicas]
    return up


def test_streams_that_break_open_the_breaker_and_eject(run_once):
    async def main() -> None:
        told = Told()
        up = two(told, breaker=settings.Breaker(failures=3), ejection=settings.Ejection(consecutive_failures=4))
        one = up.replicas[0]
        for model in ("m", "m", "m", "n"):
            under_way = StreamTry(one, up.resilience, model)
            assert one.in_flight == 1
            under_way.ended(Unreachable("broke"))
            under_way.ended(None)  # what it is told first counts
            assert one.in_flight == 0
        assert one.traffic.circuits() == {"m": "open"}
        assert one.outlier.out
        with pytest.raises(CircuitOpen):
            StreamTry(one, up.resilience, "m")
        assert one.in_flight == 0
        labels = {"upstream": "up", "replica": "0", "model": "m"}
        assert ("circuit_open", labels) in told.events
        await up.close()

    run_once(main())


def test_a_model_that_raises_unavailable_opens_its_own_breaker_alone(run_once):
    async def main() -> None:
        up = two(breaker=settings.Breaker(failures=3), ejection=settings.Ejection(consecutive_failures=3))
        one, other = up.replicas
        for _ in range(3):
            StreamTry(one, up.resilience, "raises").ended(UpstreamAnswered("by itself", status=503))
        assert one.traffic.circuits() == {"raises": "open"}
        assert not one.outlier.out
        StreamTry(one, up.resilience, "neighbour").ended(None)
        StreamTry(other, up.resilience, "raises").ended(None)
        await up.close()

    run_once(main())


def test_a_circuit_is_told_through_its_states_and_closed_when_its_replica_leaves(run_once):
    async def main() -> None:
        told = Told()
        up = two(told, breaker=settings.Breaker(failures=1, open=0.01))
        one = up.replicas[0]
        StreamTry(one, up.resilience, "m").ended(Unreachable("broke"))
        await asyncio.sleep(0.02)
        assert one.traffic.circuits() == {"m": "half_open"}
        StreamTry(one, up.resilience, "m").ended(None)
        assert one.traffic.circuits() == {}
        StreamTry(one, up.resilience, "m").ended(Unreachable("broke"))
        one.drain()
        assert [name for name in told.names() if name.startswith("circuit_")] == [
            "circuit_open", "circuit_half_open", "circuit_closed", "circuit_open", "circuit_closed",
        ]  # fmt: skip
        await up.close()

    run_once(main())


OUTCOMES = [
    None,
    Unreachable("x"),
    UpstreamAnswered("x", status=503),
    UpstreamAnswered("x", status=400),
    Cancelled("x"),
]


@examples(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(OUTCOMES)), max_size=40))
def test_whatever_comes_nothing_stays_in_flight(steps):
    async def main() -> None:
        up = two(breaker=settings.Breaker(failures=2, open=0.0005), ejection=settings.Ejection(time=0.0005))
        one = up.replicas[0]
        under_way: list[StreamTry] = []
        for begins, outcome in steps:
            if begins or not under_way:
                try:
                    under_way.append(StreamTry(one, up.resilience, "m"))
                except CircuitOpen:
                    continue
            else:
                under_way.pop(0).ended(outcome)
        for each in under_way:
            each.ended(Cancelled("the client left"))
        assert one.in_flight == 0
        assert one.outlier.probes == 0
        assert one.traffic.of("m").breaker.allows(float("inf"))
        await up.close()

    asyncio.run(main())
