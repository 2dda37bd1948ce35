"""The two twins of `kernels.tensors`, each as one object with the four functions."""

from __future__ import annotations

from types import SimpleNamespace

from kernels.tensors import _format_c, _format_py, _parse_c, _parse_py, _scan_c, _scan_py

COMPILED = (_format_c, _parse_c, _scan_c)
NAMES = ("count_bytes_elements", "format_array", "parse_array", "scan_json")


def together(*modules) -> SimpleNamespace:
    """The functions of one twin."""
    return SimpleNamespace(**{name: getattr(m, name) for m in modules for name in NAMES if name in vars(m)})


PLAIN = together(_format_py, _parse_py, _scan_py)
FAST = together(*COMPILED)
TWINS = [PLAIN, FAST]


def outcome(function, *arguments, **named):
    """What it returns, or its ValueError as text."""
    try:
        return function(*arguments, **named)
    except ValueError as error:
        return f"ValueError: {error}"
