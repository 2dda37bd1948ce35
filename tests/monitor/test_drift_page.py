"""`tidegate drift report --html`: one page that everybody can read, with every figure of the report."""

import subprocess
import sys
from html.parser import HTMLParser

import pytest

from governance import tables
from governance.monitor import page
from governance.monitor.report import compare

EVIL = "<script>alert(1)</script>"
_VOID = {"meta", "rect", "path"}


class Page(HTMLParser):
    """Tags with their attributes, words, and whether every tag is closed."""

    def __init__(self, text) -> None:
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def csv_of(path, **columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def sides(tmp_path):
    before = csv_of(tmp_path / "train.csv", age=range(200), job=["clerk", EVIL] * 100, few=[1, *[""] * 199])
    now = csv_of(tmp_path / "today.csv", age=range(50, 250), job=["cook", EVIL] * 100, few=[""] * 200)
    return before, now


def test_the_page_stands_alone_and_says_all_that_the_report_does(sides, tmp_path):
    made = tmp_path / "drift.html"
    command = [sys.executable, "-m", "gateway", "drift", "report", "--html", made, "--format", "text"]
    done = subprocess.run(
        [*command, "--reference", sides[0], "--current", sides[1]], capture_output=True, text=True, check=True
    )
    assert "200 rows of reference, 200 now" in done.stdout
    text = made.read_text()
    found = Page(text)
    tags = [tag for tag, _ in found.tags]
    assert found.all("html")[0]["lang"] == "en"
    assert (tags.count("h1"), tags.count("main"), tags.count("title") - tags.count("g")) == (1, 1, 1)
    assert not {"script", "img", "link", "iframe", "object"} & set(tags)
    assert " src=" not in text
    assert tags.count("caption") == tags.count("table") == 5
    assert all(attributes["scope"] in ("row", "col") for attributes in found.all("th"))
    assert EVIL in found.words
    age, job, few = found.all("svg")
    assert {svg["role"] for svg in (age, job, few)} == {"img"}
    assert age["aria-label"].startswith("Shares of age; most moved: (179, inf], from 10.0% to 35.0%")
    report = compare(*map(tables.read, sides))
    bars = [rect for rect in found.all("rect") if rect["fill"] == "none"]
    assert len(bars) == sum(len(page.shares(column)) for column in report.columns)
    for column in report.columns:
        for cell, before, now in page.shares(column):
            assert cell in found.words
            assert f"{before:.1%}" in found.words
            assert f"{now:.1%}" in found.words
    assert "insufficient" in found.words


def test_bars_are_as_high_as_their_shares(sides):
    found = Page(page.write(compare(*map(tables.read, sides)), "a", "b").decode())
    heights = [float(rect["height"]) for rect in found.all("rect")][:20]
    now, before = heights[::2], heights[1::2]
    # Ten bins of a tenth each; now the first two have nothing, and the last has 70 of 200.
    assert before == pytest.approx([before[0]] * 10)
    assert now[0] == now[1] == 0
    assert now[9] == pytest.approx(before[9] * 3.5, rel=0.01)


def test_many_categories_are_drawn_as_the_largest_and_the_rest(tmp_path):
    before = csv_of(tmp_path / "a.csv", code=[f"c{at % 40}" for at in range(400)])
    found = Page(page.write(compare(tables.read(before), tables.read(before)), "a", "b").decode())
    assert len(found.all("rect")) == 2 * page.MOST_BARS
    assert any(word.startswith("27 more: 67.5%") for word in found.words)
    assert len([word for word in found.words if word == "c39"]) == 1


def test_a_page_that_cannot_be_written_is_one_line(sides, tmp_path):
    command = [sys.executable, "-m", "gateway", "drift", "report", "--html", tmp_path / "no/drift.html"]
    done = subprocess.run(
        [*command, "--reference", sides[0], "--current", sides[1]], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tidegate: {tmp_path}/no/drift.html: cannot be written (No such file or directory)")


@pytest.mark.parametrize("name", ["train.csv", "today.csv", "rules.yaml", "link.csv"])
def test_a_page_over_what_is_read_is_refused(sides, tmp_path, name):
    (tmp_path / "rules.yaml").write_text("columns: {age: {min: 0}}\n")
    (tmp_path / "link.csv").symlink_to(sides[0])
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    command = [sys.executable, "-m", "gateway", "drift", "report", "--html", tmp_path / name]
    command += ["--reference", sides[0], "--current", sides[1], "--constraints", tmp_path / "rules.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is one of the files that are read: name another one" in done.stderr
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
