"""Notes, checkpoints and tiles: the published examples byte for byte, and what is none of them."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.audit.checkpoint import Checkpoint, parse_checkpoint, unverified
from governance.audit.edge import Edge, edge_from, edge_tiles
from governance.audit.note import NoteError, Signer, open_note, parse_skey, parse_vkey, sign_note, split_note
from governance.audit.tiles import MOST_ENTRY, bundle, bundle_path, entries_of, levels, tile_path, widths
from kernels import merkle
from kernels.merkle import _merkle_py as spec

# The example of C2SP signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
# The keys, entries and sixteen checkpoints of Tessera's test log (testdata/build_log.sh, testdata/log).
TESSERA_VKEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
TESSERA_SKEY = "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg"
TESSERA_ENTRIES = b"one two three four five six seven eit nain ten ileven twelf threeten fourten fivten".split()
TESSERA_LAST = (
    "example.com/log/testdata\n15\nrKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=\n\n— example.com/log/testdata "
    "M9e0luh4jTG+UMBqOUo9/q+yAEvx1ilBEniMvjf1zfcBOhg+CKubMt53MvIt/uEWP6zdkdIQzd/fmwlM/dlPWF74ewI=\n"
).encode()
TESSERA_ALL = "c366c82fdd7c77311b8141fbd3769670884dba48445f343867c348455de269fd"
"""SHA-256 over checkpoint.0 to checkpoint.15, one behind the other."""


def test_the_published_note_verifies():
    assert open_note(EXAMPLE, [parse_vkey(EXAMPLE_KEY)]) == b"This is an example message.\n"
    assert parse_vkey(EXAMPLE_KEY).vkey == EXAMPLE_KEY


def test_another_logs_checkpoints_are_made_byte_for_byte():
    signer, verifier = parse_skey(TESSERA_SKEY), parse_vkey(TESSERA_VKEY)
    assert signer.verifier == verifier
    assert signer.skey == TESSERA_SKEY
    leaves = [merkle.leaf_hash(entry) for entry in TESSERA_ENTRIES]
    notes = []
    for size in range(16):
        edge, _ = Edge().extended(leaves[:size])
        notes.append(sign_note(Checkpoint(signer.name, size, edge.root).text, [signer]))
        assert parse_checkpoint(open_note(notes[-1], [verifier])) == unverified(notes[-1])
    assert notes[-1] == TESSERA_LAST
    assert hashlib.sha256(b"".join(notes)).hexdigest() == TESSERA_ALL


def test_keys_show_no_secret():
    assert TESSERA_SKEY[-20:] not in repr(parse_skey(TESSERA_SKEY))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "NAME"),
        ("name", "NAME"),
        (EXAMPLE_KEY.replace("530d903a", "530d903b"), "key ID"),
        (EXAMPLE_KEY.replace("foo", "bar"), "key ID"),
        (EXAMPLE_KEY.replace("530d903a", "xyz"), "NAME"),
        (EXAMPLE_KEY.replace("AekyeRrm", "BOkyeRrm"), "Ed25519"),
        (EXAMPLE_KEY[:-4], "Ed25519"),
        (EXAMPLE_KEY.replace("example.com/foo", "two words"), "NAME"),
    ],
)
def test_keys_that_are_none(key, why):
    with pytest.raises(NoteError, match=why):
        parse_vkey(key)
    with pytest.raises(NoteError):
        parse_skey("PRIVATE+KEY+" + key if key else key)


@pytest.mark.parametrize(
    ("note", "code"),
    [
        (b"", "note"),
        (b"no signature\n", "note"),
        (EXAMPLE.replace("—".encode(), b"-"), "note"),
        (EXAMPLE[:-1], "note"),
        (EXAMPLE + b"\n", "note"),
        (EXAMPLE.replace(b"QM=\n", b"QM\n"), "note"),
        (EXAMPLE.replace(b"Uw2QO", b"!!!!!"), "note"),
        (EXAMPLE.replace(b"example message", b"example\tmessage"), "note"),
        (EXAMPLE.replace(b"example message", b"example\xff"), "note"),
        (EXAMPLE.replace(b"example message", b"other message"), "signature"),
        (EXAMPLE.replace(b"Uw2QOkn8", b"Uw2QOkn9"), "signature"),
        (EXAMPLE.replace(b"Uw2QOkn8", b"Uw2QPkn8"), "unsigned"),
        (EXAMPLE.replace("— example.com/foo".encode(), "— example.com/bar".encode()), "unsigned"),
        (b"x" * (1 << 20) + EXAMPLE, "note"),
    ],
)
def test_notes_that_are_none(note, code):
    with pytest.raises(NoteError) as error:
        open_note(note, [parse_vkey(EXAMPLE_KEY)])
    assert error.value.code == code


def test_unknown_signatures_are_passed_over_and_known_ones_are_not():
    signer, other = Signer("log.example", bytes(32)), Signer("witness.example", b"w" * 32)
    note = sign_note(b"text\n", [other, signer])
    assert open_note(note, [signer.verifier]) == b"text\n"
    assert len(split_note(note)[1]) == 2
    spoiled = note.replace(other.signature_line(b"text\n"), other.signature_line(b"else\n"))
    assert open_note(spoiled, [signer.verifier]) == b"text\n"
    with pytest.raises(NoteError):
        open_note(spoiled, [signer.verifier, other.verifier])


def test_texts_may_have_empty_lines_and_many_signatures():
    signers = [Signer(f"key-{number}", bytes([number]) * 32) for number in range(16)]
    text = b"one\n\ntwo\n"
    assert open_note(sign_note(text, signers), [signers[7].verifier]) == text


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=50), st.binary(min_size=32, max_size=32))
def test_what_is_signed_can_be_opened(line, seed):
    signer = Signer("log.example", seed)
    text = line.encode() + b"\n"
    assert open_note(sign_note(text, [signer]), [parse_vkey(signer.verifier.vkey)]) == text


ROOT64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize("size", ["01", "-1", "+1", " 1", "1 ", "x", "", "1_0", "٣", str(1 << 63)])
def test_sizes_that_are_none(size):
    with pytest.raises(NoteError):
        parse_checkpoint(f"origin\n{size}\n{ROOT64}\n".encode())


@pytest.mark.parametrize(
    "text", ["", "origin\n", "origin\n1\n", f"origin\n1\n{ROOT64[:-4]}\n", f"\n1\n{ROOT64}\n", f"o\n1\n{ROOT64}\n\nx\n"]
)
def test_checkpoints_that_are_none(text):
    with pytest.raises(NoteError):
        parse_checkpoint(text.encode())


def test_extension_lines_are_passed_over():
    found = parse_checkpoint(f"origin\n7\n{ROOT64}\nmore\n".encode())
    assert found == Checkpoint("origin", 7, bytes(32))


# --- tiles ---


@pytest.mark.parametrize(
    ("number", "path"),
    [(0, "000"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067"), (10**9, "x001/x000/x000/000")],
)
def test_numbers_in_paths(number, path):
    assert tile_path(0, number) == f"tile/0/{path}"
    assert bundle_path(number, 7) == f"tile/entries/{path}.p/7"


def test_the_tree_of_the_specification():
    # tlog-tiles: a tree of size 70,000, and one of size 256.
    assert [list(widths(70_000, level))[-1] for level in range(3)] == [(273, 112), (1, 17), (0, 1)]
    assert [list(widths(256, level)) for level in range(2)] == [[(0, 256)], [(0, 1)]]
    assert [levels(size) for size in (0, 1, 255, 256, 65535, 65536)] == [0, 1, 1, 2, 2, 3]


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_bundles_there_and_back(entries):
    assert list(entries_of(bundle(entries))) == entries


def test_bundles_that_are_none():
    with pytest.raises(ValueError, match="65535"):
        bundle([bytes(MOST_ENTRY + 1)])
    assert len(bundle([bytes(MOST_ENTRY)])) == MOST_ENTRY + 2
    for cut in (1, 2, 3):
        with pytest.raises(ValueError, match="after 1 entries"):
            entries_of(bundle([b"one", b"two"])[:-cut])
    with pytest.raises(ValueError, match="after 1 entries"):
        entries_of(bundle([b"one"]) + b"\0")


@given(st.lists(st.integers(0, 700), max_size=6))
def test_an_edge_grows_to_the_same_tree_in_any_steps(steps):
    edge, leaves, files = Edge(), [], {}
    for step in steps:
        new = [spec.leaf_hash(number.to_bytes(4)) for number in range(len(leaves), len(leaves) + step)]
        edge, tiles = edge.extended(new)
        files.update(tiles)
        leaves += new
        assert edge.root == spec.tree_hash(leaves)
    assert edge == Edge().extended(leaves)[0] or not leaves
    for level in range(levels(len(leaves))):
        row = [spec.tree_hash(leaves[at : at + 256**level]) for at in range(0, len(leaves), 256**level)]
        for index, width in widths(len(leaves), level):
            assert files[tile_path(level, index, width)] == b"".join(row[256 * index : 256 * index + width])
    contents = [
        files[tile_path(level, index, width)] if width else b"" for level, index, width in edge_tiles(len(leaves))
    ]
    assert edge_from(len(leaves), contents) == edge or not leaves
