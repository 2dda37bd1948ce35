"""`tidegate triton install` and `tidegate triton start`.

`add_parser` hangs them under the `tidegate` command, `run` carries one out and returns the exit status:
0 done, 1 failed (one message with its remedy on stderr), 130 ended by Ctrl-C during an install.
With `--format json` every line of output is one JSON object with `event` and `message`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.triton.errors import TritonError
from gateway.triton.install import SERVER_VERSION, install
from gateway.triton.launch import Launch, Listen, command, locate
from gateway.triton.supervise import ManagedTriton

ROOT = Path(".triton")
"""Where the managed server lives unless told otherwise: in the working directory, as `.venv` would."""

_INSTALL_EXAMPLES = """\
examples:
  tidegate triton install
      into ./.triton, with a python3.11 found on PATH; a second run finds it and returns at once
  tidegate triton install --root /opt/tidegate/triton --python /usr/bin/python3.11
"""
_START_EXAMPLES = """\
examples:
  tidegate triton start
      every model of ./model_repository on 8000 (HTTP), 8001 (gRPC), 8002 (metrics); Ctrl-C stops it
  tidegate triton start --model-repository my_models --http-port 9000 --grpc-port 9001 --metrics-port 9002
  tidegate triton start --otlp http://127.0.0.1:4318
      with spans of the requests that carry a traceparent
  tidegate triton start -- --log-verbose=1
      what follows -- goes to tritonserver as it is
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `triton` with its two subcommands."""
    triton = subparsers.add_parser(
        "triton",
        help="install or try the managed Triton Inference Server",
        description="A Triton Inference Server of its own, for machines without containers.",
    )
    verbs = triton.add_subparsers(dest="triton_command", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    installs = verbs.add_parser(
        "install",
        help=f"install Triton {SERVER_VERSION} (Linux x86-64)",
        description=f"Install Triton {SERVER_VERSION} with its Python backend, to the hash.",
        epilog=_INSTALL_EXAMPLES,
        formatter_class=raw,
    )
    installs.add_argument("--python", type=Path, metavar="PATH", help="the Python 3.11 to use (default: found)")
    starts = verbs.add_parser(
        "start",
        help="run Triton in the foreground, restarted when it crashes",
        description="Run Triton in the foreground: `tritonserver` on PATH, else the managed one.",
        epilog=_START_EXAMPLES,
        formatter_class=raw,
    )
    add_start_arguments(starts)
    starts.add_argument("extra", nargs="*", metavar="-- ARG", help="further arguments of tritonserver")
    for parser in (installs, starts):
        parser.add_argument(
            "--root", type=Path, default=ROOT, help="folder of the managed server (default: %(default)s)"
        )
        parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
    triton.set_defaults(run=run)


def add_start_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how Triton runs."""
    parser.add_argument(
        "--model-repository",
        type=Path,
        action="append",
        metavar="DIR",
        help="may be given several times (default: model_repository)",
    )
    parser.add_argument("--host", default=Listen().host, help="address to listen on (default: %(default)s)")
    for purpose, port in Listen().ports().items():
        name = f"--{purpose.lower()}-port"
        parser.add_argument(name, type=_port, default=port, metavar="PORT", help="default: %(default)s")
    parser.add_argument("--otlp", metavar="URL", help="OTLP/HTTP endpoint for Triton's spans")
    parser.add_argument(
        "--log",
        type=Path,
        default=Path("triton.log"),
        metavar="FILE",
        help="Triton's output (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out what `add_parser` parsed."""
    say = _printer(args.format)
    try:
        if args.triton_command == "install":
            found = install(args.root, args.python, lambda line: say("progress", line))
            say("installed", f"{found.server}")
            return 0
        return asyncio.run(_start(launch_from(args), args.log, say))
    except TritonError as error:
        say("error", str(error))
        return 1
    except KeyboardInterrupt:
        say("error", "interrupted; run the same command again to go on")
        return 130


def launch_from(args: argparse.Namespace) -> Launch:
    """The server that `add_start_arguments`, `--root` and the arguments after `--` describe."""
    return command(
        locate(args.root),
        repositories=args.model_repository or [Path("model_repository")],
        listen=Listen(args.http_port, args.grpc_port, args.metrics_port, args.host),
        otlp=args.otlp,
        extra=args.extra,
    )


async def _start(launch: Launch, log: Path, say: Callable[[str, str], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = ManagedTriton(launch, log, report=lambda message: say("supervision", message))
    say("progress", f"starting {launch.argv[0]}, log in {log}")
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done() and not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return 0
    try:
        await starting
        host = launch.listen.host
        say("ready", ", ".join(f"{what} {host}:{port}" for what, port in launch.listen.ports().items()))
        await stopping
    finally:
        stopping.cancel()
        await server.stop()
    say("stopped", "Triton has stopped")
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")
    return number


def _printer(style: str) -> Callable[[str, str], None]:
    def say(event: str, message: str) -> None:
        stream = sys.stderr if event == "error" else sys.stdout
        if style == "json":
            line = json.dumps({"event": event, "message": message})
        else:
            line = f"tidegate: {message}" if event == "error" else message
        print(line, file=stream, flush=True)

    return say
