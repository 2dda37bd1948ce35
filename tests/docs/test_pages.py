"""The pages hold together: links lead somewhere, commands and formulas are those of the code."""

from __future__ import annotations

import argparse
import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from doc_blocks import CHECKOUT, PAGES, blocks

from gateway import cli
from gateway.routing.assign import Split, unit_fraction, unit_integer

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(page) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page) -> set[str]:
    """As GitHub makes them: lower case, punctuation dropped, blanks to hyphens."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    wrong = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(CHECKOUT):
            wrong.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            wrong.append(f"{link}: no such heading")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_leads_to_every_page(page):
    readme = CHECKOUT / "README.md"
    near = {(readme.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(readme))}
    assert page == readme or page in near


def test_paths_in_code_font_exist():
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:gateway|governance|kernels|tests|deploy|training)/[\w/.-]+)`", prose(page))
    ]
    assert [f"{page}: {path}" for page, path in named if not (CHECKOUT / path).exists()] == []


def test_the_order_of_files_exists():
    listed = next(block for block in blocks(CHECKOUT / "docs/life-of-a-request.md") if block.language == "text")
    paths = [line.split()[0] for line in listed.text.splitlines()]
    assert [path for path in paths if not (CHECKOUT / path).exists()] == []


def test_the_steps_are_those_of_the_pipeline():
    source = (CHECKOUT / "gateway/pipeline.py").read_text()
    headings = _HEADING.findall(prose(CHECKOUT / "docs/life-of-a-request.md"))
    steps = {int(number): name.lower() for number, name in (h.split(" ", 1) for h in headings if h[0].isdigit())}
    assert sorted(steps) == list(range(1, 12))
    named = re.findall(r"(\d+) (identify|decide|admit|decode|route|transform|forward|observe|record|answer)\b", source)
    assert {int(number) for number, _ in named} == set(range(2, 12))
    assert {(int(number), name) for number, name in named} <= set(steps.items())


def test_the_picture_is_also_text():
    picture = ET.parse(CHECKOUT / "docs/request.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    described = picture.findtext(f"{name}desc", "")
    numbers = [match[1] for box in picture.iter(f"{name}text") if (match := re.match(r"(\d+) [a-z]", box.text or ""))]
    assert sorted(map(int, numbers)) == list(range(1, 12))
    assert [number for number in numbers if f"({number}" not in described] == []


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that runs something, in full."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield " ".join(words)
    for action in inner:
        for name, child in action.choices.items():
            yield from commands(child, (*words, name))


def every_command() -> list[str]:
    parser = argparse.ArgumentParser(prog="tidegate")
    subparsers = parser.add_subparsers()
    for command in cli._COMMANDS:
        command.add_parser(subparsers)
    return [f"tidegate {command}" for command in commands(parser)]


@pytest.mark.parametrize("command", every_command())
def test_every_command_is_documented(command):
    assert f"`{command} --help`" in (CHECKOUT / "docs/commands.md").read_text()
    examples = [block for page in PAGES for block in blocks(page) if re.search(rf"{command}\b", block.text)]
    assert examples, f"no example of `{command}`"
    # Judging and making commands are run by the tests; those that serve or install are only shown.
    if not command.endswith((" serve", " up", " install", " start")):
        assert any(block.mark == "run" for block in examples), f"no example of `{command}` is run"


def test_the_worked_example_of_the_assignment():
    """The gateway's own code says what the page says the formula gives."""
    page = list(blocks(CHECKOUT / "docs/routing.md"))
    example = next(block for block in page if block.language == "python" and "sha256" in block.text)
    assert example.prints is not None
    split = Split([90, 10])
    for line in example.prints.text.splitlines():
        unit, variant, fraction = line.split()
        assert ("champion", "challenger")[split.pick(unit_integer("income", unit))] == variant
        assert abs(unit_fraction("income", unit) - float(fraction)) < 1e-15


def test_every_python_block_parses():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                ast.parse(block.text, filename=block.place)
