"""Other people's code reads our logs: Go's checksum-database packages (Debian: golang-go, golang-golang-x-mod-dev)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from audit_fixture import a_log

_SOURCES = Path("/usr/share/gocode")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("go") is None or not (_SOURCES / "src/golang.org/x/mod/sumdb/tlog").exists(),
    reason="needs golang-go and golang-golang-x-mod-dev",
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [1, 255, 256, 257, 66_000])
def test_go_verifies_our_log(tmp_path, size):
    log = a_log(tmp_path, [f"entry {number}".encode() for number in range(size)], steps=3)
    program = Path(__file__).parent / "go/tlog_reader.go"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(_SOURCES), "GOCACHE": str(tmp_path / "cache")}
    binary = tmp_path / "tlog_reader"
    subprocess.run(["go", "build", "-o", binary, program], env=environment, check=True)
    words = [binary, log, log / "log.vkey"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"example.com/audit {size}\n"), done.stderr
    # It would not have said so of anything else.
    bundle = log / "tile/entries/000" if size >= 256 else log / f"tile/entries/000.p/{size}"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0
