"""`tidegate triton install|start` as a user meets them: output, exit status, signals."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from triton_fixture import CHECKOUT, TEST_MODELS, free_ports, installed

from gateway.triton import Listen, ManagedTriton, cli, command, install
from gateway.triton.install import is_current

PROGRAM = (
    "import argparse, sys; from gateway.triton import cli; parser = argparse.ArgumentParser('tidegate'); "
    "cli.add_parser(parser.add_subparsers()); sys.exit(cli.run(parser.parse_args()))"
)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidegate")
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["triton", *words])


def program(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "triton", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        **options,
    )


def test_second_install_is_quick_and_says_where_it_is(capsys):
    installed()
    began = time.monotonic()
    assert cli.run(parse("install", "--root", str(CHECKOUT / ".triton"), "--format", "json")) == 0
    assert time.monotonic() - began < 20
    said = json.loads(capsys.readouterr().out)
    assert said["event"] == "installed"
    assert Path(said["message"]).name == "tritonserver"


def test_start_serves_until_interrupted_and_passes_arguments_on(tmp_path: Path):
    installed()
    shutil.copytree(TEST_MODELS / "identity_fp32", tmp_path / "models" / "identity_fp32")
    http, grpc, metrics = map(str, free_ports(3))
    ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
    where = ("--model-repository", str(tmp_path / "models"), "--log", str(tmp_path / "triton.log"))
    with program("start", *where, *ports, "--format", "json", "--", "--id=own-name") as running:
        events = [json.loads(running.stdout.readline()) for _ in range(2)]
        assert [event["event"] for event in events] == ["progress", "ready"]
        assert events[1]["message"] == f"HTTP 127.0.0.1:{http}, gRPC 127.0.0.1:{grpc}, metrics 127.0.0.1:{metrics}"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0
    assert json.loads(out)["event"] == "stopped"
    assert err == ""
    assert "own-name" in (tmp_path / "triton.log").read_text()


def test_mistakes_are_one_line_and_status_1(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert cli.run(parse("start", "--root", str(tmp_path))) == 1
    assert capsys.readouterr().err.startswith("tidegate: no `tritonserver` on PATH and none in ")
    assert cli.run(parse("install", "--root", str(tmp_path), "--python", str(tmp_path / "none"))) == 1
    assert "--python PATH" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.run(parse("install", "--root", str(blocked / "triton"))) == 1
    assert "Not a directory. Choose another folder with --root" in capsys.readouterr().err
    for words in (("start", "--http-port", "0"), ("start", "--http-port", "x")):
        with pytest.raises(SystemExit):
            parse(*words)
        assert "--http-port" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    for verb in ("install", "start"):
        with pytest.raises(SystemExit):
            parse(verb, "--help")
        assert f"tidegate triton {verb}" in capsys.readouterr().out.split("examples:")[1]


def test_interrupted_install_ends_its_pip_and_is_no_installation(tmp_path: Path):
    root = tmp_path / "triton"
    with program("install", "--root", str(root)) as running:
        assert "environment" in running.stdout.readline()
        assert "fetching" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert err == "tidegate: interrupted; run the same command again to go on\n"
    assert not is_current(root)
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert not any(str(root).encode() in each for each in commands)


@pytest.mark.slow
def test_killed_install_is_redone_and_serves(tmp_path: Path):
    """SIGKILL in the middle of pip; the next install makes it whole, and the server runs from it."""
    root = tmp_path / "triton"
    with program("install", "--root", str(root), start_new_session=True) as running:
        for line in running.stdout:
            if "package 20" in line:
                break
        os.killpg(running.pid, signal.SIGKILL)
    assert not is_current(root)
    found = install(root)
    assert is_current(root)
    shutil.copytree(TEST_MODELS / "identity_all", tmp_path / "models" / "identity_all")
    wanted = command(found, repositories=[tmp_path / "models"], listen=Listen(*free_ports(3)))

    async def scenario() -> None:
        server = ManagedTriton(wanted, tmp_path / "triton.log")
        await server.start()
        await server.stop()

    asyncio.run(scenario())
