"""`docs/errors.md`, made from the classes in `gateway/errors.py`.

Contract: `render` is a pure function of the classes, so a test can compare the page with it. To renew the page:

    python -m gateway.errors_docs > docs/errors.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from gateway import errors
from gateway.errors import CircuitOpen, ModelAway, Shed, TidegateError, UpstreamAnswered

_INTRO = """\
# Errors

This page is made from the classes in `gateway/errors.py` (`python -m gateway.errors_docs`).

Every error over HTTP is `{"error": "..."}` with `Content-Type: application/json`; over gRPC it is the status
with the same words as details. On a stream (`ModelStreamInfer`) a credential that is not
accepted ends the stream with that status; any other error rides in `error_message` of one message and
the stream goes on, unless the client sent `triton_grpc_error: true`: then it is the status of the stream. In
server-sent events that have begun it is one more event. Answers to errors carry `x-request-id` like all others.

A request that violates several rules is told the first of: framing and size (400, 408, 413), the caller (401),
the page and method (404, 405), the policy (403), the route (404), limits (429), the content (400, 501).

Messages name no addresses, paths or other tenants; what they leave out is in the gateway's log under the same
request id. `yes` under *Fallback*: the route's `fallback` variants are tried before the client is told.
"""

_AFTER = """
A shed request says when to try again: `Retry-After` in whole seconds over HTTP; over gRPC the trailing metadata
`grpc-retry-pushback-ms` and `retry-after`.

## Errors of the model server

`UpstreamAnswered` keeps the model server's own status and words. Unary calls travel over HTTP, streams over
gRPC; where one has to be told in terms of the other:
"""


def answered() -> list[type[TidegateError]]:
    """Every class that a client can be answered with, in the order of the file."""
    found = [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, TidegateError) and (member is UpstreamAnswered or "status" in vars(member))
    ]
    # The base itself is what a class without a status of its own answers: a defect, and settings.
    found = [cls for cls in found if cls is not TidegateError] + [errors.Defect]
    return sorted(found, key=lambda cls: inspect.getsourcelines(cls)[1])


def render() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "| error | HTTP | gRPC | fallback | when |"
    yield "|---|---|---|---|---|"
    for cls in answered():
        own = cls is UpstreamAnswered
        status, code = ("as answered", "as answered") if own else (str(cls.status), cls.code)
        fallback = "5xx but 501" if own else "yes" if cls.retryable else "no"
        if issubclass(cls, Shed | CircuitOpen | ModelAway):
            status += ", `Retry-After`"
        yield f"| `{cls.__name__}` | {status} | {code} | {fallback} | {_meaning(cls)} |"
    yield _AFTER
    yield "| HTTP | gRPC |"
    yield "|---|---|"
    for number in sorted({400, 401, 403, 404, 405, 408, 409, 413, 429, 499, 500, 501, 502, 503, 504}):
        yield f"| {number} | {errors.grpc_from_http(number)} |"
    yield ""
    yield "| gRPC | HTTP |"
    yield "|---|---|"
    for code in errors.GRPC_CODES[1:]:
        yield f"| {code} | {errors.http_from_grpc(code)} |"


def _meaning(cls: type[TidegateError]) -> str:
    lines = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return " ".join(lines.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
