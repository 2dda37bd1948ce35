"""What every request does with its HTTP connection: the twin in C, or its specification.

The only place that chooses; `TIDEGATE_NO_EXTENSIONS=1` takes the specification.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway.upstream._line_py import Line, ResponseHead, Shelf, known_heads
else:
    from gateway.upstream._line_c import Line, ResponseHead, Shelf, known_heads

__all__ = ["Line", "ResponseHead", "Shelf", "known_heads"]
