"""What every call looks at and counts: the twin in C, or its specification.

The only place that chooses; `TIDEGATE_NO_EXTENSIONS=1` takes the specification.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway.upstream._counts_py import Circuit, Counted, Deposits, Entry, Judged, Known, Speed, Tally
else:
    from gateway.upstream._counts_c import Circuit, Counted, Deposits, Entry, Judged, Known, Speed, Tally

__all__ = ["Circuit", "Counted", "Deposits", "Entry", "Judged", "Known", "Speed", "Tally"]
