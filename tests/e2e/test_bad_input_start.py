"""What keeps `tidegate serve` and `tidegate up` from starting: exit 2, one line that names key and remedy."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from driving import alive, children, fp32, until
from gateway_fixture import Gateway
from triton_fixture import CHECKOUT, TEST_MODELS, free_ports, installed

UPSTREAM = "upstreams: {triton: {http: 127.0.0.1:9, grpc: 127.0.0.1:10}}\n"


def serve(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def settings(folder: Path, text: str = "", *, http: str | None = None, grpc: str | None = None) -> Path:
    ports = free_ports(2)
    listen = f"listen: {{http: '{http or f'127.0.0.1:{ports[0]}'}', grpc: '{grpc or f'127.0.0.1:{ports[1]}'}'}}\n"
    file = folder / "tidegate.yaml"
    file.write_text(listen + UPSTREAM + text)
    return file


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, one line on standard error with these words, nothing on standard output."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.mark.parametrize("key", ["http", "grpc"])
def test_a_port_in_use(tmp_path, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = serve("--config", str(settings(tmp_path, **{key: address})))
    refused(done, f"listen.{key}", address, "Address already in use", "choose another port")


def test_a_port_that_another_gateway_shares_among_its_workers(tmp_path, gateway):
    """SO_REUSEPORT alone would let both listen, each getting half of the connections."""
    one = gateway(UPSTREAM, wait="live")
    refused(serve("--config", str(settings(tmp_path, http=one.http))), "listen.http", one.http, "in use")
    refused(serve("--config", str(settings(tmp_path, grpc=one.grpc))), "listen.grpc", one.grpc, "in use")
    state = one.folder / "state"
    done = serve("--config", str(settings(tmp_path, f"state_dir: {state}\n")))
    refused(done, "state_dir", str(state), "in use by another gateway")
    assert one.get("/healthz").status == 200


def test_an_address_of_another_machine(tmp_path):
    key = "identity: {anonymous: {}}\n"
    done = serve("--config", str(settings(tmp_path, key, http="192.0.2.1:8080")))
    refused(done, "listen.http", "192.0.2.1:8080", "ip addr")


@pytest.mark.parametrize("where", ["file", "below-file", "read-only"])
def test_a_state_dir_that_cannot_be_written(tmp_path, where):
    (tmp_path / "file").write_text("")
    state = {"file": "file", "below-file": "file/state", "read-only": "/proc/tidegate"}[where]
    done = serve("--config", str(settings(tmp_path, f"state_dir: {state}\n")))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "state_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_dir_that_holds_a_file_named_run(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run").write_text("")
    refused(serve("--config", str(settings(tmp_path))), "state_dir", str(tmp_path / "state"), "cannot write")


def test_settings_that_are_not_there_or_cannot_be_read(tmp_path):
    missing = tmp_path / "nowhere.yaml"
    refused(serve("--config", str(missing)), f"{missing}:1:", "No such file", "check the path")
    refused(serve("--config", str(tmp_path)), f"{tmp_path}:1:", "Is a directory")


def test_wrong_usage_teaches(tmp_path):
    for args in ([], ["--config"], ["--config", "x", "--workers", "none"], ["--config", "x", "--workers", "0"]):
        done = serve(*args)
        assert done.returncode == 2
        assert "`tidegate serve --help`" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_other_machines_need_an_identity_section(tmp_path):
    done = serve("--config", str(settings(tmp_path, http="0.0.0.0:8080")))
    refused(done, f"{tmp_path / 'tidegate.yaml'}:1:", "listen.http", "identity", "127.0.0.1:8080")


def test_a_worker_that_cannot_start_ends_the_command(tmp_path):
    """No endless loop: it says why and the command ends. Files larger than 64 KiB cannot be made here."""
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(settings(tmp_path)), "--workers", "2"]
    began = time.monotonic()
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 128; exec "$@"', "sh", *argv], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done
    assert time.monotonic() - began < 60
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.fixture
def several(gateway):
    if not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 on this machine")
    ports = free_ports(2)
    text = f"listen: {{http: '[::1]:{ports[0]}', grpc: '[::1]:{ports[1]}'}}\nworkers: 2\nlog: {{format: text}}\n"
    one = gateway(text + UPSTREAM, wait="")
    one.http, one.grpc = f"[::1]:{ports[0]}", f"[::1]:{ports[1]}"
    one.wait_live()
    return one


def test_ipv6_loopback_is_loopback(several):
    until(lambda: "serving: " in several.log.read_text())
    assert several.get("/readyz").status == 503
    import grpc

    with grpc.insecure_channel(several.grpc) as made:
        grpc.channel_ready_future(made).result(5)
    text = several.log.read_text()
    assert f"serving: http {several.http}, grpc {several.grpc}" in text, "text logs are text"
    assert "{" not in text
    assert several.stop() == 0


# -- tidegate up --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A deployment with one small model, and its environment."""
    installed()
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(TEST_MODELS / "identity_fp32", folder / "model_repository" / "identity_fp32")
    (folder / "tidegate.yaml").write_text(
        "listen: {http: '127.0.0.1:${HTTP_PORT}', grpc: '127.0.0.1:${GRPC_PORT}'}\n"
        "upstreams: {triton: {http: '127.0.0.1:${TRITON_HTTP_PORT}', grpc: '127.0.0.1:${TRITON_GRPC_PORT}'}}\n"
    )
    return folder


def environment() -> dict[str, str]:
    names = ["HTTP_PORT", "GRPC_PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT"]
    return {**os.environ, **{name: str(port) for name, port in zip(names, free_ports(5), strict=True)}}


def up(site: Path, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "gateway", "up", str(site), "--triton-root", str(CHECKOUT / ".triton"), *args]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240, env=env)


def test_up_without_a_triton(site, tmp_path):
    env = environment() | {"PATH": "/usr/bin:/bin"}
    done = up(site, env, "--triton-root", str(tmp_path))
    refused(done, "tidegate triton install")


def test_up_with_a_port_of_triton_in_use(site):
    env = environment()
    with socket.create_server(("127.0.0.1", int(env["TRITON_GRPC_PORT"]))):
        done = up(site, env)
    assert done.returncode == 2, done
    assert f"127.0.0.1:{env['TRITON_GRPC_PORT']}" in done.stderr
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_with_a_port_that_is_none(site):
    done = up(site, environment() | {"TRITON_HTTP_PORT": "none"})
    assert done.returncode == 2
    assert "TRITON_HTTP_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_with_a_triton_that_ends_at_its_start(site, tmp_path):
    broken = tmp_path / "models" / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "config.pbtxt").write_text("this is no model configuration\n")
    (broken / "1" / "model.py").write_text("")
    done = up(site, environment(), "--model-repository", str(broken.parent))
    assert done.returncode == 2, done.stderr
    assert "before it was ready" in done.stderr
    assert "broken" in done.stderr, "the last lines of its log say what is wrong"
    assert "Traceback" not in done.stderr


@pytest.fixture
def running(site, tmp_path):
    """`tidegate up` in a process group of its own, as a terminal runs it."""
    env = environment()
    log = tmp_path / "up.log"
    argv = [sys.executable, "-m", "gateway", "up", str(site), "--triton-root", str(CHECKOUT / ".triton")]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=env, start_new_session=True)
    one = Gateway(site, process, f"127.0.0.1:{env['HTTP_PORT']}", f"127.0.0.1:{env['GRPC_PORT']}", log, env)
    yield one
    if process.poll() is None:
        process.kill()
        process.wait()


def triton_pid(one: Gateway) -> int:
    return next(pid for pid in children(one.process.pid) if "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text())


def regions(prefix: str) -> list[Path]:
    assert prefix
    return list(Path("/dev/shm").glob(prefix + "*"))


def triton_listens(one: Gateway) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{one.env['TRITON_HTTP_PORT']}/v2/health/live", timeout=5).close()
    except OSError:
        return False
    return True


def test_up_serves_survives_a_crash_of_triton_and_leaves_nothing(running):
    running.wait_ready(60)
    assert running.post("/v2/models/identity_fp32/infer", fp32()).status == 200
    first = triton_pid(running)
    prefix = Path(f"/proc/{first}/cmdline").read_text().partition("shm-region-prefix-name=")[2].partition("\0")[0]
    assert regions(prefix)
    os.kill(first, signal.SIGKILL)
    until(lambda: running.get("/readyz").status == 503, 5, "not ready without a Triton")
    assert running.get("/healthz").status == 200
    assert running.post("/v2/models/identity_fp32/infer", fp32()).status == 503
    running.wait_ready(60)
    assert running.post("/v2/models/identity_fp32/infer", fp32()).status == 200
    text = running.log.read_text()
    assert "was ended by SIGKILL" in text
    assert "Last lines" in text
    assert "Triton is ready again" in text
    pids = [running.process.pid, *children(running.process.pid)]
    pids += [grandchild for pid in pids[1:] for grandchild in children(pid)]
    os.killpg(running.process.pid, signal.SIGINT)  # Ctrl-C in a terminal
    assert running.process.wait(120) == 0
    until(lambda: not any(alive(pid) for pid in pids), 2, "no process is left")
    assert not triton_listens(running)
    assert not regions(prefix)
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@pytest.mark.parametrize("sig", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_up_told_to_stop_while_triton_starts(running, sig):
    until(lambda: children(running.process.pid), 20)
    time.sleep(0.3)
    pids = [running.process.pid, *children(running.process.pid)]
    os.killpg(running.process.pid, sig)
    assert running.process.wait(120) == 0
    until(lambda: not any(alive(pid) for pid in pids), 2, "no process is left")
    assert "Traceback" not in running.log.read_text(), running.log.read_text()
