"""The managed Triton: installation, launch, supervision. Real processes, each with one small model."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from triton_fixture import CHECKOUT, TEST_MODELS, installed, launch, running_triton

from gateway.triton import (
    InstallFailed,
    Listen,
    ManagedTriton,
    TritonError,
    TritonFailed,
    Unsupported,
    command,
    install,
    interpreter,
    locate,
    logfile,
)
from gateway.triton.launch import managed, traces_url
from gateway.triton.supervise import GRACE, describe_exit

install_module = sys.modules["gateway.triton.install"]


@pytest.fixture
def one_model(tmp_path: Path) -> Path:
    """A repository with `fails` alone: it can kill its server."""
    shutil.copytree(TEST_MODELS / "fails", tmp_path / "models" / "fails")
    return tmp_path / "models"


def shared_memory(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.01)


def test_crash_is_reported_and_server_restarted_then_stopped_cleanly(one_model: Path, tmp_path: Path):
    reports: list[str] = []

    async def scenario() -> tuple[ManagedTriton, set[int]]:
        server = ManagedTriton(
            launch([one_model]), tmp_path / "log" / "triton.log", backoff=(0.2, 1.0), report=reports.append
        )
        await server.start()
        assert server.state == "ready"
        pids = {server.pid}
        assert shared_memory(server.launch.shm_prefix)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server.state != "ready")
        async with asyncio.timeout(60):
            await server.wait_ready()
        pids.add(server.pid)
        assert server.restarts == 1
        began = time.monotonic()
        await server.stop()
        await server.stop()  # a second call finds nothing to do
        assert time.monotonic() - began < 60
        return server, pids

    server, pids = asyncio.run(scenario())
    assert len(pids) == 2
    assert "was ended by SIGKILL" in reports[0]
    assert "starting it again in 0.2 s" in reports[0]
    assert "  | " in reports[0] and "Started HTTPService" in reports[0]
    assert reports[1] == "Triton is ready again (restart 1)"
    assert server.state == "stopped" and server.pid is None
    assert shared_memory(server.launch.shm_prefix) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_back_off_doubles_up_to_its_limit(one_model: Path, tmp_path: Path):
    """A server that cannot come back is tried again after 0.1, 0.2, 0.4, 0.4 ... seconds, and never given
    up."""
    reports: list[str] = []

    async def scenario() -> None:
        wanted = launch([one_model])
        server = ManagedTriton(wanted, tmp_path / "triton.log", backoff=(0.1, 0.4), report=reports.append)
        await server.start()
        shutil.rmtree(one_model)  # the next starts end at once: there is no repository any more
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: sum("starting it again" in line for line in reports) >= 5)
        await server.stop()

    asyncio.run(scenario())
    pauses = [line.split("again in ")[1].split(" s")[0] for line in reports if "again in" in line]
    assert pauses[:5] == ["0.1", "0.2", "0.4", "0.4", "0.4"]
    assert any("did not come back" in line and "before it was ready" in line for line in reports)


def test_first_start_that_fails_is_an_error_with_the_last_log_lines(tmp_path: Path):
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "config.pbtxt").write_text('name: "broken"\nbackend: "no_such_backend"\n')
    server = ManagedTriton(launch([broken.parent]), tmp_path / "triton.log")
    with pytest.raises(TritonFailed, match="before it was ready") as failed:
        asyncio.run(server.start())
    assert any("failed to load" in line for line in failed.value.log_tail)
    assert server.state == "stopped" and server.pid is None


def test_stop_during_start_leaves_no_process(one_model: Path, tmp_path: Path):
    async def scenario() -> int:
        server = ManagedTriton(launch([one_model]), tmp_path / "triton.log")
        starting = asyncio.create_task(server.start())
        await until(lambda: server.pid is not None)
        pid = server.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        return pid

    pid = asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_server_ends_when_its_supervisor_is_killed(one_model: Path, tmp_path: Path):
    """SIGKILL to the gateway leaves no server behind on its ports."""
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(CHECKOUT / 'tests')!r})\n"
        "from triton_fixture import launch\n"
        "from gateway.triton import ManagedTriton\n"
        "async def main():\n"
        f"    server = ManagedTriton(launch([Path({str(one_model)!r})]), Path({str(tmp_path / 'log')!r}))\n"
        "    await server.start(); print(server.pid, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_port_in_use_is_named_before_anything_starts(one_model: Path, tmp_path: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        wanted = command(installed(), repositories=[one_model], listen=Listen(http=port, grpc=port, metrics=port))
        with pytest.raises(TritonFailed, match=rf"127\.0\.0\.1:{port} \(HTTP\): Address already in use\. Stop"):
            asyncio.run(ManagedTriton(wanted, tmp_path / "triton.log").start())
    assert not (tmp_path / "triton.log").exists()


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_other_systems_are_told_the_remedy(system: str, machine: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(Unsupported, match=f"this is {system} {machine}: point `upstreams`") as error:
        install(tmp_path / "triton")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "triton").exists()


def test_other_c_libraries_are_told_the_remedy(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    with pytest.raises(Unsupported, match=r"glibc 2\.35 or newer and this system has glibc 2\.31: point"):
        install(tmp_path / "triton")


def test_no_fitting_python_names_what_was_tried(tmp_path: Path):
    other = tmp_path / "python3.11"
    other.write_text('#!/bin/sh\necho \'{"version": [3, 13], "executable": "x", "library": null, "pip": true}\'\n')
    other.chmod(0o755)
    with pytest.raises(InstallFailed, match=r"is Python 3\.13, not 3\.11.*--python PATH"):
        install(tmp_path / "triton", other)
    other.write_text('#!/bin/sh\necho \'{"version": [3, 11], "executable": "x", "library": null, "pip": true}\'\n')
    with pytest.raises(InstallFailed, match=r"has no libpython3\.11\.so\.1\.0 \(built without --enable-shared\)"):
        install(tmp_path / "triton", other)
    other.write_text("#!/bin/sh\nexit 127\n")
    with pytest.raises(InstallFailed, match="does not run"):
        install(tmp_path / "triton", other)


def test_interpreter_and_its_library_are_found():
    found = interpreter.find()
    assert found.executable.exists()
    assert found.library.name.startswith("libpython3.11.so")


def test_no_network_is_one_line_and_the_next_install_begins_anew(tmp_path: Path, monkeypatch):
    """pip fails without an index: the error has the remedy, and what is left does not pass for an
    installation."""
    root = tmp_path / "triton"
    for name in ("PIP_NO_INDEX", "PIP_NO_CACHE_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    said: list[str] = []
    with pytest.raises(InstallFailed, match=r"pip ended with status 1 .*point `upstreams`") as error:
        install(root, progress=said.append)
    assert "\n" not in str(error.value)
    assert (root / "env").exists()
    assert not install_module.is_current(root)
    with pytest.raises(TritonError, match="tidegate triton install"):
        locate_without_path(root, monkeypatch)
    assert said[0].startswith(f"triton: environment {root}")


def locate_without_path(root: Path, monkeypatch) -> object:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", os.devnull)
        return locate(root)


def test_an_interrupt_while_pip_is_being_started_comes_after_that():
    """In the midst of `Popen` it would leave a pip that nobody ends."""
    before, done = signal.getsignal(signal.SIGINT), []

    def start() -> None:
        with install_module._interrupts_later():
            signal.raise_signal(signal.SIGINT)
            done.append("started")
        done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["started"]
    assert signal.getsignal(signal.SIGINT) is before


def test_installation_is_current_only_while_its_lock_and_files_are(tmp_path: Path, monkeypatch):
    """An upgrade's new lock, a lost file and a broken marker each mean: install again."""
    root = installed_copy(tmp_path)
    assert install_module.is_current(root)
    (root / "lib" / interpreter.LIBRARY).rename(root / "lib" / "gone")
    assert not install_module.is_current(root)
    (root / "lib" / "gone").rename(root / "lib" / interpreter.LIBRARY)
    (root / "installed.json").write_text("{")
    assert not install_module.is_current(root)
    root = installed_copy(tmp_path / "other")
    other = tmp_path / "triton.lock"
    other.write_text("numpy==1.26.4\n")
    monkeypatch.setattr(install_module, "LOCK", other)
    assert not install_module.is_current(root)


def installed_copy(folder: Path) -> Path:
    """A root of links to the checkout's installation."""
    source = CHECKOUT / ".triton"
    installed()
    root = folder / "triton"
    root.mkdir(parents=True)
    shutil.copytree(source / "lib", root / "lib", symlinks=True)
    shutil.copy(source / "installed.json", root)
    (root / "env").symlink_to(source / "env")
    return root


def test_tritonserver_on_path_is_preferred(tmp_path: Path, monkeypatch):
    own = tmp_path / "bin" / "tritonserver"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(own.parent))
    found = locate(CHECKOUT / ".triton")
    assert found.server == own
    assert found.backends is None and not found.managed
    wanted = command(found, repositories=[tmp_path], listen=Listen())
    assert not any("--backend-directory" in each for each in wanted.argv)
    assert wanted.environment == {} and wanted.unset == ()


def test_command_binds_to_loopback_and_traces_only_with_an_endpoint(tmp_path: Path):
    found = managed(tmp_path)
    plain = command(found, repositories=[tmp_path], listen=Listen(1, 2, 3)).argv
    assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(plain)
    assert "--trace-config" not in plain
    traced = command(found, repositories=[tmp_path], listen=Listen(), otlp="http://127.0.0.1:4318").argv
    assert "opentelemetry,url=http://127.0.0.1:4318/v1/traces" in traced
    assert "rate=0" in traced
    assert traces_url("https://collector:4318/otlp/traces") == "https://collector:4318/otlp/traces"
    with pytest.raises(TritonError, match="is no OTLP/HTTP endpoint"):
        traces_url("127.0.0.1:4317")
    with pytest.raises(TritonError, match="is not a folder"):
        command(found, repositories=[tmp_path / "none"], listen=Listen())
    with pytest.raises(TritonError, match="at least one model repository"):
        command(found, repositories=[], listen=Listen())


def test_log_is_bounded_and_its_tail_readable(tmp_path: Path):
    log = tmp_path / "triton.log"
    assert logfile.tail(log, 3) == ()
    log.write_text("first\n" + "+----+\n| table |\n\n" + "x" * 500 + "\nlast\n")
    assert logfile.tail(log, 2) == ("x" * 400 + " ...", "last")
    with log.open("ab") as writer:  # a server that goes on writing while the file is cut
        logfile.bound(log, limit=100)
        assert log.stat().st_size == 0
        assert (tmp_path / "triton.log.1").read_text().startswith("first")
        writer.write(b"after\n")
    assert log.read_text() == "after\n"


def test_exit_codes_in_words():
    assert describe_exit(1) == "ended with status 1"
    assert describe_exit(-11) == "was ended by SIGSEGV"


def test_spans_leave_by_otlp_for_requests_with_a_context_and_no_others(tmp_path: Path):
    """`rate=0`: Triton's spans join the caller's trace; a request without `traceparent` makes none."""
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    shutil.copytree(TEST_MODELS / "identity_fp32", tmp_path / "models" / "identity_fp32")
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
        with running_triton([tmp_path / "models"], tmp_path / "triton.log", otlp=endpoint, grace=GRACE) as server:
            url = f"http://{server.http}/v2/models/identity_fp32/infer"
            tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1]}
            for headers in ({}, {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}):
                request = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode(), headers)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert answer.status == 200
        collector.shutdown()
    assert {path for path, _ in got} == {"/v1/traces"}
    spans = b"".join(body for _, body in got)
    assert spans.count(b'"spanId"') == 3  # InferRequest, the model, compute
    assert spans.count(b"ab" * 16) == 3
