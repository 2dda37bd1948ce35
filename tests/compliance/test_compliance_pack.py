"""Packs: what ships holds together, and what is wrong with a pack is said with its line."""

import re
from pathlib import Path

import msgspec
import pytest
from compliance_fixture import PACK
from hypothesis import given
from hypothesis import strategies as st

from governance.compliance import pack as packs
from governance.errors import PackError

CHECKOUT = Path(__file__).parents[2]
EXPECTED = {
    "eu-ai-act": [f"art-{n}" for n in (9, 10, 11, 12, 13, 14, 15, 18, 19, 26, 72, 73)],
    "gdpr": [f"art-{n}" for n in (15, 17, 22, 30, 33)],
    "sr-26-2": ["inventory", "development", "validation", "monitoring", "change-control"],
    "nist-ai-rmf": [
        "govern-1-5", "govern-1-6", "govern-2-1", "measure-2-4", "measure-2-7", "measure-2-8", "measure-2-11",
        "manage-2-4", "manage-4-1", "manage-4-3",
    ],
    "iso-42001": ["a-3-2", "a-6-2-5", "a-6-2-6", "a-6-2-7", "a-6-2-8", "a-8-4", "a-9-4"],
    "nyc-ll-144": ["bias-audit", "published", "notice"],
    "reg-b": ["notice", "reasons", "records"],
}  # fmt: skip


def texts(value):
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def test_what_ships():
    assert packs.shipped() == sorted(EXPECTED)
    for name, duties in EXPECTED.items():
        pack = packs.load(name)
        assert pack.name == name
        assert [duty.id for duty in pack.duties] == duties
        assert all(duty.cannot_show and duty.citation for duty in pack.duties)
        assert pack.version >= pack.text.dated


def test_nothing_is_quoted_at_length_and_nobody_is_declared_to_keep_the_law():
    for name in packs.shipped():
        for text in texts(msgspec.to_builtins(packs.load(name))):
            assert len(text) < 500, text
            assert not re.search(r"[\"“”]\w", text), text
    told = [
        *packs.FOLDER.glob("*.yaml"),
        *(CHECKOUT / "governance/compliance").glob("*.py"),
        *(CHECKOUT / "gateway/commands").glob("compliance*.py"),
        CHECKOUT / "docs/compliance.md",
    ]
    assert [path for path in told if "compliant" in path.read_text().lower()] == []


def test_the_clocks_of_article_73():
    (duty,) = [duty for duty in packs.load("eu-ai-act").duties if duty.id == "art-73"]
    assert [(clock.days, clock.citation) for clock in duty.clocks] == [
        (15, "Article 73(2)"),
        (2, "Article 73(3)"),
        (10, "Article 73(4)"),
    ]


def lines(*changes):
    """The pack with lines changed: `(line from 1, old, new)`."""
    text = PACK.splitlines()
    for number, old, new in changes:
        assert old in text[number - 1]
        text[number - 1] = text[number - 1].replace(old, new)
    return "\n".join(text) + "\n"


BAD = [
    ("", 1, "empty"),
    ("duties: [\n", 1, "while parsing"),
    (lines((2, "name", "nome")), 2, "did you mean `name`?"),
    (lines((1, "/1", "/2")), 1, "tidegate.compliance/1"),
    (lines((2, "ours", "Our Rules")), 2, "text like"),
    (lines((3, "2026-11-30", "2026")), 3, "must be text"),
    (lines((6, "https://", "javascript:")), 6, "text like"),
    (lines((6, "guidance", "law")), 6, "`binding`"),
    (lines((8, "inference", "inferences")), 8, "did you mean `inference`?"),
    (lines((8, "[model,", "[modell,")), 8, "records have no field `modell`: did you mean `model`?"),
    (lines((8, "cite: 3", "cite: 201")), 8, "at most 200"),
    (lines((8, "kind: [inference]", "has: [kond]")), 8, "did you mean `kind`?"),
    (lines((17, "failures", "failure")), 17, "`queries` has no `failure`: did you mean `failures`?"),
    (lines((17, ", failures", "")), 9, "no duty asks `failures`"),
    (lines((18, "[card]", "[]")), 22, "add `card` to `reports`"),
    (lines((20, "some", "sum")), 20, "`log-verifies`"),
    (lines((20, ", query: decisions", "")), 20, "needs `query`"),
    (lines((20, "query: decisions", "query: decisions, days: 3")), 20, "has no `days`"),
    (lines((21, "[model, id]", "[model, ide]")), 21, "records have no field `ide`"),
    (lines((22, "model_details.name", "model_details.nam")), 22, "did you mean `name`?"),
    (lines((22, "model_details.name", "'model_details.name[]'")), 22, "is no list"),
    (lines((23, "[Everything else.]", "[]")), 23, "there is always something"),
    (PACK + PACK[PACK.index("  - id: first") :], 24, "is the id of duty 1 already"),
    (PACK + "    clocks: [{name: a, citation: b, when: c, tell: d}]\n", 24, "either `hours` or `days`"),
    (PACK.replace("  decisions:", "  decisions: {what: Twice}\n  decisions:"), 9, "duplicate key"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"), BAD, ids=lambda value: value if isinstance(value, str) and len(value) < 60 else ""
)
def test_a_bad_pack_is_said_with_its_line(tmp_path, text, line, said):
    path = tmp_path / "pack.yaml"
    path.write_text(text)
    with pytest.raises(PackError) as caught:
        packs.read(path)
    found = [(one.file, one.line) for one in caught.value.findings if said in one.message]
    assert found == [(str(path), line)], str(caught.value)


def test_the_pack_of_these_tests_is_one(tmp_path):
    path = tmp_path / "pack.yaml"
    path.write_text(PACK)
    assert packs.load(str(path)).duties[0].id == "first"


@given(st.data())
def test_a_pack_with_lines_lost_doubled_or_cut_is_read_or_refused(tmp_path_factory, data):
    text = PACK.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(text) - 1))
    change = data.draw(st.sampled_from(["lose", "double", "cut", "indent"]))
    if change == "lose":
        del text[at]
    elif change == "double":
        text.insert(at, text[at])
    elif change == "cut":
        text[at] = text[at][: data.draw(st.integers(0, len(text[at])))]
    else:
        text[at] = data.draw(st.sampled_from(["  ", "- ", "x: ", "\t", "}"])) + text[at]
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_text("".join(text))
    try:
        packs.read(path)
    except PackError as error:
        assert all(finding.line >= 1 and finding.message for finding in error.findings)
