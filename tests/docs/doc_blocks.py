"""Fenced blocks of the documentation that are marked as runnable, and how their output is compared.

Marks are HTML comments on the line before a fence; a reader of the page does not see them:

    <!-- run -->                  `sh`, `python` or `js`: run by the tests, in the order of the page, in one shell;
                                  `js` where there is a node
    <!-- run: kserve -->          run by the slow tier, in an environment that has KServe
    <!-- run: background -->      started and left running until the end of the page
    <!-- prints -->               `text`: what the block before it printed
    <!-- prints: numbers vary --> the same, but whole numbers and decimals may differ

In what is shown, `…` stands for anything on that line, and a line of `…` alone for any lines. Request ids,
hashes, keys and times are told apart from the rest and may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])

_MARK = re.compile(r"<!-- (run|prints)(?:: ([a-z ]+))? -->")
_VOLATILE = (
    (re.compile(r"tg_[A-Za-z0-9_-]{43}"), "KEY"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID32"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "ID16"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
)
_NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")


@dataclass
class Block:
    """One fence."""

    page: Path
    line: int
    """Of the opening fence, from 1."""
    language: str
    text: str
    mark: str = ""
    option: str = ""
    prints: Block | None = None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


@dataclass
class _Open:
    start: int
    indent: str
    language: str
    lines: list[str] = field(default_factory=list)


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page; a `prints` block hangs on the one before it."""
    mark = option = ""
    fence: _Open | None = None
    last: Block | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence is None:
            found = _MARK.fullmatch(line.strip())
            if found:
                mark, option = found[1], found[2] or ""
            elif line.lstrip().startswith("```"):
                fence = _Open(number, line[: len(line) - len(line.lstrip())], line.strip().removeprefix("```"))
            elif line.strip():
                mark = option = ""
        elif line.strip() == "```":
            text = "\n".join(each.removeprefix(fence.indent) for each in fence.lines) + "\n"
            block = Block(page, fence.start, fence.language, text, mark, option)
            if mark == "prints":
                assert last is not None, f"{block.place}: nothing runs before this"
                assert last.mark == "run", f"{block.place}: nothing runs before this"
                last.prints = block
            last, fence, mark, option = block, None, "", ""
            yield block
        else:
            fence.lines.append(line)
    assert fence is None, f"{page}:{fence.start if fence else 0}: the block is not closed"


def normal(text: str, *, numbers: bool = False) -> list[str]:
    """Lines without what differs from run to run."""
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    if numbers:
        text = _NUMBER.sub("0", text)
    return [" ".join(line.split()) for line in text.replace("\r", "").splitlines() if line.strip()]


def differs(shown: str, printed: str, *, numbers: bool = False) -> str:
    """Empty when `printed` is what a page shows; else both, to be read."""
    want, got = normal(shown, numbers=numbers), normal(printed, numbers=numbers)
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in want
    )
    if re.fullmatch(pattern, "".join(line + "\n" for line in got)):
        return ""
    return "the page shows\n  " + "\n  ".join(want) + "\nand this was printed\n  " + "\n  ".join(got)
