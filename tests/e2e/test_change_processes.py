"""Workers and whole gateways are replaced at full load: no request is lost, streams included."""

from __future__ import annotations

import os
import signal
import time

import pytest
from changing import Streams, another, quick
from driving import Background, Load, alive, children, fp32, until

from gateway import takeover

TEXT = "workers: 2\ndrain: 10s\nlimits: {tenants: {public: {concurrent: 64}}}\n"


@pytest.fixture
def site(tmp_path, triton):
    one = quick(tmp_path / "site", triton, TEXT)
    until(lambda: "serving: " in one.log.read_text(), 60)
    running = [one]
    yield running
    for each in running:
        if each.process.poll() is None:
            each.stop()
    for each in running:
        assert "Traceback" not in each.log.read_text(), each.log.read_text()


def lines(one, text: str) -> int:
    return one.log.read_text().count(text)


def test_a_rolling_restart_loses_nothing(site):
    one = site[0]
    first = children(one.process.pid)
    with Load(one, "identity_fp32", fp32(), http=3, grpc=2) as load, Streams(one) as streams:
        until(lambda: load.answered() > 100)
        for turn in (1, 2):
            before = one.metric("tidegate_requests_total")
            gone = set(children(one.process.pid))
            one.process.send_signal(signal.SIGUSR2)
            until(lambda turn=turn: lines(one, "every worker has been replaced") == turn, 60)
            until(lambda gone=gone: not any(alive(pid) for pid in gone), 60, "the old workers have left")
            assert one.metric("tidegate_requests_total") >= before
        count = load.answered()
        until(lambda: load.answered() > count + 100)
    assert load.outcome.errors == []
    assert streams.errors == []
    assert streams.done > 10
    now = children(one.process.pid)
    assert len(now) == 2
    assert not set(now) & set(first)
    # Nothing was counted twice or forgotten. The page of the last metric is counted nowhere.
    assert one.metric("tidegate_requests_total") >= load.answered()
    assert one.metric("tidegate_requests_in_flight") == 0
    log = one.log.read_text()
    assert "SIGKILL" not in log
    assert "SIGSEGV" not in log
    print(f"\nrolling restart: {load.answered()} unary, {streams.done} streams, 4 workers replaced, 0 failed")


def test_a_worker_that_cannot_start_leaves_the_old_ones_in_charge(site):
    one = site[0]
    before = set(children(one.process.pid))
    one.process.send_signal(signal.SIGUSR2)
    # The new worker is killed before it is ready.
    new = until(lambda: set(children(one.process.pid)) - before, 5)
    for pid in new:
        os.kill(pid, signal.SIGKILL)
    until(lambda: lines(one, "ended before it was ready"), 10)
    assert one.get("/readyz").status == 200
    assert before <= set(children(one.process.pid))


def test_a_worker_that_is_relieved_while_it_starts_leaves_once_it_has(site):
    one = site[0]
    before = set(children(one.process.pid))
    os.kill(min(before), signal.SIGKILL)
    until(lambda: set(children(one.process.pid)) - before, 30, "another is on its way")
    one.process.send_signal(signal.SIGUSR2)
    until(lambda: lines(one, "every worker has been replaced"), 60)
    until(lambda: len(children(one.process.pid)) == 2, 60, "who was replaced has left")
    assert "did not leave in time" not in one.log.read_text()


def test_another_gateway_takes_over_without_losing_anything(site):
    one = site[0]
    with Load(one, "identity_fp32", fp32(), http=3, grpc=2) as load, Streams(one) as streams:
        until(lambda: load.answered() > 100)
        counted = one.metric("tidegate_requests_total")
        for _ in range(2):
            old, new = site[-1], another(one, "--takeover")
            site.append(new)
            until(lambda new=new: lines(new, "serving: "), 60)
            assert old.process.wait(60) == 0
            assert one.metric("tidegate_requests_total") >= counted
            count = load.answered()
            until(lambda count=count: load.answered() > count + 100)
    assert load.outcome.errors == []
    assert streams.errors == []
    # What the third one holds is all there is: the second is gone, and the state directory is locked.
    plain = another(one)
    assert plain.process.wait(60) == 2
    assert "in use by another gateway" in plain.log.read_text()
    site[-1].process.send_signal(signal.SIGUSR2)
    until(lambda: lines(site[-1], "every worker has been replaced"), 60)
    print(f"\ntakeover: {load.answered()} unary, {streams.done} streams, 2 takeovers, 0 failed")


def test_takeover_with_nobody_there_is_a_start(site):
    one = site[0]
    assert one.stop() == 0
    new = another(one, "--takeover")
    site.append(new)
    new.wait_ready()


def test_settings_that_do_not_fit_leave_the_old_gateway_in_charge(site):
    one = site[0]
    good = one.config.read_text()
    for old, new, word in (
        ("drain: 10s", "dran: 10s", "drain"),
        ("workers: 2", "workers: 1", "`workers` is 2 in the gateway that runs and 1 here"),
        (one.grpc, "127.0.0.1:1", "`listen.grpc` differs"),
    ):
        one.config.write_text(good.replace(old, new))
        refused = another(one, "--takeover")
        assert refused.process.wait(60) == 2
        assert word in refused.log.read_text()
        assert one.get("/readyz").status == 200
    one.config.write_text(good)
    site.append(another(one, "--takeover"))
    until(lambda: lines(site[-1], "serving: "), 60)
    assert one.process.wait(60) == 0


def told(one, _new) -> bool:
    """The old gateway has handed its sockets over."""
    return bool(lines(one, "another gateway takes over"))


def hatched(_one, new) -> bool:
    """The new one has started its workers, none of which serves: they will say so to nobody when it is killed."""
    return len(children(new.process.pid)) == 2


def committed(one, _new) -> bool:
    """The new one is in charge, the old one drains."""
    return bool(lines(one, "has taken over"))


def test_a_gateway_that_ends_before_it_answers_is_nobody_to_take_over_from(tmp_path):
    with takeover.listen(tmp_path) as door:
        door.setblocking(True)

        def end() -> None:
            link, _ = door.accept()
            link.close()

        ending = Background(end)
        assert takeover.take(tmp_path, 1, {}) is None
        ending.result()
        asked = Background(lambda: takeover.take(tmp_path, 2, {"http": "127.0.0.1:1"}))
        link, _ = door.accept()
        with link:
            takeover.give(link, takeover.Handover(refused="it stops"), [])
            with pytest.raises(takeover.TakeoverError, match="refuses: it stops"):
                asked.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "step"),
    [
        *(("old", step) for step in (None, told, hatched, committed)),
        # Once it is in charge, killing the new one is killing the only one.
        *(("new", step) for step in (None, told, hatched)),
    ],
)
def test_one_of_them_serves_whichever_is_killed_at_every_step(site, victim, step):
    one = site[0]
    new = another(one, "--takeover")
    site.append(new)
    if step is not None:
        end = time.monotonic() + 120
        while not step(one, new):
            assert time.monotonic() < end, step
            time.sleep(0.001)
    (one if victim == "old" else new).process.kill()
    survivor = new if victim == "old" else one
    if victim == "new":
        # Its workers, if it had any, were told nothing and leave; the old gateway goes on.
        new.process.wait(60)
        assert not lines(one, "has taken over"), "the machine stood still between a step and its kill"
    until(lambda: lines(survivor, "serving: ") or survivor.process.poll() is not None, 40)
    assert survivor.process.poll() is None, survivor.log.read_text()
    until(lambda: readyz(one) == 200, 60)
    until(lambda: one.post("/v2/models/identity_fp32/infer", fp32()).status == 200, 10)
    # And it can be taken over in turn, once it has seen what became of the other.
    for _ in range(20):
        last = another(one, "--takeover")
        site.append(last)
        until(lambda last=last: last.process.poll() is not None or lines(last, "serving: "), 60)
        if last.process.poll() is None:
            break
        # It asked before that was seen.
        assert "try again later" in last.log.read_text()
    assert survivor.process.wait(60) == 0


def readyz(one) -> int:
    """The status of `/readyz`; 0 while nobody answers."""
    try:
        return one.get("/readyz").status
    except OSError:
        return 0
