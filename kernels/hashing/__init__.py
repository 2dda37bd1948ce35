"""Keyed digests of what passes through.

The only place that chooses between the C twin and its specification in Python: the C twin where the processor has
SHA instructions; `TIDEGATE_NO_EXTENSIONS=1` takes the specification.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kernels.hashing._hmac_py import HmacSha256

if not TYPE_CHECKING and not os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.hashing import _hmac_c

    if _hmac_c.available():
        HmacSha256 = _hmac_c.HmacSha256

__all__ = ["HmacSha256"]
