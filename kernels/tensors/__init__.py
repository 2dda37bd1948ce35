"""Kernels over tensor bytes and the JSON they travel in.

Contract: pure functions over bytes, no protocol knowledge beyond JSON (RFC 8259 with Triton's NaN and
Infinity literals) and the raw tensor form of the Open Inference Protocol. Errors are `ValueError`.

`_tensors_py` is the specification, `_tensors_c` the same in C++ through Cython. `TIDEGATE_NO_EXTENSIONS=1` in
the environment takes the specification; a missing extension is an error, never a silent slow path.
"""

import os
from typing import TYPE_CHECKING

__all__ = ("NUMBER_TYPES", "count_bytes_elements", "format_array", "parse_array", "scan_json")

NO_EXTENSIONS = os.environ.get("TIDEGATE_NO_EXTENSIONS", "") not in {"", "0"}

if TYPE_CHECKING or NO_EXTENSIONS:
    from ._tensors_py import NUMBER_TYPES, count_bytes_elements, format_array, parse_array, scan_json
else:
    from ._tensors_c import count_bytes_elements, format_array, parse_array, scan_json
    from ._tensors_py import NUMBER_TYPES
