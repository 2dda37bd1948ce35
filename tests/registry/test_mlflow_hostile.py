"""A server that is no MLflow, or a bad one: one line, exit status 2, and nothing outside of the folder."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from registry_site import Site

from governance.errors import RegistryInputError
from governance.mlflow.rest import Tracking

VERSION = {"name": "income", "version": "2", "source": "mlflow-artifacts:/0/x"}


@contextlib.contextmanager
def answering(answer: Callable[[str, dict], tuple[int, bytes]]) -> Iterator[str]:
    """A server's URI: `answer` gets a path and the query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            status, body = answer(parts.path, parse_qs(parts.query))
            self.send_response(status)
            self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def mlflow(files: object = (), uri: str = "mlflow-artifacts:/0/x", **version: object) -> Callable:
    """Answers as MLflow's, of one version."""

    def answer(path: str, query: dict) -> tuple[int, bytes]:
        what = path.rpartition("/mlflow/")[2]
        if path.endswith("/mlflow-artifacts/artifacts"):
            return 200, json.dumps({"files": files if query["path"] == ["0/x"] else []}).encode()
        if "/mlflow-artifacts/artifacts/" in path:
            return 200, b"content"
        known = {
            "registered-models/get": {"registered_model": {"name": "income"}},
            "model-versions/search": {"model_versions": [{**VERSION, **version}]},
            "model-versions/get": {"model_version": {**VERSION, **version}},
            "model-versions/get-download-uri": {"artifact_uri": uri},
        }
        return 200, json.dumps(known[what]).encode()

    return answer


@pytest.fixture
def site(tmp_path, monkeypatch, capsys) -> Site:
    return Site(tmp_path / "site", monkeypatch, capsys)


def take(site: Site, uri: str, *words: str) -> tuple[int, str]:
    status, found, err = site.of_registry("import", "--uri", uri, "--model", "income", *words, by="ann")
    return status, err + json.dumps(found)


def test_what_such_a_server_is_when_it_is_good(site):
    with answering(mlflow([{"path": "model.py", "is_dir": False}])) as uri:
        assert take(site, uri)[0] == 0
    assert (site.folder / "imported/income/2/files/model.py").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"", "no MLflow does"),
        (200, b"<html>", "no MLflow does"),
        (200, b"[]", "no MLflow does"),
        (200, b"{}", "has no `registered_model`"),
        (200, b'{"registered_model": 3}', "has no `registered_model`"),
        (200, b'{"a": "' + b"x" * (65 << 20) + b'"}', "more than 64 MiB"),
        (302, b"", "answers 302"),
        (401, b"", "does not let us in"),
        (403, b"", "does not let us in"),
        (500, b"<html>", "answers 500"),
        (400, b'{"error_code": "X", "message": "a\\u001b[31m\\nb"}', "a [31m b"),
    ],
)
def test_answers_that_are_none(site, status, body, says):
    with answering(lambda _path, _query: (status, body)) as uri:
        found, said = take(site, uri)
    assert found == 2
    assert says in said
    assert not (site.folder / "imported").exists()


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("../x", False),
        ("..", True),
        (".", True),
        ("/etc/x", False),
        ("a/b", False),
        ("a\\b", False),
        ("", False),
        ("a\nb", False),
    ],
)
def test_names_of_files_never_lead_out(site, name, is_folder):
    with answering(mlflow([{"path": name, "is_dir": is_folder}])) as uri:
        found, said = take(site, uri)
    assert found == 2
    assert "cannot be written here" in said
    assert [path.name for path in (site.folder / "imported/income/2").iterdir()] == ["files.tmp"]
    assert site.run("list")[1]["versions"] == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (mlflow(uri="s3://bucket/x"), "use --files|say where they are with --files"),
        (mlflow(uri=""), "say where they are with --files"),
        (mlflow(status="PENDING_REGISTRATION"), "is not ready"),
        (mlflow(version="../../x"), "no name that a folder can have"),
        (mlflow(3), "has no list of `files`"),
        (mlflow([{"path": "deeper", "is_dir": True}, {"path": "deeper", "is_dir": True}]), "File exists"),
    ],
)
def test_versions_that_cannot_be_had(site, made, says):
    with answering(made) as uri:
        found, said = take(site, uri)
    assert found == 2
    assert any(each in said for each in says.split("|")), said
    assert site.run("list")[1]["versions"] == []


def test_a_version_whose_files_lie_elsewhere(site):
    with answering(mlflow(uri="s3://bucket/x")) as uri:
        status, said = take(site, uri, "--files", str(site.folder / "{model}" / "{version}"))
    assert status == 0, said
    assert site.run("show")[1]["sources"]["files"] == "income/2"


def test_a_full_disk_is_not_the_servers_fault():
    said = r"^/dev/full: cannot be written \(No space left on device\)$"
    with (
        answering(mlflow()) as uri,
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(RegistryInputError, match=said),
    ):
        Tracking(uri, {}).download("0/x/model.py", full)
