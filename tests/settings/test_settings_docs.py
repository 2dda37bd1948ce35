"""The settings page says what the Structs say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway import settings
from gateway.settings.docs import render

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_not_stale():
    assert PAGE.read_text("utf-8") == render() + "\n", "run: python -m gateway.settings.docs > docs/settings.md"


def test_every_field_has_its_words():
    page = render()
    for section in vars(settings).values():
        if isinstance(section, type) and issubclass(section, msgspec.Struct) and section is not settings.Section:
            for name in section.__struct_fields__:
                assert f"| `{name}` |" in page, (section, name)
    assert "|  |\n" not in page  # a row without a meaning
