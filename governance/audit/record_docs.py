"""`docs/audit-record.md`, made from `governance.audit.record`.

Contract: `render` is a pure function of the module, so a test can compare the page with it. To renew the page:

    python -m governance.audit.record_docs > docs/audit-record.md
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator

from governance.audit import record
from governance.audit.record import SCHEMA, Record

_INTRO = f"""\
# The audit record

This page is made from `governance/audit/record.py` (`python -m governance.audit.record_docs`). The schema is
`{SCHEMA}`.

Every entry of the audit log is one JSON object in the one form that RFC 8785 (JCS) gives it: these fields, in this
order, all of them, `null` where they say nothing. Numbers are integers within 2^53; times and ids are text.
[audit.md](audit.md) is about the log that holds them.
"""

_OUTRO = """\

## Records that are too long

A log entry has at most 65,535 bytes. A record beyond that is cut, and says so in `cut`: of texts of more than 256
bytes the first 64 characters stay, with the length and the keyed digest of the whole; of lists the first 16 items;
`details` of more than 256 bytes become their length and digest. Nothing is left out silently, and whoever has the
whole and the key can show that it is what was cut.

## Compatibility

Fields may be added under the same schema name, so readers pass over names that they do not know. What a field means
does not change; a change of meaning makes another schema name.
"""


def render() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "| field | type | meaning | asked for by |"
    yield "|---|---|---|---|"
    for name, kind, text in _fields():
        meaning, _, duty = text.partition(" Duty: ")
        yield f"| `{name}` | {kind} | {meaning} | {duty.rstrip('.')} |"
    yield _OUTRO


def _fields() -> Iterator[tuple[str, str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(Record))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign):
            continue
        assert isinstance(field.target, ast.Name)
        assert isinstance(below, ast.Expr)
        assert isinstance(below.value, ast.Constant)
        yield field.target.id, _kind(ast.unparse(field.annotation)), " ".join(str(below.value.value).split())


def _kind(annotation: str) -> str:
    null = " or null" if annotation.endswith(" | None") or "Literal" in annotation else ""
    name = annotation.removesuffix(" | None")
    if name.startswith(("Literal", "Kind", "Outcome")):
        return "text" + null
    return {
        "str": "text",
        "int": "integer",
        "bool": "true, false",
        "list[str]": "list of texts",
        "dict[str, Any]": "object",
    }[name] + null


if __name__ == "__main__":
    assert tuple(name for name, _, _ in _fields()) == record.FIELDS
    sys.stdout.write(render())
