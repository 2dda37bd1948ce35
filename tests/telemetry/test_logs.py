"""The gateway's own log: form, levels, and what never stands in it."""

import datetime as dt
import json
import logging
import re
import subprocess
import sys
import threading
import warnings

import pytest

from gateway import logs
from gateway.settings import Logging

KEY = "tg_VerySecretKey"


@pytest.fixture(autouse=True)
def untouched():
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.getLogger(logs.ROOT).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object(capsys):
    logs.configure(Logging(), worker=3)
    logs.get("observe").warning(
        "upstream %s",
        "away",
        extra={"fields": {"request_id": "r-1", "trace_id": "ab", "status": 503, "worker": 9}},
    )
    (line,) = lines(capsys)
    moment = dt.datetime.fromisoformat(line.pop("time"))
    assert abs((dt.datetime.now(dt.UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "logger": "tidegate.observe",
        "message": "upstream away",
        "worker": 3,
        "request_id": "r-1",
        "trace_id": "ab",
        "status": 503,
    }


def test_time_is_rfc_3339(capsys):
    logs.configure(Logging())
    logs.get("x").info("y")
    text = capsys.readouterr().err
    assert re.search(r'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', text)
    assert '"worker"' not in text


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(capsys, level, seen):
    logs.configure(Logging(level=level))
    log = logs.get("x")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("y")
    assert [line["level"] for line in lines(capsys)] == seen


def test_text_for_people(capsys):
    logs.configure(Logging(format="text"), worker=0)
    logs.get("x").error("two\nlines", extra={"fields": {"request_id": "r-1", "empty": ""}})
    assert re.fullmatch(r"\S+Z error   \[0\] x: two\\nlines request_id=r-1\n", capsys.readouterr().err)


def test_libraries_come_out_in_the_same_form(capsys):
    logs.configure(Logging())
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("limit")
    logging.getLogger("grpc._server").error("odd")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    got = lines(capsys)
    assert [(line["logger"], line["level"]) for line in got] == [
        ("uvicorn.error", "warning"),
        ("grpc._server", "error"),
        ("py.warnings", "warning"),
    ]


def test_an_exception_stays_on_its_line(capsys):
    logs.configure(Logging())
    try:
        raise KeyError("x")
    except KeyError:
        logs.get("x").exception("broke")
    (line,) = lines(capsys)
    assert line["message"] == "broke"
    assert line["exception"].endswith("KeyError: 'x'\n")


def test_a_thread_that_dies_is_logged(capsys):
    logs.configure(Logging())
    thread = threading.Thread(target=lambda: 1 // 0, name="side")
    thread.start()
    thread.join()
    (line,) = lines(capsys)
    assert line["message"] == "thread side ended by ZeroDivisionError"


@pytest.mark.parametrize(
    "value", ["\udc80", b"\xff", float("nan"), object(), {1: 2}, {"a": {"b"}}, 10**40, None, "\0\n\x1b[2J"]
)
def test_any_field_can_be_logged(capsys, value):
    for form in ("json", "text"):
        logs.configure(Logging(format=form))
        logs.get("x").info("y", extra={"fields": {"odd": value}})
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert json.loads(err.splitlines()[0])["message"] == "y"


def test_arguments_that_do_not_fit_are_not_lost(capsys):
    logs.configure(Logging())
    logs.get("x").info("%d", "many")
    assert lines(capsys)[0]["message"] == "%d ('many',)"


def test_headers_lose_their_secrets():
    headers = {
        "Authorization": f"Bearer {KEY}",
        "X-API-Key": KEY,
        "cookie": KEY,
        "proxy-authorization": KEY,
        "set-cookie": KEY,
        "accept": "*/*",
    }
    out = logs.redacted(headers)
    assert KEY not in str(out)
    assert out["accept"] == "*/*"
    assert set(out) == {name.lower() for name in headers}


def test_a_closed_standard_error_ends_nothing():
    code = (
        "import os, sys; os.close(2)\n"
        "from gateway import logs; from gateway.settings import Logging\n"
        "logs.configure(Logging()); logs.get('x').error('y'); print('alive')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout == "alive\n"
