"""Packs and logs for the tests of evidence."""

import base64
import json
import subprocess
import sys
from html.parser import HTMLParser

from audit_fixture import a_log, a_record
from independent import checkpoint, sha256

from gateway.cli import main
from governance.audit.record import encode, timestamp

BEGAN = 1_790_000_000
"""2026-09-21T14:13:20Z, in seconds since 1970."""

PACK = """\
schema_version: tidegate.compliance/1
name: ours
version: 2026-11-30
title: Our own rules
jurisdiction: Here
text: {citation: House rules, url: "https://example.com/rules", dated: 2026-01-01, force: guidance}
queries:
  decisions: {what: Decisions, select: {kind: [inference]}, by: [model, outcome], cite: 3}
  failures: {what: Failures, select: {outcome: [failed]}, by: [status]}
duties:
  - id: first
    citation: Rule 1
    title: Decisions are recorded
    who: [everybody]
    asks: Records.
    evidence: Records.
    queries: [decisions, failures]
    reports: [card]
    checks:
      - {kind: some, says: There are decisions, query: decisions}
      - {kind: filled, says: Each names its model, query: decisions, fields: [model, id]}
      - {kind: card, says: It has a name, fields: [model_details.name]}
    cannot_show: [Everything else.]
"""


def entry(number, **more):
    """A record, one a second."""
    record = a_record(
        number, time=timestamp((BEGAN + number) * 10**9 + number), variant="champion", version="1", **more
    )
    record.snapshot = record.policy = "ab" * 32
    return encode(record, lambda raw: sha256(raw).hex())


def decisions(count):
    """So many decisions, of which every fifth failed."""
    return [entry(n, **({"outcome": "failed", "status": "503"} if n % 5 == 4 else {})) for n in range(count)]


def log_of(state_dir, entries):
    """The folder of a log of these entries."""
    return a_log(state_dir, entries)


def run(*words):
    """`tidegate compliance ...` in this process; its exit status. Output goes where pytest looks."""
    return main(["compliance", *map(str, words)])


def verify_proof(bundle, index):
    """One record of a bundle, checked by the command in a process of its own; its exit status."""
    command = [sys.executable, "-m", "gateway", "audit", "verify-proof", f"records/{index}.tlog-proof"]
    command += ["--key", "log/log.vkey", "--entry", f"records/{index}.json"]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False).returncode


def proved(bundle, index, vkey):
    """Whether a record stands in the log: by RFC 6962 and C2SP tlog-proof, sharing no line with what made it."""
    proof = (bundle / f"records/{index}.tlog-proof").read_bytes()
    head, _, note = proof.partition(b"\n\n")
    first, at, *hashes = head.decode().split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    assert at == f"index {index}"
    _, size, root = checkpoint(note, vkey)
    node = sha256(b"\x00" + (bundle / f"records/{index}.json").read_bytes())
    path = [base64.b64decode(one) for one in hashes]
    fn, sn = index, size - 1
    for sibling in path:  # RFC 9162, section 2.1.3.2
        if fn % 2 or fn == sn:
            node = sha256(b"\x01" + sibling + node)
            while fn % 2 == 0 and fn:
                fn, sn = fn // 2, sn // 2
        else:
            node = sha256(b"\x01" + node + sibling)
        fn, sn = fn // 2, sn // 2
    return sn == 0 and node == root


def summed(bundle):
    """Whether every file is what SHA256SUMS says, and none is beside it."""
    named = {line.split("  ", 1)[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    done = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=bundle, check=False)
    return done.returncode == 0 and there == named | {"SHA256SUMS"}


def read_json(path):
    return json.loads(path.read_text())


class Page(HTMLParser):
    """A page's tags, texts and ids; fails on one that is not closed, and on what a page may not have."""

    VOID = ("meta",)

    def __init__(self, text) -> None:
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def attributes(self, name):
        return [given[name] for _, given in self.tags if name in given]


def accessible(text):
    """What a page has to be for everybody to read it; the page."""
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert dict(page.tags)["html"]["lang"] == "en"
    assert (tags.count("h1"), tags.count("main"), tags.count("title")) == (1, 1, 1)
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False))
    assert tags.count("caption") == tags.count("table") == tags.count("thead")
    assert all(given.get("scope") in ("row", "col") for tag, given in page.tags if tag == "th")
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.attributes("href") if href.startswith("#")} <= set(ids)
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(tags)
    assert not page.attributes("src") + page.attributes("style") + page.attributes("onclick")
    return page
