"""Every error of the gateway, and the single table that maps it to HTTP and gRPC.

    TidegateError
    ├── Defect                500  INTERNAL        a bug of the gateway
    ├── ClientError                      the caller's fault
    │   ├── BadRequest        400  INVALID_ARGUMENT
    │   ├── Unauthenticated   401  UNAUTHENTICATED
    │   ├── Forbidden         403  PERMISSION_DENIED
    │   ├── NotFound          404  NOT_FOUND
    │   ├── MethodNotAllowed  405  UNIMPLEMENTED
    │   ├── Gone              410  NOT_FOUND
    │   ├── RequestTimeout    408  CANCELLED
    │   ├── TooLarge          413  RESOURCE_EXHAUSTED
    │   ├── UnsupportedEncoding 501 UNIMPLEMENTED
    │   └── Cancelled         499  CANCELLED
    ├── Shed                             nobody's fault: ask again later (`retry_after` seconds)
    │   ├── Limited           429  RESOURCE_EXHAUSTED
    │   └── Overloaded        503  UNAVAILABLE
    ├── SettingsError                    tidegate.yaml: never answered to a client, 500 if it were
    └── UpstreamError                    the model server's fault
        ├── UpstreamAnswered  as the upstream said
        ├── Unsupported       501  UNIMPLEMENTED
        ├── Unreachable       503  UNAVAILABLE
        │   ├── CircuitOpen   503  UNAVAILABLE     ask again after `retry_after` seconds
        │   └── ModelAway     503  UNAVAILABLE     ask again after `retry_after` seconds
        ├── SequenceLost      503  UNAVAILABLE
        ├── BadGateway        502  INTERNAL
        └── DeadlineExceeded  504  DEADLINE_EXCEEDED

`message` is what the client reads: it never carries addresses, paths, tracebacks or another tenant's names.
`detail` is for logs and spans alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from governance.types import Finding, Subject

# gRPC status codes by number (https://grpc.github.io/grpc/core/md_doc_statuscodes.html); numbers, so that
# nothing here needs grpcio.
GRPC_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

# Triton's own mapping of its errors to HTTP (server: src/http_server.cc `HttpCodeFromError`), read backwards
# for answers that came over HTTP and leave over gRPC.
_GRPC_FROM_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "CANCELLED",
    409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# Triton answers CANCELLED and ALREADY_EXISTS with 400, as everything that has no code of its own.
_HTTP_FROM_GRPC = {
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
}


_TRACEBACK = "\n\nAt:\n"
"""Before a traceback in a message of Triton's Python backend (pybind11's `error_already_set`)."""


def grpc_from_http(status: int) -> str:
    """The gRPC status name for an HTTP status of an upstream."""
    return _GRPC_FROM_HTTP.get(status, "INVALID_ARGUMENT" if status < 500 else "UNKNOWN")


def http_from_grpc(code: str) -> int:
    """The HTTP status for a gRPC status name of an upstream, as Triton maps its own."""
    return _HTTP_FROM_GRPC.get(code, 400)


class TidegateError(Exception):
    """Base of every error that an answer can be made from."""

    status: int = 500
    code: str = "INTERNAL"
    retryable: ClassVar[bool] = False
    """Whether another variant or a later try may answer what this one did not."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class SettingsError(TidegateError):
    """The settings file, or a file that it names, is wrong. `findings` says what and where."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("the settings are wrong", detail="\n".join(map(str, findings)))
        self.findings = tuple(findings)


class Defect(TidegateError):
    """An error of our own making. The log has the traceback; the client learns nothing of it."""

    def __init__(self, detail: str) -> None:
        super().__init__("internal error", detail=detail)


class ClientError(TidegateError):
    """The caller has to change something."""


class BadRequest(ClientError):
    """Malformed or not fitting the model."""

    status, code = 400, "INVALID_ARGUMENT"


class Unauthenticated(ClientError):
    """No credential, or a wrong one. The message never says which part was wrong."""

    status, code = 401, "UNAUTHENTICATED"


class Forbidden(ClientError):
    """The policy does not allow it.

    Args:
        message: for the client, who is not told which rule it was.
        subject: who asked.
        line: of the rule that denies it; None: no rule allows it.
    """

    status, code = 403, "PERMISSION_DENIED"

    def __init__(self, message: str, subject: Subject | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        self.line = line


class NotFound(ClientError):
    """No such model, version, route or page."""

    status, code = 404, "NOT_FOUND"


class MethodNotAllowed(ClientError):
    """Right page, wrong HTTP method; `allow` lists the right ones."""

    status, code = 405, "UNIMPLEMENTED"

    def __init__(self, allow: str) -> None:
        super().__init__("Method Not Allowed")
        self.allow = allow


class Gone(ClientError):
    """It was there and will not be again: entries of the audit log that were pruned."""

    status, code = 410, "NOT_FOUND"


class RequestTimeout(ClientError):
    """The body did not arrive in time (`limits.body_timeout`)."""

    status, code = 408, "CANCELLED"


class UnsupportedEncoding(ClientError):
    """A `Content-Encoding` that is not known; Triton answers 501 and lists those that are."""

    status, code = 501, "UNIMPLEMENTED"

    def __init__(self) -> None:
        super().__init__("Unsupported content-encoding; use gzip, deflate or none")


class TooLarge(ClientError):
    """Beyond `limits.body`."""

    status, code = 413, "RESOURCE_EXHAUSTED"


class Cancelled(ClientError):
    """The client went away; nobody reads this answer (nginx's 499)."""

    status, code = 499, "CANCELLED"


class Shed(TidegateError):
    """Refused to protect the service or a quota; the answer carries `Retry-After`.

    Whoever raises it MUST give the seconds after which trying again makes sense.
    """

    retryable = False

    def __init__(self, message: str, *, retry_after: float, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.retry_after = retry_after


class Limited(Shed):
    """A tenant's rate, concurrency or byte quota."""

    status, code = 429, "RESOURCE_EXHAUSTED"


class Overloaded(Shed):
    """The gateway or an upstream has no room."""

    status, code = 503, "UNAVAILABLE"


class UpstreamError(TidegateError):
    """The model server failed, refused or could not be reached."""


class UpstreamAnswered(UpstreamError):
    """The upstream answered with an error of its own: status, code and message are kept."""

    def __init__(self, message: str, *, status: int, code: str | None = None, detail: str = "") -> None:
        # A Python model's traceback follows its message: lines of files on the server.
        said, cut, _ = message.partition(_TRACEBACK)
        super().__init__(said, detail=detail or (message if cut else ""))
        self.status = status
        self.code = grpc_from_http(status) if code is None else code

    @classmethod
    def from_grpc(cls, message: str, code: str) -> UpstreamAnswered:
        """An error that came as a gRPC status."""
        return cls(message, status=http_from_grpc(code), code=code)


class Unsupported(UpstreamError):
    """The upstream lacks what was asked for (no gRPC address, no such extension)."""

    status, code = 501, "UNIMPLEMENTED"


class Unreachable(UpstreamError):
    """No connection, or it broke before an answer."""

    status, code, retryable = 503, "UNAVAILABLE", True

    def __init__(self, message: str, *, detail: str = "", sent: bool = True) -> None:
        super().__init__(message, detail=detail)
        self.sent = sent
        """False: nothing of the request can have reached the model server."""


class CircuitOpen(Unreachable):
    """The model failed so often on its server that nothing is sent for a while."""

    status, code = 503, "UNAVAILABLE"

    def __init__(self, detail: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__("the model server keeps failing and is left alone for a moment", detail=detail, sent=False)
        self.retry_after = retry_after
        """Seconds until it is tried again."""


class ModelAway(Unreachable):
    """The replicas that had the model are down; those that answer do not have it."""

    status, code = 503, "UNAVAILABLE"

    def __init__(self, detail: str = "", *, retry_after: float) -> None:
        super().__init__("the model servers that have this model are down", detail=detail, sent=False)
        self.retry_after = retry_after
        """Seconds until they are looked at again."""


class SequenceLost(UpstreamError):
    """The replica that held a sequence's state is gone, and the state with it; a new start begins afresh."""

    status, code = 503, "UNAVAILABLE"


class BadGateway(UpstreamError):
    """The upstream's answer could not be understood."""

    status, code, retryable = 502, "INTERNAL", True


class DeadlineExceeded(UpstreamError):
    """No answer within the route's `timeout` or the client's deadline."""

    status, code, retryable = 504, "DEADLINE_EXCEEDED", True


def not_the_clients_fault(error: TidegateError) -> bool:
    """Whether a fallback variant should be tried: 5xx of the upstream, except what no variant can do."""
    if isinstance(error, UpstreamAnswered):
        return error.status >= 500 and error.status != 501
    return error.retryable
