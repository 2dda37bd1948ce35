"""A plan's file: read strictly, judged whole, compiled.

Contract: `load` never raises for what a file says; everything that is wrong is a finding with file, line, column and
remedy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from governance.documents.convert import Places, convert
from governance.documents.nodes import compose, decode
from governance.features.compiling import Compiled, compile_plan
from governance.features.plan import Plan
from governance.types import Finding

LARGEST = 16 << 20
"""Bytes. A vocabulary of 100,000 words takes two MiB; a bigger file is another file."""


class Loaded(msgspec.Struct, frozen=True):
    """A plan that holds."""

    file: str
    plan: Plan
    compiled: Compiled
    digest: str
    """SHA-256 of the file, in hex."""


def load(path: Path) -> tuple[Loaded | None, list[Finding]]:
    """The plan in a file, or None where a finding is an error."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}): check the path and its rights"
        return None, [Finding(str(path), 1, 1, "error", "unreadable", message)]
    return parse(data, str(path))


def parse(data: bytes, file: str) -> tuple[Loaded | None, list[Finding]]:
    """The plan in a file's bytes, or None where a finding is an error."""
    if len(data) > LARGEST:
        message = f"larger than {LARGEST >> 20} MiB: this is no feature plan"
        return None, [Finding(file, 1, 1, "error", "too-large", message)]
    text, findings = decode(data, file)
    if text is None:
        return None, findings
    document, findings = compose(text, file, None)
    if document is None:
        return None, findings
    plan, places, more = convert(document, Plan, file, Path())
    findings += more
    if plan is None or findings:
        return None, findings
    compiled, findings = compile_plan(plan, file, places)
    findings.sort(key=lambda finding: (finding.line, finding.column))
    if compiled is None or any(finding.severity == "error" for finding in findings):
        return None, findings
    return Loaded(file, plan, compiled, hashlib.sha256(data).hexdigest()), findings


def check(plan: Plan) -> list[Finding]:
    """What is wrong with a plan that no file holds yet."""
    return compile_plan(plan, "plan", Places())[1]
