"""Other people's code reads our logs: Go's checksum-database packages (Debian: golang-go, golang-golang-x-mod-dev)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from audit_fixture import a_log
from test_audit_served import READER, filled, started

_SOURCES = Path("/usr/share/gocode")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("go") is None or not (_SOURCES / "src/golang.org/x/mod/sumdb/tlog").exists(),
        reason="needs golang-go and golang-golang-x-mod-dev",
    ),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """The verifier, built."""
    folder = tmp_path_factory.mktemp("go")
    program = Path(__file__).parent / "go/tlog_reader.go"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(_SOURCES), "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", folder / "tlog_reader", program], env=environment, check=True)
    return folder / "tlog_reader"


def test_go_verifies_a_log_that_a_gateway_serves(gateway, binary):
    one = started(gateway)
    count = filled(one, 300)
    words = [binary, f"http://{one.http}/audit", one.folder / "state/audit/log.vkey"]
    environment = {**os.environ, "API_KEY": READER}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= count
    refused = subprocess.run(words, env={**os.environ, "API_KEY": "no"}, capture_output=True, text=True, check=False)
    assert "401" in refused.stderr


@pytest.mark.parametrize("size", [1, 255, 256, 257, 66_000])
def test_go_verifies_our_log(tmp_path, binary, size):
    log = a_log(tmp_path, [f"entry {number}".encode() for number in range(size)], steps=3)
    words = [binary, log, log / "log.vkey"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"example.com/audit {size}\n"), done.stderr
    # It would not have said so of anything else.
    bundle = log / "tile/entries/000" if size >= 256 else log / f"tile/entries/000.p/{size}"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0
