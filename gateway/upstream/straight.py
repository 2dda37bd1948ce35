"""Calls of an upstream: the twin in C, or its specification.

The only place that chooses; `TIDEGATE_NO_EXTENSIONS=1` takes the specification.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway.upstream._straight_py import Calls
else:
    from gateway.upstream._straight_c import Calls

__all__ = ["Calls"]
