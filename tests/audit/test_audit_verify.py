"""Verification: every kind of tampering is found, and named where it can be."""

import base64
import shutil
from pathlib import Path

import pytest
from audit_fixture import a_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance.audit import tiles
from governance.audit.checkpoint import unverified
from governance.audit.note import Signer, parse_skey, sign_note
from governance.audit.proof import ProofError, parse_proof, prove, verify_proof
from governance.audit.verify import read_keys, verify
from governance.errors import AuditInputError
from kernels import merkle

SIZE = 256 * 3 + 44
ENTRIES = [f'{{"id":"request-{number}"}}'.encode() for number in range(SIZE)]


@pytest.fixture(scope="session")
def whole(session_path):
    """A log of three full tiles and one partial, and an older checkpoint of it."""
    state = session_path / "whole"
    log = a_log(state, ENTRIES[:300])
    older = (log / "checkpoint").read_bytes()
    a_log(state, ENTRIES[300:])
    (state / "older").write_bytes(older)
    return state


@pytest.fixture
def state(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "state"))


def judge(state, *remembered, key=None):
    log = state / "audit"
    return verify(log, read_keys(key or log / "log.vkey"), remembered)


def found(report):
    return {(finding.code, finding.index) for finding in report.findings}


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def rewrite_bundle(path, change):
    rewrite(path, lambda data: tiles.bundle(change(list(tiles.entries_of(data)))))


def test_a_good_log_verifies(state):
    report = judge(state, state / "older")
    assert report.ok
    assert report.size == SIZE
    assert report.root == unverified((state / "audit/checkpoint").read_bytes()).root


def test_progress_is_told(state):
    seen = []
    verify(state / "audit", read_keys(state / "audit/log.vkey"), progress=lambda *told: seen.append(told))
    assert seen == [(256, SIZE), (512, SIZE), (768, SIZE), (SIZE, SIZE)]


@pytest.mark.parametrize("index", [0, 255, 256, 700, 768, SIZE - 1])
def test_a_changed_entry_is_named(state, index):
    number, width = index // 256, min(256, SIZE - index // 256 * 256)

    def change(entries):
        entries[index % 256] = b'{"id":"request-other"}'
        return entries

    rewrite_bundle(state / "audit" / tiles.bundle_path(number, width), change)
    assert found(judge(state)) == {("entry", index)}


def test_two_entries_that_changed_places_are_named(state):
    def swap(entries):
        entries[3], entries[200] = entries[200], entries[3]
        return entries

    rewrite_bundle(state / "audit/tile/entries/001", swap)
    report = judge(state)
    assert found(report) == {("moved-entry", 259), ("moved-entry", 456)}
    assert "entry 456" in report.findings[0].message


def test_an_entry_that_was_taken_out_is_named(state):
    rewrite_bundle(state / "audit/tile/entries/001", lambda entries: [*entries[:9], *entries[10:], b"{}"])
    assert found(judge(state)) == {("missing-entry", 265)}


def test_an_entry_that_was_put_in_is_found(state):
    rewrite_bundle(state / "audit/tile/entries/001", lambda entries: [*entries[:9], b"{}", *entries[9:-1]])
    report = judge(state)
    assert ("entry", 265) in found(report)
    assert ("moved-entry", 266) in found(report)


def test_a_bundle_that_is_short_is_found(state):
    rewrite_bundle(state / "audit/tile/entries/001", lambda entries: entries[:-1])
    report = judge(state)
    assert found(report) == {("unreadable", 256)}
    assert "255 entries and not 256" in report.findings[0].message


@pytest.mark.parametrize(
    ("path", "code", "index"),
    [
        ("tile/0/001", "tile", 256 + 7),
        ("tile/0/003.p/44", "tile", 768 + 7),
    ],
)
def test_a_changed_tile_is_told_from_a_changed_entry(state, path, code, index):
    rewrite(state / "audit" / path, lambda data: data[: 7 * 32] + bytes(32) + data[8 * 32 :])
    report = judge(state)
    assert found(report) == {(code, index)}
    assert report.findings[0].file == path


def test_a_changed_tile_of_a_higher_level_is_named(state):
    rewrite(state / "audit/tile/1/000.p/3", lambda data: data[:32] + bytes(32) + data[64:])
    report = judge(state)
    assert found(report) == {("tile", 256)}
    assert "256 to 511" in report.findings[0].message


def test_an_entry_changed_with_all_tiles_above_it_does_not_lead_to_the_root(state):
    log = state / "audit"

    def change(entries):
        entries[5] = b"{}"
        return entries

    rewrite_bundle(log / "tile/entries/001", change)
    leaves = [merkle.leaf_hash(entry) for entry in tiles.entries_of((log / "tile/entries/001").read_bytes())]
    (log / "tile/0/001").write_bytes(b"".join(leaves))
    assert found(judge(state)) == {("entry", 256), ("root", None)}
    rewrite(log / "tile/1/000.p/3", lambda data: data[:32] + merkle.fold(leaves) + data[64:])
    assert found(judge(state)) == {("root", None)}


def test_a_history_that_was_rewritten_and_signed_again_is_found_by_who_remembers(state, tmp_path):
    """The operator's own key signs another past: only a remembered checkpoint shows it."""
    entries = list(ENTRIES)
    entries[17] = b"{}"
    other = tmp_path / "other"
    (other / "audit-private").mkdir(parents=True, mode=0o700)
    shutil.copy(state / "audit-private/log.key", other / "audit-private/log.key")
    a_log(other, entries)
    assert judge(other).ok
    report = judge(other, state / "older")
    assert found(report) == {("forked", None)}
    assert "300 entries" in report.findings[0].message


def test_a_log_that_was_rolled_back_is_found_by_who_remembers(state, tmp_path):
    shutil.copy(state / "audit/checkpoint", tmp_path / "newer")
    shutil.copy(state / "older", state / "audit/checkpoint")
    # An old checkpoint alone is a good, shorter log: what lies past it is nobody's concern.
    report = judge(state)
    assert report.ok
    assert report.size == 300
    assert found(judge(state, tmp_path / "newer")) == {("rolled-back", None)}
    assert judge(state, state / "older").ok


def test_a_full_tile_stands_in_for_its_partial(state):
    shutil.copy(state / "older", state / "audit/checkpoint")
    assert not list((state / "audit").glob("tile/*/001.p"))
    assert judge(state).ok


def test_another_key_is_named(state, tmp_path):
    other = Signer("example.com/audit", bytes(32)).verifier
    (tmp_path / "key").write_text(other.vkey + "\n")
    assert found(judge(state, key=tmp_path / "key")) == {("unsigned", None)}
    stranger = Signer("someone.else", bytes(32)).verifier
    (tmp_path / "key").write_text(stranger.vkey + "\n")
    assert found(judge(state, key=tmp_path / "key")) == {("unsigned", None), ("origin", None)}


def test_one_key_of_several_is_enough(state, tmp_path):
    other = Signer("example.com/audit", bytes(32)).verifier
    (tmp_path / "key").write_text(f"{other.vkey}\n\n{(state / 'audit/log.vkey').read_text()}")
    assert judge(state, key=tmp_path / "key").ok


def test_another_logs_checkpoint_signed_with_this_key_is_named(state):
    signer = parse_skey((state / "audit-private/log.key").read_text().strip())
    text = (state / "audit/checkpoint").read_bytes().split(b"\n\n")[0] + b"\n"
    (state / "audit/checkpoint").write_bytes(
        sign_note(text.replace(b"example.com/audit\n", b"example.com/other\n"), [signer])
    )
    assert found(judge(state)) == {("origin", None)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda note: b"", "note"),
        (lambda note: note[: len(note) // 2], "note"),
        (lambda note: note.replace(str(SIZE).encode(), str(SIZE - 1).encode()), "signature"),
        (lambda note: note.replace(b"\n812\n", b"\n812x\n"), "signature"),
        (lambda note: note[:-3] + b"!=\n", "note"),
    ],
)
def test_checkpoints_that_were_edited(state, change, code):
    rewrite(state / "audit/checkpoint", change)
    report = judge(state)
    assert not report.ok
    assert code in {finding.code for finding in report.findings}


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/entries/001", "tile/entries/003.p/44", "tile/0/000", "tile/0/003.p/44", "tile/1/000.p/3"],
)
@pytest.mark.parametrize("how", ["gone", "empty", "folder", "cut"])
def test_files_that_are_not_there_are_findings(state, path, how):
    file = state / "audit" / path
    content = file.read_bytes()
    file.unlink()
    if how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()
    elif how == "cut":
        file.write_bytes(content[:-5])
    report = judge(state)
    assert not report.ok
    assert report.findings[0].file == path


def test_every_byte_counts(whole):
    """One bit anywhere in the files that make up the log; partial tiles of older checkpoints are not of this one."""
    names = ["checkpoint"]
    for level in range(tiles.levels(SIZE)):
        names += [tiles.tile_path(level, index, width) for index, width in tiles.widths(SIZE, level)]
    names += [tiles.bundle_path(index, width) for index, width in tiles.widths(SIZE, 0)]
    files = [whole / "audit" / name for name in names]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(files), st.data())
    def flipped(path, data):
        content = path.read_bytes()
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            report = judge(whole)
        finally:
            path.write_bytes(content)
        assert not report.ok

    flipped()
    assert judge(whole).ok


def test_many_findings_are_counted(state, monkeypatch):
    monkeypatch.setattr("governance.audit.verify.MOST_FINDINGS", 5)
    rewrite_bundle(state / "audit/tile/entries/000", lambda entries: [b"{}"] * 256)
    report = judge(state)
    assert [finding.code for finding in report.findings] == ["entry"] * 5 + ["more"]
    assert "251 more" in report.findings[-1].message


def test_logs_of_others_verify(tmp_path):
    """Entries need not be records, and the smallest logs are logs."""
    for number, entries in enumerate([[], [b""], [bytes(65535), b"\xff"]]):
        a_log(tmp_path / str(number), entries)
        report = judge(tmp_path / str(number))
        assert report.ok
        assert report.size == len(entries)


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "no key"), ("nonsense\n", ":1: not a verifier key"), (b"\xff", "cannot be read"), (None, "No such file")],
)
def test_keys_that_cannot_be_used(state, tmp_path, content, why):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AuditInputError, match=why):
        read_keys(path)


def test_folders_and_remembered_checkpoints_that_cannot_be_read(state, tmp_path):
    keys = read_keys(state / "audit/log.vkey")
    for folder in (tmp_path / "none", state / "audit/checkpoint"):
        with pytest.raises(AuditInputError, match="folder"):
            verify(folder, keys)
    (tmp_path / "bad").write_text("x")
    for remembered in (tmp_path / "none", tmp_path / "bad"):
        with pytest.raises(AuditInputError, match="checkpoint"):
            verify(state / "audit", keys, [remembered])


# --- proofs ---


@pytest.mark.parametrize("index", [0, 255, 256, 800, SIZE - 1])
def test_a_proof_holds_for_its_entry_alone(state, index):
    keys = read_keys(state / "audit/log.vkey")
    content = prove(state / "audit", index).encode()
    assert content.startswith(f"c2sp.org/tlog-proof@v1\nindex {index}\n".encode())
    assert parse_proof(content).encode() == content
    for entry in (ENTRIES[index], ENTRIES[index] + b"\n"):
        report, at = verify_proof(content, keys, entry, "p")
        assert report.ok
        assert (at, report.size) == (index, SIZE)
    for entry in (ENTRIES[index - 1], ENTRIES[index] + b"\n\n", b""):
        report, _ = verify_proof(content, keys, entry, "p")
        assert [finding.code for finding in report.findings] == ["inclusion"]


def test_proofs_that_are_edited_prove_nothing(state):
    keys = read_keys(state / "audit/log.vkey")
    content = prove(state / "audit", 300).encode()

    @given(st.integers(0, 8 * len(content) - 1))
    def flipped(bit):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        report, _ = verify_proof(bytes(changed), keys, ENTRIES[300], "p")
        assert not report.ok

    flipped()


def test_extra_data_is_passed_over(state):
    keys = read_keys(state / "audit/log.vkey")
    content = prove(state / "audit", 5).encode()
    first, rest = content.split(b"\n", 1)
    report, _ = verify_proof(first + b"\nextra " + base64.b64encode(b"more") + b"\n" + rest, keys, ENTRIES[5], "p")
    assert report.ok


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"c2sp.org/tlog-proof@v1\n",
        b"c2sp.org/tlog-proof@v2\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nindex 00\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex -1\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra !\nindex 1\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra AAAA\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n\xff\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n" + (base64.b64encode(bytes(32)) + b"\n") * 65 + b"\nx",
        b"c2sp.org/tlog-proof@v1\nindex " + b"9" * 5000 + b"\n\nx",
    ],
)
def test_files_that_are_no_proofs(content):
    with pytest.raises(ProofError):
        parse_proof(content)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser_of_proofs(content):
    keys = [Signer("x", bytes(32)).verifier]
    report, _ = verify_proof(b"c2sp.org/tlog-proof@v1\n" + content, keys, b"", "p")
    assert not report.ok


@pytest.mark.parametrize(("index", "why"), [(SIZE, f"last is {SIZE - 1}"), (10**9, "no entry")])
def test_what_is_not_there_has_no_proof(state, index, why):
    with pytest.raises(AuditInputError, match=why):
        prove(state / "audit", index)


def test_a_damaged_log_gives_no_proof(state, tmp_path):
    rewrite(state / "audit/tile/0/000", lambda data: bytes(32) + data[32:])
    with pytest.raises(AuditInputError, match="do not lead"):
        prove(state / "audit", 3)
    a_log(tmp_path / "empty", [])
    with pytest.raises(AuditInputError, match="empty"):
        prove(tmp_path / "empty/audit", 0)
    with pytest.raises(AuditInputError, match="cannot be read"):
        prove(tmp_path / "none", 0)
