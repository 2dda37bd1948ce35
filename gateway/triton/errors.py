"""What can go wrong with the managed Triton. Every message is one line with its remedy, fit for a terminal.

    TritonError
    ├── Unsupported     this system cannot run the managed server
    ├── InstallFailed   no interpreter, no network, no room
    └── TritonFailed    the server did not start; `log_tail` holds its last lines

None of them is an answer to a request, so they are no `gateway.errors.TidegateError`.
"""

from __future__ import annotations

REMEDY = "point `upstreams` in tidegate.yaml at an existing Triton"
"""What always helps; the gateway itself does not depend on the managed server."""


class TritonError(Exception):
    """Base of this package's errors."""


class Unsupported(TritonError):
    """The managed server is a Linux x86-64 binary."""


class InstallFailed(TritonError):
    """The managed environment could not be made."""


class TritonFailed(TritonError):
    """The server ended before it was ready, or never became ready."""

    def __init__(self, message: str, *, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join((message, *(f"  | {line}" for line in log_tail))))
        self.log_tail = log_tail
