"""The gateway's own log: one JSON object a line, or text for people, on standard error.

Contract: standard `logging` below, so that libraries (uvicorn, grpc, the OpenTelemetry SDK) come out in the
same form. Never a secret: callers pass no headers, and `redacted` is what a header mapping must go through
should one ever be logged. A line is written in one call, so that lines of several workers do not mix.

A line has `time` (RFC 3339, UTC, microseconds), `level`, `logger`, `message`, `worker`, and the caller's
fields: `log.warning("...", extra={"fields": {"request_id": ..., "trace_id": ...}})`. Fields never overwrite
those names.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.settings import Logging

ROOT: Final = "tidegate"
SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"})

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "error"}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_encode = msgspec.json.Encoder(enc_hook=str, order=None).encode


def get(name: str) -> logging.Logger:
    """A logger of the gateway; `name` is the part that speaks (`supervisor`, `access`)."""
    return logging.getLogger(f"{ROOT}.{name}")


def redacted(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as they may be logged: names in lower case, secrets without their values."""
    return {name.lower(): "[redacted]" if name.lower() in SECRET_HEADERS else value for name, value in headers.items()}


def configure(section: Logging, *, worker: int | None = None) -> None:
    """Routes every logger of this process to standard error. May be called again with other settings.

    Args:
        section: level and format.
        worker: slot of this worker; None for the supervisor and commands.
    """
    handler = _Handler()
    handler.setFormatter(_Json(worker) if section.format == "json" else _Text(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = _LEVELS[section.level]
    logging.getLogger(ROOT).setLevel(level)
    # Libraries are chatty at info (uvicorn's access log, the SDK's batches); what they warn of is wanted.
    root.setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "asyncio"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_failed


class _Handler(logging.Handler):
    """Writes a line in one call to standard error; a closed one ends nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # Standard error is closed or full (a pipe whose reader left): there is nowhere to say so.
            return


class _Json(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": _level(record),
            "logger": record.name,
            "message": _message(record),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        for name, value in getattr(record, "fields", {}).items():
            line.setdefault(name, value)
        try:
            return _encode(line).decode()
        except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
            # A lone surrogate, or a value that JSON has no form for, of a caller's making.
            return _encode({str(name): _plain(value) for name, value in line.items()}).decode()


class _Text(logging.Formatter):
    """For people at a terminal."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f" [{worker}]"

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; an exception's traceback follows on lines of its own."""
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items() if value != "")
        name = record.name.removeprefix(ROOT + ".")
        text = f"{_time(record.created)} {_level(record):7}{self._worker} {name}: {_message(record)}{fields}"
        # One line each, and nothing that a terminal would obey.
        text = _CONTROL.sub(lambda match: repr(match[0])[1:-1], _plain(text))
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # Arguments that do not fit their format, in some library: better odd than lost.
        return f"{record.msg} {record.args}"


def _time(created: float) -> str:
    moment = dt.datetime.fromtimestamp(created, dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno) or record.levelname.lower()


def _plain(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    thread = "" if args.thread is None else args.thread.name
    get("thread").error(
        "thread %s ended by %s",
        thread,
        args.exc_type.__name__,
        exc_info=None if args.exc_value is None else (args.exc_type, args.exc_value, args.exc_traceback),
    )
