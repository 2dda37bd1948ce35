"""A log that loses its beginning under a stated policy: what holds, what is told, and what is a fault."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import pytest
from audit_fixture import a_log, a_record, record_all
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import checkpoint as signed
from prune_fixture import DAY_NS, POLICY, RETENTION, aged, an_old_log, pruned

from governance.audit import erasure
from governance.audit.checked import checked_entries
from governance.audit.files import try_lock
from governance.audit.fsck import fsck
from governance.audit.layout import Layout
from governance.audit.people import Keyed, Named, open_people
from governance.audit.proof import prove, verify_proof
from governance.audit.prune import prune
from governance.audit.pruned import Hint, read_pruned, statement
from governance.audit.record import timestamp
from governance.audit.retention import REST, Class, Retention, plan
from governance.audit.secrets import secret_key
from governance.audit.show import entries, export, read_checkpoint
from governance.audit.tiles import bundle, bundle_path, entries_of
from governance.audit.verify import read_keys, verify
from governance.errors import AuditInputError, AuditUnavailable


def judged(state_dir, *remembered):
    log = Layout(state_dir).log
    return verify(log, read_keys(log / "log.vkey"), remembered)


def codes(report):
    return {finding.code for finding in report.findings}


def records(state_dir):
    return [json.loads(entry) for _, entry in entries(Layout(state_dir).log)]


@pytest.fixture
def state(tmp_path):
    an_old_log(tmp_path)
    return tmp_path


def test_what_is_old_goes_and_everything_still_verifies(state, tmp_path):
    log = Layout(state).log
    old, raw = tmp_path / "old.checkpoint", dict(entries(log))
    shutil.copy(log / "checkpoint", old)
    shown = pruned(state, do=False)
    assert (shown.pruned, shown.plan.before, shown.plan.stays) == (False, 512, 600)
    assert len(list(entries(log))) == 900, "only looked at"
    done = pruned(state)
    assert (done.pruned, done.plan.begin, done.plan.before, done.freed > 0) == (True, 0, 512, True)
    assert not (log / bundle_path(0)).exists()
    assert not (log / bundle_path(1)).exists()
    report = judged(state, old)
    assert report.ok
    assert (report.pruned.before, report.pruned.policy, report.pruned.index) == (512, POLICY, done.statement)
    assert [(part.name, part.entries) for part in report.pruned.classes] == [(REST, 512)]
    assert [index for index, _ in entries(log)] == list(range(512, report.size))
    assert [index for index, _ in checked_entries(log, read_keys(log / "log.vkey"))] == list(range(512, report.size))
    made = [record for record in records(state) if record["action"] == "prune"]
    assert [(record["phase"], record["details"]["before"]) for record in made] == [("start", 512), ("end", 512)]
    # Whoever kept an entry can still prove it, and one that is there too.
    for index in (0, 511, 512):
        content = prove(log, index).encode()
        assert verify_proof(content, read_keys(log / "log.vkey"), raw[index], "p")[0].ok
    again = pruned(state)
    assert (again.pruned, again.plan.begin, again.plan.before) == (False, 512, 512)


def test_the_hashes_that_are_left_are_checked_by_a_verifier_of_another_hand(state):
    pruned(state)
    log = Layout(state).log
    _, size, root = signed((log / "checkpoint").read_bytes(), (log / "log.vkey").read_text())
    row = []
    for index in range(-(-size // 256)):
        width = min(256, size - 256 * index)
        tile = log / f"tile/0/{index:03d}{'' if width == 256 else f'.p/{width}'}"
        row += [tile.read_bytes()[at : at + 32] for at in range(0, 32 * width, 32)]
    assert [sha256(b"\x00" + entry).digest() for _, entry in entries(log)] == row[512:]
    while len(row) > 1:
        pairs = [row[at : at + 2] for at in range(0, len(row), 2)]
        row = [sha256(b"\x01" + b"".join(pair)).digest() if len(pair) > 1 else pair[0] for pair in pairs]
    assert row == [root]


def test_show_and_export_begin_where_the_log_does(state, tmp_path):
    pruned(state)
    log = Layout(state).log
    with pytest.raises(AuditInputError, match="entries 0 to 511 were pruned under the retention policy"):
        list(entries(log, 3, 3))
    assert [index for index, _ in entries(log, 500, 513)] == [512, 513]
    count = export(log, tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert (count, json.loads(lines[0])["index"]) == (len(lines), 512)


def gap_in_the_prefix(log):
    (log / bundle_path(2)).unlink()


def statement_changed(log):
    """Says 768 where it said 512, in the bundle and in the file that points at it."""
    hint = json.loads((log / "pruned").read_text())
    index = hint["record"] // 256
    path = next(path for path in (log / "tile/entries").rglob("*") if path.is_file() and str(index) in str(path))
    path.write_bytes(path.read_bytes().replace(b'"before":512', b'"before":768'))
    (log / "pruned").write_text(json.dumps({**hint, "before": 768}))
    (log / bundle_path(2)).unlink()


def statement_taken_out(log):
    hint = json.loads((log / "pruned").read_text())
    for path in (log / "tile/entries").rglob("*"):
        if path.is_file() and str(hint["record"] // 256) in str(path):
            left = [entry for entry in entries_of(path.read_bytes()) if b'"action":"prune"' not in entry]
            path.write_bytes(bundle(left))


def a_leaf_hash(log):
    content = bytearray((log / "tile/0/001").read_bytes())
    content[40] ^= 1
    (log / "tile/0/001").write_bytes(content)


def a_tile_of_what_went(log):
    (log / "tile/0/000").unlink()


ATTACKS = [
    (gap_in_the_prefix, {"unreadable"}),
    (statement_changed, {"unreadable", "entry"}),
    (statement_taken_out, {"unreadable"}),
    (a_leaf_hash, {"tile", "root", "entry"}),
    (a_tile_of_what_went, {"unreadable", "root", "entry"}),
]


@pytest.mark.parametrize(("attack", "found"), ATTACKS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_no_policy_states_is_found(state, attack, found):
    pruned(state)
    log = Layout(state).log
    attack(log)
    report = judged(state)
    assert not report.ok
    assert codes(report) <= found
    assert codes(report) & found
    with pytest.raises(AuditInputError):
        list(checked_entries(log, read_keys(log / "log.vkey")))
    assert not fsck(state, repair=True).ok


def test_a_gap_of_which_the_log_says_nothing(state):
    log = Layout(state).log
    (log / bundle_path(0)).unlink()
    report = judged(state)
    assert [(finding.file, finding.code) for finding in report.findings] == [(bundle_path(0), "unreadable")]
    # A file that says so beside the log states nothing.
    (log / "pruned").write_text('{"before": 256, "record": 800}')
    assert codes(judged(state)) == {"unreadable"}
    assert read_pruned(log, 900) is None
    with pytest.raises(AuditInputError, match="No such file"):
        list(entries(log))
    with pytest.raises(AuditInputError, match="nothing states"):
        list(checked_entries(log, read_keys(log / "log.vkey")))


def test_a_statement_that_breaks_its_own_policy_is_found(tmp_path):
    """Whoever has the log's key can write any statement; not one that says records were kept for long enough."""
    young = timestamp(time.time_ns() - 100 * DAY_NS)
    part = {"class": REST, "days": 184, "duty": "ai-act-19", "entries": 256, "latest": young}
    details = {"policy": POLICY, "begin": 0, "before": 256, "classes": [part]}
    stated = aged(400, 0, kind="erasure", action="prune", phase="start", object="audit", details=details)
    log = a_log(tmp_path, [*(aged(n, 100) for n in range(400)), stated])
    (log / bundle_path(0)).unlink()
    report = judged(tmp_path)
    assert [(finding.code, finding.index) for finding in report.findings] == [("retention", 400)]
    assert (report.pruned.before, report.pruned.index) == (256, 400)


def test_a_client_cannot_state_anything():
    """What a request can put into a record does not make it a statement."""
    part = {"class": REST, "days": 1, "duty": "none", "entries": 256, "latest": "2020-01-01T00:00:00.000000000Z"}
    details = {"policy": "x", "begin": 0, "before": 256, "classes": [part]}
    good = {"kind": "erasure", "action": "prune", "phase": "start", "details": details}
    assert statement(aged(400, 0, **good), 400) is not None
    for more in (
        {"kind": "inference"},
        {"action": "infer"},
        {"phase": None},
        {"phase": "end"},
        {"outcome": "refused"},
        {"details": {**details, "before": 100}},
        {"details": {**details, "before": 512}},
        {"details": None},
    ):
        assert statement(aged(400, 0, **{**good, **more}), 400) is None
    assert statement(aged(100, 0, **good), 100) is None, "it would have gone itself"


def test_the_longest_class_keeps_what_came_after_it(tmp_path):
    kinds = [{"model": "credit"} if n == 300 else {"model": "spam"} for n in range(900)]
    log = a_log(tmp_path, [aged(n, 400, **more) for n, more in enumerate(kinds)])
    credit = Class("credit", 762, "reg-b-1002.12", models=frozenset({"credit"}))
    short = Class("short", 1, "none", kinds=frozenset({"inference"}))
    retention = Retention(POLICY, Class(REST, 184, "ai-act-19"), (credit, short))
    now = time.time_ns()
    found = plan(log, retention, now, {})
    assert (found.before, found.stays) == (256, 300)
    assert "credit" in found.why
    assert [(part.name, part.entries) for part in found.parts] == [("short", 256)]
    found = plan(log, retention, now + 400 * DAY_NS, {})
    assert (found.before, found.stays) == (768, 768)
    assert {part.name: part.entries for part in found.parts} == {"credit": 1, "short": 767}


_MODELS = ("credit", "spam", None)
_CLASSES = st.builds(
    Class,
    name=st.sampled_from("abc"),
    days=st.integers(1, 500),
    duty=st.just("none"),
    kinds=st.frozensets(st.sampled_from(["inference", "settings"]), max_size=2),
    models=st.frozensets(st.sampled_from(["credit", "spam"]), max_size=2),
)
_RUNS = st.lists(
    st.tuples(
        st.integers(1, 300), st.integers(0, 600), st.sampled_from(["inference", "settings"]), st.sampled_from(_MODELS)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15)
@given(_RUNS, st.lists(_CLASSES, max_size=3, unique_by=lambda one: one.name), st.integers(1, 500))
def test_what_goes_is_the_longest_run_of_whole_bundles_that_may(runs, classes, rest):
    """Against the same said in one line: of each record, the longest time of the classes that take it."""
    every = [run[1:] for run in runs for _ in range(run[0])]

    def days(kind, model):
        mine = [c.days for c in classes if (not c.kinds or kind in c.kinds) and (not c.models or model in c.models)]
        return max(mine, default=rest)

    may = [age >= days(kind, model) for age, kind, model in every]
    whole = next((at for at in range(len(every) // 256) if not all(may[256 * at : 256 * at + 256])), len(every) // 256)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        made = [aged(n, age, kind=kind, model=model) for n, (age, kind, model) in enumerate(every)]
        log = a_log(Path(folder), made)
        # A moment later, so that what is exactly old enough is.
        found = plan(log, Retention(POLICY, Class(REST, rest, "none"), tuple(classes)), time.time_ns(), {})
    assert found.before == 256 * whole
    assert sum(part.entries for part in found.parts) == found.before
    assert found.stays == next(
        (at for at, it_may in enumerate(may[: len(every) // 256 * 256]) if not it_may), found.before
    )


@pytest.mark.parametrize("odd", [b"no record", b"[1]", b"{}", b'{"time": 3}', b'{"time": "yesterday"}', b"\xff"])
def test_what_has_no_age_stays(tmp_path, odd):
    log = a_log(tmp_path, [*(aged(n, 400) for n in range(300)), odd, *(aged(n, 400) for n in range(300))])
    found = plan(log, RETENTION, time.time_ns(), {})
    assert (found.before, found.stays) == (256, 300)
    assert "age" in found.why


def test_a_legal_hold_on_the_log(state):
    people = Named(bytes(32))
    erasure.hold_log(state, people, "case 7")
    done = pruned(state)
    assert (done.pruned, "case 7" in done.refused) == (False, True)
    assert judged(state).pruned is None
    assert [(r["action"], r["outcome"]) for r in records(state)[-2:]] == [("hold", "served"), ("prune", "refused")]
    erasure.hold_log(state, people, None)
    assert pruned(state).pruned


@pytest.fixture
def eve(tmp_path):
    """An old log with a vault, whose entry 300 is about somebody; the log."""
    layout = Layout(tmp_path)
    layout.make_private()
    with contextlib.closing(open_people(layout, erasure=True, pseudonyms=False)) as vault:
        person = vault.of(["user:eve"])["user:eve"].subject
    return a_log(tmp_path, [aged(n, 400, **({"subject": person} if n == 300 else {})) for n in range(700)])


def test_a_legal_hold_on_a_person(tmp_path, eve):
    """Its records stay, and with them what came after; also where the settings seal nobody any more."""
    pseudonym = erasure.hold(tmp_path, "user:eve", "case 7")
    found = pruned(tmp_path, do=False).plan
    assert (found.before, found.stays, found.held) == (256, 300, True)
    assert pseudonym in found.why
    erasure.hold(tmp_path, "user:eve", None)
    assert pruned(tmp_path, do=False).plan.before == 512


def test_a_hold_that_comes_between_an_interrupted_pruning_and_the_next(tmp_path, eve, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("governance.audit.prune._delete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pruned(tmp_path)
    assert read_pruned(eve, read_checkpoint(eve).size).before == 512
    erasure.hold(tmp_path, "user:eve", "case 7")
    done = pruned(tmp_path)
    assert (done.pruned, done.plan.before, done.plan.stays) == (True, 256, 300)
    assert [(eve / bundle_path(index)).exists() for index in range(2)] == [False, True]
    assert judged(tmp_path).ok
    erasure.hold(tmp_path, "user:eve", None)
    assert pruned(tmp_path).plan.begin == 256
    assert not (eve / bundle_path(1)).exists()
    assert judged(tmp_path).ok


def test_a_hold_and_a_pruning_wait_for_each_other(state):
    lock = try_lock(Layout(state).prune_lock)
    with pytest.raises(AuditInputError, match="under way"):
        pruned(state)
    with pytest.raises(AuditInputError, match="under way"):
        fsck(state, repair=False)
    os.close(lock)
    assert fsck(state, repair=False).ok
    assert pruned(state).pruned


def test_a_log_that_does_not_hold_loses_nothing(state):
    log = Layout(state).log
    path = log / bundle_path(0)
    path.write_bytes(path.read_bytes().replace(b"request-7", b"request-8", 1))
    done = pruned(state)
    assert (done.pruned, "does not verify" in done.refused) == (False, True)
    assert path.exists()


def test_nothing_goes_before_its_statement_is_public(state, monkeypatch):
    """A gateway that holds the sequencer and takes nothing in."""
    lock = try_lock(Layout(state).lock)
    monkeypatch.setattr("governance.audit.prune._PUBLIC_S", 0.2)
    with pytest.raises(AuditUnavailable, match="nothing was pruned"):
        pruned(state)
    assert (Layout(state).log / bundle_path(0)).exists()
    assert judged(state).ok
    os.close(lock)
    assert pruned(state).pruned


def test_the_log_goes_on_after_a_pruning(state):
    pruned(state)
    record_all(state, [a_record(n) for n in range(300)])
    report = judged(state)
    assert report.ok
    assert report.size > 1200
    again = Retention(POLICY, Class(REST, 1, "none"))
    assert pruned(state, again).plan.begin == 512


def test_fsck_of_a_pruned_log(state):
    pruned(state)
    assert fsck(state, repair=False).ok
    log = Layout(state).log
    hint = (log / "pruned").read_bytes()
    (log / "pruned").unlink()
    result = fsck(state, repair=False)
    assert [finding.code for finding in result.findings] == ["pruned"]
    assert fsck(state, repair=True).ok
    assert (log / "pruned").read_bytes() == hint
    # The tiles above are made again from what is left of the pruned part, the head from the checkpoint.
    (log / "tile/1/000.p/3").unlink(missing_ok=True)
    Layout(state).head.unlink()
    assert not fsck(state, repair=False).ok
    assert fsck(state, repair=True).ok
    assert judged(state).ok
    assert fsck(state, repair=False).ok


def test_keyed_pseudonyms(tmp_path):
    subjects = ["user:alice", "user:bob", "user:alice", None, "user:\udcff"]
    record_all(tmp_path, [a_record(n, subject=subject) for n, subject in enumerate(subjects)], pseudonyms=True)
    found = [record["subject"] for record in records(tmp_path)]
    assert found[0] == found[2] != found[1]
    assert found[3] is None
    assert all(one.startswith("person:") for one in found if one)
    assert all(record["sealed"] is None for record in records(tmp_path))
    layout = Layout(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"alice" in path.read_bytes() for path in files)
    assert not layout.vault.exists()
    # The same in every process that has the key, and another in every log.
    assert Keyed(secret_key(layout.digest_key)).at_hand("user:alice").subject == found[0]
    assert Keyed(bytes(32)).at_hand("user:alice").subject != found[0]


def test_where_a_log_does_not_say_how_it_begins(state):
    log = Layout(state).log
    for content in (b"", b"{}", b"[]", b'{"before": 512, "record": 99999}', b'{"before": 512, "record": -1}', b"\xff"):
        (log / "pruned").write_bytes(content)
        assert read_pruned(log, read_checkpoint(log).size) is None
    assert Hint(1, 2).before == 1
    with pytest.raises(AuditInputError, match="no log"):
        prune(state / "none", RETENTION, Named(bytes(32)), do=False)
