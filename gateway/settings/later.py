"""Keys and values that the settings format knows and this version does not serve yet.

Contract: they are errors that say so and what to do instead, never ignored and never "unknown". The section
is the Struct's name in `gateway/settings/`; `VALUES` adds the value. An entry goes when its field comes: a
test refuses entries that name a field or value which exists.
"""

from __future__ import annotations

KEYS: dict[tuple[str, str], str] = {}

VALUES: dict[tuple[str, str, str], str] = {}
