"""How values are written, as types: the reader (`units.py`) and the page take the form from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

Duration: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"x-form": "duration"})]
"""Seconds; written `250ms`, `2s`, `5m`, `1h`."""
Size: TypeAlias = Annotated[int, msgspec.Meta(extra_json_schema={"x-form": "size"})]
"""Bytes; written `64MiB`, `10KiB`, `1000`."""
Rate: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"x-form": "rate"})]
"""Requests a second; written `1000/s`, `60/m`."""
Budget: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"x-form": "budget"})]
"""Times a second; written `1/month`, `2/week`."""
ByteQuota: TypeAlias = Annotated[int, msgspec.Meta(extra_json_schema={"x-form": "quota"})]
"""Bytes a day; written `10GiB/day`."""
Address: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "address"})]
"""`HOST:PORT`."""
TargetAddress: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "target"})]
"""`HOST:PORT`, or `dns://HOST:PORT`: every address that the name has, looked up again and again."""
FilePath: TypeAlias = Annotated[Path, msgspec.Meta(extra_json_schema={"x-form": "path"})]
"""A path; relative ones are relative to the settings file."""

PathOrUrl: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "path-or-url"})]
"""A path, relative to the settings file; or an `http://` or `https://` URL."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections."""
