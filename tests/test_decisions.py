"""Records of pages, however a page ends: what was asked of the model servers may have been done."""

import asyncio
from types import SimpleNamespace

import pytest

from gateway.decisions import Decisions, PageDecision
from gateway.errors import Forbidden
from gateway.operations import OPERATIONS

SNAPSHOT = SimpleNamespace(hash="s", policy=SimpleNamespace(hash="p"))


class Kept:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.records = []

    def admit(self) -> None:
        pass

    def form(self, record) -> None:
        """There is none."""

    def record(self, record, inputs=None, outputs=None) -> None:
        self.records.append((record.kind, record.action, record.outcome, record.status))


@pytest.mark.parametrize(
    ("operation", "ends", "expected"),
    [
        ("load", None, [("control", "load", "served", "200")]),
        ("load", Forbidden("no"), [("control", "load", "refused", "403")]),
        ("load", asyncio.CancelledError(), [("control", "load", "cancelled", "499")]),
        ("load", ZeroDivisionError(), [("control", "load", "failed", "500")]),
        ("index", None, []),
        ("index", Forbidden("no"), [("control", "read", "refused", "403")]),
        ("index", asyncio.CancelledError(), []),
    ],
)
def test_a_page_has_its_record_however_it_ends(operation, ends, expected):
    log = Kept()

    async def page() -> None:
        async with Decisions(log).deciding(PageDecision(SNAPSHOT, OPERATIONS[operation], "http", "m", "id")):
            if ends is not None:
                raise ends

    if ends is None:
        asyncio.run(page())
    else:
        with pytest.raises(type(ends)):
            asyncio.run(page())
    assert log.records == expected
