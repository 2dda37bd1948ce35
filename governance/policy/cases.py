"""Policy tests: requests with the answers that a policy must give.

Contract: YAML `tests: [{name, request: [SUBJECT, TENANT, OBJECT, ACTION], allow: true}]`, read strictly and
with places; a request has as many fields as the model's `r`. Requests are asked as they stand:
governance objects need tenant `*`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from governance.documents.convert import Places, convert
from governance.documents.nodes import compose, decode
from governance.types import Decision, Finding


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request and its answer."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    request: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    allow: bool


class Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of tests."""

    tests: tuple[Case, ...]


class CaseFile(msgspec.Struct, frozen=True):
    """Tests that have been read, and where they stand."""

    file: str
    cases: tuple[Case, ...]
    places: Places


def parse_cases(data: bytes, file: str, fields: int = 4) -> tuple[CaseFile | None, list[Finding]]:
    """The tests of a file, or what is wrong with it.

    Args:
        data: the file's bytes.
        file: its name in findings.
        fields: how many a request has.
    """
    text, findings = decode(data, file)
    if text is None:
        return None, findings
    document, findings = compose(text, file, None)
    if document is None:
        return None, findings
    found, places, more = convert(document, Cases, file, Path())
    findings += more
    if found is None or findings:
        return None, findings
    first: dict[str, int] = {}
    for at, case in enumerate(found.tests):
        if len(case.request) != fields:
            line, column = places.of(("tests", at, "request"))
            message = f"`request` has {len(case.request)} fields, and a request of this model has {fields}"
            findings.append(Finding(file, line, column, "error", "wrong-value", message))
        line, column = places.of(("tests", at, "name"))
        if case.name in first:
            message = f"test `{case.name}` is on line {first[case.name]} already: give it another name"
            findings.append(Finding(file, line, column, "error", "duplicate-name", message))
        first.setdefault(case.name, line)
    return (None if findings else CaseFile(file, found.tests, places)), findings


def failures(tests: CaseFile, answer: Callable[[Sequence[str]], Decision]) -> list[Finding]:
    """The tests that a policy fails, as errors at their lines."""
    findings: list[Finding] = []
    for at, case in enumerate(tests.cases):
        got = answer(case.request)
        if got.allow is not case.allow:
            line, column = tests.places.of(("tests", at))
            by = f"by line {got.line}" if got.line is not None else "by default"
            verdict = "allowed" if got.allow else "denied"
            message = f"test `{case.name}` fails: [{', '.join(case.request)}] is {verdict} {by}"
            findings.append(Finding(tests.file, line, column, "error", "test-failed", message))
    return findings


def undecided(rules: Sequence[int], decisions: Sequence[Decision]) -> list[int]:
    """Lines of rules that decided none of the decisions."""
    used = {decision.line for decision in decisions}
    return [line for line in rules if line not in used]
