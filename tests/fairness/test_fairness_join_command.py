"""`tidegate fairness join` against servers that answer otherwise than a gateway, and keys that no header may have."""

from __future__ import annotations

import http.server
import os
import threading

import pytest

from gateway.cli import main

SECRET = "tg_SECRET123"


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Runs the command: its status and what it said."""
    table = tmp_path / "people.csv"
    table.write_text("id,sex\nr1,F\n")
    monkeypatch.setenv("TIDEGATE_API_KEY", SECRET)

    def run(url: str) -> tuple[int, str]:
        status = main(
            ["fairness", "join", "--data", str(table), "--route", "r", "--id", "id", "--attribute", "sex", "--url", url]
        )
        return status, "".join(capsys.readouterr())

    return run


@pytest.fixture
def answering():
    """A server that answers every POST with a status and a body; its address."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("key", [SECRET + "\n", SECRET + "\x00", SECRET + "\u00e9"])
def test_a_key_that_no_header_may_have_is_not_told(told, monkeypatch, key):
    monkeypatch.setattr("os.environ", os.environ | {"TIDEGATE_API_KEY": key})
    status, said = told("http://127.0.0.1:9")
    assert status == 2
    assert "TIDEGATE_API_KEY" in said
    assert SECRET not in said


def test_a_password_in_the_url_is_not_told(told):
    status, said = told("http://user:hunter2@127.0.0.1:9")
    assert status == 2
    assert "hunter2" not in said


@pytest.mark.parametrize(("answer", "body"), [(502, b'"nope"'), (200, b'["a"]'), (200, b'{"a": "b"}'), (200, b"{")])
def test_what_is_no_tidegate_is_said_so(told, answering, answer, body):
    status, said = told(answering(answer, body))
    assert status == 2
    assert said.startswith("tidegate: ")
    assert "Traceback" not in said
