"""Tenants' limits: rate, concurrency and bytes a day, over all workers of a machine."""

import mmap
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from gateway.admission import Admission, forget_worker, limit_table
from gateway.admission.limit_table import LimitTableError
from gateway.errors import Limited
from gateway.settings import Limits, TenantLimit
from kernels.counters import Atomics

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


class Clock:
    def __init__(self, now=20_000 * DAY) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def limits(**tenants):
    return Limits(tenants={name.replace("everyone", "*"): TenantLimit(**limit) for name, limit in tenants.items()})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def make(said, slot=0, slots=2, **more):
        return Admission(said, tmp_path, slot, slots, monotonic=clock, wall=clock, **more)

    return make


def refused(admission, tenant="acme", nbytes=0):
    with pytest.raises(Limited) as caught:
        admission.enter(tenant, nbytes)
    return caught.value


def test_rate_grants_a_seconds_worth_at_once_then_one_at_a_time(make, clock):
    a, b = make(limits(acme={"rate": 4.0})), make(limits(acme={"rate": 4.0}), slot=1)
    for admission in (a, b, a, b):
        admission.leave(admission.enter("acme", 0))
    error = refused(a)
    assert (error.status, error.code, error.detail, error.retry_after) == (
        429,
        "RESOURCE_EXHAUSTED",
        "rate",
        0.25,
    )
    clock.now += SECOND // 4
    b.enter("acme", 0)
    assert refused(a).retry_after == 0.25


def test_burst_is_what_may_come_at_once(make):
    admission = make(limits(acme={"rate": 0.5, "burst": 3}))
    for _ in range(3):
        admission.enter("acme", 0)
    assert refused(admission).retry_after == 2.0


def test_concurrency_counts_every_workers_requests(make):
    said = limits(acme={"concurrent": 3})
    a, b = make(said), make(said, slot=1)
    tickets = [a.enter("acme", 0), a.enter("acme", 0), b.enter("acme", 0)]
    assert refused(a).detail == refused(b).detail == "concurrent"
    assert refused(b).retry_after == 1.0
    a.leave(tickets[0])
    a.leave(tickets[0])
    b.enter("acme", 0)
    refused(a)
    assert (a.in_flight, b.in_flight) == (1, 2)


def test_a_refusal_of_concurrency_costs_no_token(make):
    admission = make(limits(acme={"concurrent": 1, "rate": 2.0}))
    ticket = admission.enter("acme", 0)
    for _ in range(5):
        assert refused(admission).detail == "concurrent"
    admission.leave(ticket)
    admission.leave(admission.enter("acme", 0))
    assert refused(admission).detail == "rate"


def test_bytes_of_requests_and_responses_count_until_midnight(make, clock):
    said = limits(acme={"bytes": 1000, "concurrent": 1})
    a, b = make(said), make(said, slot=1)
    clock.now += 10 * 3600 * SECOND
    a.leave(a.enter("acme", 400), 500)
    error = refused(b, nbytes=101)
    assert (error.detail, error.retry_after) == ("bytes", 14 * 3600.0)
    b.leave(b.enter("acme", 100), 0)
    refused(a, nbytes=1)
    assert (a.in_flight, b.in_flight) == (0, 0)
    clock.now += 14 * 3600 * SECOND
    a.leave(a.enter("acme", 1000), 0)


def test_everyone_else_is_limited_separately(make):
    admission = make(limits(acme={"rate": 100.0}, everyone={"rate": 1.0}))
    for tenant in ("zeta", "eta", "theta"):
        admission.enter(tenant, 0)
        assert refused(admission, tenant).detail == "rate"
    for _ in range(100):
        admission.enter("acme", 0)


def test_a_named_tenant_has_only_its_own_limits(make):
    admission = make(limits(acme={"concurrent": 10}, everyone={"rate": 1.0}))
    for _ in range(10):
        admission.enter("acme", 0)
    assert refused(admission).detail == "concurrent"


def test_without_limits_all_is_admitted_and_counted(make):
    admission = make(Limits())
    tickets = [admission.enter("anyone", 10**12) for _ in range(100)]
    assert admission.in_flight == 100
    for ticket in tickets:
        admission.leave(ticket, 10**12)
    assert admission.in_flight == 0


def test_a_reload_keeps_what_was_used(make, clock):
    admission = make(limits(acme={"rate": 1.0, "bytes": 1000, "concurrent": 2}))
    ticket = admission.enter("acme", 900)
    admission.reload(limits(acme={"rate": 1.0, "bytes": 1000, "concurrent": 2}, zeta={"rate": 1.0}))
    assert refused(admission).detail == "rate"
    clock.now += SECOND
    assert refused(admission, nbytes=200).detail == "bytes"
    clock.now += SECOND
    admission.enter("acme", 0)
    clock.now += SECOND
    assert refused(admission).detail == "concurrent"
    admission.leave(ticket)
    admission.enter("acme", 0)


def test_a_reload_that_sets_a_limit_counts_who_is_in_already(make):
    admission = make(limits(acme={"rate": 1000.0}))
    tickets = [admission.enter("acme", 0) for _ in range(3)]
    admission.reload(limits(acme={"concurrent": 3}))
    refused(admission)
    admission.leave(tickets[0])
    admission.enter("acme", 0)


def test_a_reload_that_takes_limits_away_admits(make):
    admission = make(limits(acme={"concurrent": 1}))
    ticket = admission.enter("acme", 0)
    refused(admission)
    admission.reload(Limits())
    admission.leave(admission.enter("acme", 0))
    admission.leave(ticket)
    admission.reload(limits(acme={"concurrent": 1}))
    admission.enter("acme", 0)


def test_a_dead_workers_requests_are_forgotten(make, tmp_path):
    said = limits(acme={"concurrent": 2})
    a, b = make(said), make(said, slot=1)
    b.enter("acme", 0)
    b.enter("acme", 0)
    refused(a)
    forget_worker(tmp_path, 1)
    a.enter("acme", 0)
    forget_worker(tmp_path, 7)
    forget_worker(tmp_path / "nowhere", 0)


def test_a_worker_that_takes_a_slot_over_begins_with_none(make):
    said = limits(acme={"concurrent": 1})
    make(said, slot=1).enter("acme", 0)
    again = make(said, slot=1)
    again.enter("acme", 0)


def test_refusals_are_told(make):
    told = []
    admission = make(limits(acme={"rate": 1.0}), limited=lambda *what: told.append(what))
    admission.enter("acme", 0)
    refused(admission)
    assert told == [("acme", "rate")]


def test_the_message_names_no_other_tenant(make):
    admission = make(limits(acme={"rate": 1.0}, zeta={"rate": 1.0}))
    admission.enter("acme", 0)
    assert refused(admission).message == "tenant 'acme': too many requests; see Retry-After"


def test_more_tenants_than_rows_share_one(make, monkeypatch):
    monkeypatch.setattr(limit_table, "ROWS", 3)
    admission = make(limits(everyone={"concurrent": 1}))
    for i in range(4):
        admission.enter(f"tenant-{i}", 0)
    for i in range(10):
        refused(admission, f"tenant-{i}")


def test_any_name_is_a_tenant(make):
    admission = make(limits(everyone={"concurrent": 1}))
    for tenant in ("", "a" * 10_000, "é\U0001f600", "\udc80", "a\0b"):
        admission.enter(tenant, 0)
        refused(admission, tenant)


def test_a_wrong_slot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="slot 2 of 2"):
        Admission(Limits(), tmp_path, 2, 2)


def test_a_file_of_other_workers_is_one_clear_error(tmp_path):
    Admission(Limits(), tmp_path, 0, 2)
    with pytest.raises(LimitTableError, match="made for other workers or another version; remove it"):
        Admission(Limits(), tmp_path, 0, 3)
    with pytest.raises(LimitTableError, match="cannot make the limits file"):
        Admission(Limits(), tmp_path / "nowhere", 0, 2)


def test_a_file_that_is_refused_is_not_kept_open(tmp_path):
    """The supervisor looks at it for each worker that dies."""
    file = tmp_path / limit_table.FILE
    file.write_bytes(b"TGLIMIT1" + (2).to_bytes(8, "little") + b"\xff" * 80)
    for _ in range(3):
        limit_table.forget(file, 1)
    assert str(file) not in {os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()}


SHARED = limits(acme={"rate": 5000.0, "burst": 100_000, "concurrent": 2}, everyone={"concurrent": 2})


def _serve(run_dir, slot, gate, results, seconds):
    admission = Admission(SHARED, run_dir, slot, 5)
    with (run_dir / "inside").open("r+b") as file:
        inside = Atomics(mmap.mmap(file.fileno(), 8))
    gate.wait()
    end = time.monotonic() + seconds
    admitted = most = 0
    while time.monotonic() < end:
        try:
            ticket = admission.enter("acme", 0)
        except Limited:
            continue
        admitted += 1
        most = max(most, inside.add(0, 1))
        inside.add(0, -1)
        admission.leave(ticket)
    for i in range(200):
        admission.leave(admission.enter(f"tenant-{i}-{slot}", 0))
    results.put((admitted, most))


def test_four_workers_keep_one_limit(tmp_path):
    admission = Admission(SHARED, tmp_path, 4, 5)
    (tmp_path / "inside").write_bytes(bytes(8))
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(5), context.Queue()
    workers = [context.Process(target=_serve, args=(tmp_path, slot, gate, results, 1.0)) for slot in range(4)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    while gate.n_waiting < 4:
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.01)
    first = time.monotonic()
    # Of the burst of 20 s half is taken at once, when all have started, however long that took: it never fills
    # up again, so that no pause of any process loses a token.
    for _ in range(50_000):
        admission.leave(admission.enter("acme", 0))
    gate.wait()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert max(most for _, most in got) <= 2
    admitted = 50_000 + sum(admitted for admitted, _ in got)
    began = time.monotonic()
    while True:
        try:
            admission.leave(admission.enter("acme", 0))
        except Limited:
            break
        admitted += 1
    ended = time.monotonic()
    assert 100_000 + int((began - first) * 5000) - 1 <= admitted <= 100_000 + int((ended - first) * 5000) + 1
    table = limit_table.LimitTable(tmp_path / limit_table.FILE, 5)
    assert table.words.total(table.row("acme") + limit_table.IN_FLIGHT, 5) == 0
    assert len(table._rows) == 801


def test_admission_is_cheap(tmp_path):
    admission = Admission(limits(acme={"rate": 1e9, "concurrent": 1000, "bytes": 2**50}), tmp_path, 0, 4)
    started = time.process_time()
    for _ in range(20_000):
        admission.leave(admission.enter("acme", 100), 100)
    # Some 2 us; the bound only catches a change of kind.
    assert (time.process_time() - started) / 20_000 < 50e-6
