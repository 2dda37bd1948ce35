"""The metrics page of the documentation cannot drift from the declarations."""

from pathlib import Path

from gateway.metrics_docs import _constants, render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_page_is_current():
    assert PAGE.read_text() == render(), "run: python -m gateway.metrics_docs > docs/metrics.md"


def test_every_name_has_a_meaning():
    unsaid = [name for name, (_, meaning) in _constants() if not meaning]
    assert unsaid == ["SCHEMA_URL"]
