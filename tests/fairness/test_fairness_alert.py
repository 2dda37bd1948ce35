"""Alerts on a route's groups: how often they are false, what begins and ends them, and what is left of them."""

import asyncio
import datetime as dt
import json
import time
from math import comb
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decisions import Decisions
from gateway.fairness import Board, alerts
from gateway.fairness.alerts import LOOKS
from gateway.metrics import Registry
from gateway.settings import Decision, Fairness, FairnessAlert, FairnessAttribute, Route, Variant
from governance.audit.record import decode, encode
from governance.errors import AuditUnavailable
from governance.fairness.alert import Side, judge
from kernels.hashing import HmacSha256

MAC = HmacSha256(bytes(32))
SEX = FairnessAttribute(name="sex", parameter="sex", values=("F", "M"))
LEAST = Decision(output="p", at_least=0.5)


def sides(*counts):
    return [Side({"g": str(at)}, n, selected) for at, (n, selected) in enumerate(counts)]


def binomial(n, p):
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("n", [(20, 20), (30, 60), (60, 30)])
@pytest.mark.parametrize("rate", [0.3, 0.6, 0.95])
def test_of_so_many_looks_at_a_ratio_at_the_bound_one_is_below(n, rate):
    """Every outcome of two groups with its probability: the share that is called below is at most that which is said."""
    looks = 50
    ours, theirs = binomial(n[0], 0.8 * rate), binomial(n[1], rate)
    wrong = sum(
        mine * other
        for count, mine in enumerate(ours)
        for of, other in enumerate(theirs)
        if judge(sides((n[0], count), (n[1], of)), 0.8, 1, looks).status == "below"
    )
    # The budget is for both orders of the pair.
    assert wrong <= 1 / looks / 2 * 1.05


@given(st.lists(st.integers(0, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=4))
def test_a_verdict_is_of_its_own_pair(counts):
    found = judge(sides(*counts), 0.8, 30, LOOKS)
    enough = [(n, selected) for n, selected in counts if n >= 30]
    if len(enough) < 2 or not any(selected for _, selected in enough):
        assert found.status == "insufficient"
        assert found.ratio is None
        return
    rates = [selected / n for n, selected in enough]
    smallest = min(rates) / max(rates)
    assert (found.status == "above") == (smallest >= 0.8)
    assert found.low <= found.high
    one, other = found.lowest, found.highest
    assert found.ratio == pytest.approx((one.selected / one.n) / (other.selected / other.n))
    if found.status == "below":
        assert found.high < 0.8
    else:
        assert found.ratio == pytest.approx(smallest)


def test_few_rows_are_no_verdict_and_many_are():
    assert judge(sides((20, 1), (2000, 1500)), 0.8, 100, LOOKS).status == "insufficient"
    assert judge(sides((100, 30), (100, 50)), 0.8, 100, LOOKS).status == "open"
    assert judge(sides((2000, 600), (2000, 1000)), 0.8, 100, LOOKS).status == "below"
    assert judge(sides((2000, 900), (2000, 1000)), 0.8, 100, LOOKS).status == "above"
    # The pair that is surely below need not be the most extreme one.
    found = judge(sides((100, 20), (5000, 1500), (5000, 2500)), 0.8, 100, LOOKS)
    assert (found.status, found.lowest.n, found.ratio) == ("below", 5000, 0.6)


class Kept:
    """A log that may be away."""

    def __init__(self) -> None:
        self.entries = []
        self.away = False

    def form(self, record) -> None:
        """There is none."""

    def record(self, record, inputs=None, outputs=None):
        if self.away:
            raise AuditUnavailable("no room")
        self.entries.append(decode(encode(record, MAC.hex)))


def settings(alert=None, version="1"):
    fairness = Fairness(attributes=(SEX,), decision=LEAST, alert=alert)
    variants = (Variant(name="a", model="m", version=version),)
    return SimpleNamespace(routes={"loan": Route(variants=variants, fairness=fairness)})


def count(watch, group, rows, selected):
    watch._shard.add(int(time.time() // 60), 0, group, rows, selected)


def test_an_alert_begins_and_ends_once_and_outlives_a_restart(tmp_path):
    registry, log = Registry(tmp_path / "run", 0), Kept()
    declared = FairnessAlert(min_group=100)
    snapshot = SimpleNamespace(hash="s", policy=SimpleNamespace(hash="p"))

    def look(watch):
        return asyncio.run(alerts._look(snapshot, Decisions(log), watch))

    watch = Board(tmp_path / "fairness", registry).of(settings(declared))["loan"]
    assert look(watch) is False
    count(watch, 0, 2000, 600)
    count(watch, 1, 2000, 1000)
    log.away = True
    assert look(watch) is None  # not raised before it is recorded
    log.away = False
    assert [look(watch), look(watch)] == [True, True]
    report = watch.report()
    assert (report.alert.now.status, report.alert.now.lowest.group) == ("below", {"sex": "F"})
    assert dt.datetime.now(dt.UTC) - report.alert.raised < dt.timedelta(minutes=5)
    del watch
    again = Board(tmp_path / "fairness", registry).of(settings(declared))["loan"]
    assert look(again) is True
    count(again, 0, 1000, 1000)
    assert look(again) is False
    assert again.report().alert.raised is None
    kept = [(one["action"], one["object"], one["details"]["alert"], one["details"]["ratio"]) for one in log.entries]
    assert kept == [("alert", "fairness:loan", "begins", "0.6000"), ("alert", "fairness:loan", "ends", "0.9375")]
    # Who is concerned is on the page that needs `export`, not in the log.
    assert "F" not in json.dumps([one["details"] for one in log.entries])


def test_an_alert_that_is_no_longer_declared_is_over(tmp_path):
    registry, log = Registry(tmp_path / "run", 0), Kept()
    snapshot = SimpleNamespace(hash="s", policy=SimpleNamespace(hash="p"))
    declared = FairnessAlert(min_group=100)
    board = Board(tmp_path / "fairness", registry)
    watch = board.of(settings(declared))["loan"]
    count(watch, 0, 2000, 600)
    count(watch, 1, 2000, 1000)
    assert asyncio.run(alerts._look(snapshot, Decisions(log), watch)) is True
    watch = board.of(settings())["loan"]
    log.away = True
    asyncio.run(alerts._withdraw(snapshot, Decisions(log), watch))
    log.away = False
    for _ in range(2):
        asyncio.run(alerts._withdraw(snapshot, Decisions(log), watch))
    assert [(one["details"]["alert"], one["details"].get("withdrawn")) for one in log.entries] == [
        ("begins", None),
        ("ends", "true"),
    ]
    # Declared again, it begins again where its reason is there still.
    watch = board.of(settings(declared))["loan"]
    assert watch.report().alert.raised is None
    assert asyncio.run(alerts._look(snapshot, Decisions(log), watch)) is True


def test_another_alert_keeps_the_counts_and_another_version_begins_anew(tmp_path):
    board = Board(tmp_path / "fairness", Registry(tmp_path / "run", 0))
    one = board.of(settings())["loan"]
    count(one, 0, 10, 5)
    assert one.report().alert is None
    other = board.of(settings(FairnessAlert()))["loan"]
    board.retain([other])
    count(other, 0, 10, 5)
    assert (one.report().all.groups[0]["n"], other.report().all.groups[0]["n"]) == (20, 20)
    assert other.report().alert.now.status == "insufficient"
    assert len(list(other.folder.glob("shard-*"))) == 1
    third = board.of(settings(version="2"))["loan"]
    assert third.report().all.groups[0]["n"] == 0
    assert third.report().variants["a"].version == "2"
