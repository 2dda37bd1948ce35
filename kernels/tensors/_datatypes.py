"""The datatypes of the Open Inference Protocol that have a JSON form."""

from typing import Final

NUMBER_TYPES: Final[dict[str, str]] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatypes that have a JSON form, besides BYTES, as numpy type strings. FP16 and BF16 have none in
Triton."""
