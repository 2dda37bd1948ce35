"""`tidegate audit fsck`: what follows from what was signed is mended, and nothing else is touched."""

import pytest
from audit_fixture import a_log, entries_of, sequencer, write_segment

from governance.audit.fsck import fsck
from governance.audit.layout import Layout
from governance.audit.segments import Segment, salvage
from governance.audit.tiles import bundle
from governance.errors import AuditBroken, AuditInputError

ENTRIES = [f"entry {number}".encode() for number in range(600)]


@pytest.fixture
def state(tmp_path):
    a_log(tmp_path, ENTRIES, steps=3)
    return tmp_path


def codes(result):
    return [finding.code for finding in result.findings]


def mended(state, code):
    """What is wrong is said and left alone, then mended; the log goes on."""
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert codes(fsck(state, repair=False)) == [code]
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
    result = fsck(state, repair=True)
    assert result.ok, result.findings
    assert len(result.repaired) == 1
    assert fsck(state, repair=False).ok
    a_log(state, [b"and on"])


def test_a_good_log_is_ok(state):
    result = fsck(state, repair=True)
    assert (result.ok, result.repaired) == (True, [])
    assert entries_of(state) == ENTRIES


@pytest.mark.parametrize("how", ["gone", "damaged"])
@pytest.mark.parametrize("path", ["audit/tile/0/000", "audit/tile/0/002.p/88", "audit/tile/1/000.p/2"])
def test_tiles_are_made_again_from_the_entries(state, path, how):
    if how == "gone":
        (state / path).unlink()
    else:
        (state / path).write_bytes(bytes(len((state / path).read_bytes())))
    mended(state, "tile")
    assert entries_of(state) == [*ENTRIES, b"and on"]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_the_checkpoint_is_published_again(state, how):
    path = state / "audit/checkpoint"
    path.unlink() if how == "gone" else path.write_bytes(b"x")
    mended(state, "checkpoint")
    assert entries_of(state) == [*ENTRIES, b"and on"]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_the_head_is_made_again_and_nothing_is_doubled(state, how):
    """One segment is in the log and still there, as after a crash; one is not in it yet, one is half in it."""
    made = sequencer(state)
    first = Segment.create(Layout(state).wal)
    first.append(bundle([b"taken 1", b"taken 2"]))
    first.sync()
    made.integrate()
    made.release()
    first.append(bundle([b"not taken"]))
    first.seal()
    write_segment(state, [b"new"])
    head = Layout(state).head
    head.unlink() if how == "gone" else head.write_bytes(b"{}")
    mended(state, "head")
    assert entries_of(state) == [*ENTRIES, b"taken 1", b"taken 2", b"not taken", b"new", b"and on"]


def test_damage_in_a_segment_is_cut_out_and_kept(state):
    segment = Segment.create(Layout(state).wal)
    for number in range(3):
        segment.append(bundle([f"late {number}".encode()]))
        segment.sync()
    segment.seal()
    content = bytearray(segment.path.read_bytes())
    size = (len(content) - 28) // 3
    content[size + 33] ^= 1
    segment.path.write_bytes(content)
    made = sequencer(state)
    with pytest.raises(AuditBroken, match="damaged at byte"):
        made.integrate()
    made.release()
    Layout(state).broken.write_text("damaged")
    result = fsck(state, repair=False)
    assert f"{size} bytes at {size}" in result.findings[0].message
    mended(state, "segment")
    assert entries_of(state) == [*ENTRIES, b"late 0", b"late 2", b"and on"]
    (kept,) = Layout(state).private.glob("damaged-*")
    assert kept.read_bytes() == content
    assert not Layout(state).broken.exists()


def test_an_entry_is_never_touched(state):
    path = state / "audit/tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b"entry 300", b"entry 999"))
    before = path.read_bytes()
    for repair in (False, True):
        assert codes(fsck(state, repair=repair)) == ["entry"]
    assert path.read_bytes() == before


def test_an_older_state_is_not_mended_into_a_fork(state):
    head = Layout(state).head.read_bytes()
    a_log(state, [b"more"])
    Layout(state).head.write_bytes(head)
    for repair in (False, True):
        assert codes(fsck(state, repair=repair)) == ["rolled-back"]


def test_neither_head_nor_checkpoint_cannot_be_mended(state):
    Layout(state).head.unlink()
    (state / "audit/checkpoint").unlink()
    assert codes(fsck(state, repair=True)) == ["checkpoint"]


def test_only_a_log_that_nobody_writes(state, tmp_path):
    made = sequencer(state)
    with pytest.raises(AuditInputError, match="stop the gateway"):
        fsck(state, repair=True)
    made.release()
    with pytest.raises(AuditInputError, match="no log"):
        fsck(tmp_path / "none", repair=False)


def test_salvage_keeps_every_whole_frame():
    assert salvage(b"") == (b"", [])
    assert salvage(b"TGw1 nothing whole") == (b"", [(0, 18)])
