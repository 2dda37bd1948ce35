"""Kernels over tensor bytes and the JSON they travel in.

Contract: pure functions over bytes, no protocol knowledge beyond JSON (RFC 8259 with Triton's NaN and
Infinity literals) and the raw tensor form of the Open Inference Protocol. Errors are `ValueError`.

In the order of a request: `scan_json` checks a document and finds the tensor data, `parse_array` makes it raw,
`format_array` writes raw data as JSON. Each is there twice: `_NAME_py` is the specification, `_NAME_c` the same in C++
through Cython. `TIDEGATE_NO_EXTENSIONS=1` in the environment takes the specification; a missing extension is an error,
never a silent slow path.
"""

import os
from typing import TYPE_CHECKING

from ._datatypes import NUMBER_TYPES

__all__ = ("NUMBER_TYPES", "count_bytes_elements", "format_array", "parse_array", "scan_json")

NO_EXTENSIONS = os.environ.get("TIDEGATE_NO_EXTENSIONS", "") not in {"", "0"}

if TYPE_CHECKING or NO_EXTENSIONS:
    from ._format_py import count_bytes_elements, format_array
    from ._parse_py import parse_array
    from ._scan_py import scan_json
else:
    from ._format_c import count_bytes_elements, format_array
    from ._parse_c import parse_array
    from ._scan_c import scan_json
