"""`tidegate serve` and `tidegate up`: the gateway alone, or with a Triton of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from gateway import logs
from gateway.errors import SettingsError
from gateway.ports import PortInUseError
from gateway.settings import Settings
from gateway.settings.file import load
from gateway.supervisor import StateDirError, Supervisor
from gateway.takeover import TakeoverError
from gateway.triton import Listen, ManagedTriton, TritonError, command, locate

_log = logs.get("serve")

_SERVE_EPILOG = """\
examples:
  tidegate serve --config tidegate.yaml
  tidegate serve --config tidegate.yaml --workers 4
  tidegate serve --config tidegate.yaml --takeover

a minimal tidegate.yaml:
  listen: {http: 127.0.0.1:8080, grpc: 127.0.0.1:8081}
  upstreams: {triton: {http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}}

signals: SIGHUP reads settings, policy and keys again (so does a change of the files, within 5 s);
SIGUSR2 replaces the workers one after another without losing a request (new code, for example);
SIGTERM and Ctrl-C let requests in flight finish for `drain` (30s), then stop; a second one stops at once.
exit status: 0 stopped when told to; 2 it could not start, and one line says why
"""

_UP_EPILOG = """\
examples:
  tidegate up deploy/local
  HTTP_PORT=9080 GRPC_PORT=9081 tidegate up deploy/local

DIR holds tidegate.yaml. The variables HTTP_PORT (8080), GRPC_PORT (8081), TRITON_HTTP_PORT (8000),
TRITON_GRPC_PORT (8001) and TRITON_METRICS_PORT (8002) choose the ports; tidegate.yaml may refer to them as
${HTTP_PORT} and so on. Triton is `tritonserver` on PATH, else the one that `tidegate triton install` made.
"""

# Where `tidegate up` listens when the environment does not say otherwise.
_DEFAULT_PORTS = {
    "HTTP_PORT": "8080",
    "GRPC_PORT": "8081",
    "TRITON_HTTP_PORT": "8000",
    "TRITON_GRPC_PORT": "8001",
    "TRITON_METRICS_PORT": "8002",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both commands."""
    serve = subparsers.add_parser(
        "serve",
        help="run the gateway in front of model servers that already run",
        epilog=_SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
    serve.add_argument("--workers", type=_positive, metavar="N", help="serving processes; overrides `workers`")
    serve.add_argument(
        "--takeover",
        action="store_true",
        help="take ports and state_dir over from the gateway that runs on them, which then drains and leaves",
    )
    serve.set_defaults(run=run_serve)

    up = subparsers.add_parser(
        "up",
        help="run a Triton and the gateway in front of it",
        epilog=_UP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    up.add_argument(
        "dir", nargs="?", type=Path, default=Path("deploy/local"), metavar="DIR", help="default: deploy/local"
    )
    up.add_argument("--workers", type=_positive, metavar="N", help="serving processes; overrides `workers`")
    up.add_argument(
        "--model-repository",
        type=Path,
        action="append",
        metavar="PATH",
        help="default: DIR/model_repository, else ./model_repository; may be given several times",
    )
    up.add_argument("--triton-root", type=Path, default=Path(".triton"), metavar="PATH", help="default: .triton")
    up.set_defaults(run=run_up)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 256, not {text!r}")
    return int(text)


def run_serve(args: argparse.Namespace) -> int:
    """The gateway alone."""
    return _guarded(lambda: asyncio.run(_serve(_supervisor(args.config, args.workers, take=args.takeover))))


def run_up(args: argparse.Namespace) -> int:
    """Triton, then the gateway; both stop together."""

    def run() -> int:
        for name, port in _DEFAULT_PORTS.items():
            os.environ.setdefault(name, port)
            _port(name)
        return asyncio.run(_up(args))

    return _guarded(run)


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except SettingsError as error:
        for finding in error.findings:
            if finding.severity == "error":  # warnings do not keep it from starting; `tidegate check` shows them
                print(finding, file=sys.stderr)
    except (PortInUseError, StateDirError, TakeoverError, TritonError) as error:
        print(f"tidegate: {error}", file=sys.stderr)
    return 2


def _supervisor(config: Path, workers: int | None, *, take: bool = False) -> Supervisor:
    settings, findings = load(config)
    if settings is None:
        raise SettingsError(findings)
    logs.configure(settings.log)
    for finding in findings:
        if finding.file == str(config):  # what a policy's lint suggests is for `tidegate check`
            _log.warning("%s", finding)
    supervisor = Supervisor(config.absolute(), settings, workers or settings.workers)
    supervisor.prepare(take=take)
    return supervisor


async def _serve(supervisor: Supervisor) -> int:
    def announce(addresses: dict[str, str]) -> None:
        shown = ", ".join(f"{name} {address}" for name, address in addresses.items())
        _log.info("serving: %s", shown, extra={"fields": addresses})

    return await supervisor.run(announce)


async def _up(args: argparse.Namespace) -> int:
    supervisor = _supervisor(args.dir / "tidegate.yaml", args.workers)
    triton = ManagedTriton(
        command(
            locate(args.triton_root),
            repositories=args.model_repository or [_model_repository(args.dir)],
            listen=Listen(
                http=_port("TRITON_HTTP_PORT"),
                grpc=_port("TRITON_GRPC_PORT"),
                metrics=_port("TRITON_METRICS_PORT"),
            ),
            otlp=_otlp_http(supervisor.settings),
        ),
        supervisor.settings.state_dir / "triton.log",
    )
    print("==> starting Triton and loading its models (its log: state_dir/triton.log)", file=sys.stderr)
    try:
        if not await _started(triton):
            return 0
        print("==> Triton is ready", file=sys.stderr)

        def announce(addresses: dict[str, str]) -> None:
            print(
                f"==> Tidegate serves HTTP on {addresses['http']} and gRPC on {addresses.get('grpc', '-')}; "
                "Ctrl-C stops both\n"
                f"    try: curl http://{addresses['http']}/v2/models/income",
                file=sys.stderr,
            )

        return await supervisor.run(announce)
    finally:
        await triton.stop()


async def _started(triton: ManagedTriton) -> bool:
    """Start it; False when a signal said to stop before it was ready."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, told.set)
    starting = asyncio.create_task(triton.start())
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    starting.result()
    return not told.is_set()


def _model_repository(directory: Path) -> Path:
    beside = directory / "model_repository"
    return beside if beside.is_dir() else Path("model_repository")


def _port(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise TritonError(f"{name}={text!r} is no port; set it to a number from 1 to 65535")
    return int(text)


def _otlp_http(settings: Settings) -> str | None:
    """Where Triton may send its spans: to the gateway's own endpoint, when that is OTLP over HTTP."""
    from gateway.otlp import endpoint_of  # noqa: PLC0415  the SDK is for workers; only `up` asks for this

    traces = settings.telemetry.traces
    found = endpoint_of("traces", traces.endpoint, traces.protocol, os.environ)
    if found is None or found[1] != "http/protobuf":
        return None
    if found[0] is not None:
        return found[0]
    exact = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exact or os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].rstrip("/") + "/v1/traces"
