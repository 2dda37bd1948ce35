"""Which Triton to run, and how: `locate` finds one, `command` makes argv and environment for it.

A `tritonserver` on PATH wins: whoever installed it wants it. Else the managed one under ROOT, if installed.

What the managed one needs, and why:
- PATH begins with its environment's `bin`. The Python backend's stub ignores PYTHONPATH (it starts Python in
  isolated mode) and finds its packages by the `python3` that PATH names, so this is what keeps the machine's
  own numpy out of it. A numpy 2 there would return wrong tensors.
- LD_LIBRARY_PATH holds one folder with a link to libpython3.11.so.1.0 and nothing else, so that no other
  library of that folder shadows the wheel's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from gateway.triton.errors import REMEDY, TritonError

EXIT_SECONDS = 10
"""How long Triton waits for requests in flight when told to end. Its own default is 30; a model whose backend
process has died makes it wait all of that, and the gateway has already drained."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A server that can be started."""

    server: Path
    """The `tritonserver` binary."""
    backends: Path | None = None
    """Its backend directory; None for the server's own default."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables it needs beside the caller's."""
    managed: bool = False


@dataclass(frozen=True, slots=True)
class Listen:
    """Where Triton listens. One address for all three, loopback unless told otherwise."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    host: str = "127.0.0.1"

    def ports(self) -> dict[str, int]:
        """Port by purpose."""
        return {"HTTP": self.http, "gRPC": self.grpc, "metrics": self.metrics}


@dataclass(frozen=True, slots=True)
class Launch:
    """One server process to be: what `ManagedTriton` starts, as often as it has to."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """What is set beside the inherited variables."""
    listen: Listen
    shm_prefix: str
    """Begins the name of every shared memory region of its backends, so that a killed server's can be
    removed."""
    unset: tuple[str, ...] = ()
    """Inherited variables that must not reach it."""


def managed(root: Path) -> Installation:
    """The managed installation under `root`, whether or not it is there."""
    env = root.absolute() / "env"
    tree = env / "lib/python3.11/site-packages/pytriton/tritonserver"
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return Installation(
        server=tree / "bin/tritonserver",
        backends=tree / "backends",
        environment={
            "PATH": os.pathsep.join((str(env / "bin"), os.environ.get("PATH", os.defpath))),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(root.absolute() / "lib"), inherited))),
        },
        managed=True,
    )


def locate(root: Path) -> Installation:
    """The Triton to run: the one on PATH, else the managed one under `root`.

    Raises:
        TritonError: neither is there.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return Installation(server=Path(on_path))
    found = managed(root)
    if not (root / "installed.json").exists() or not found.server.exists():
        raise TritonError(
            f"no `tritonserver` on PATH and none in {root}: run `tidegate triton install --root {root}`, or {REMEDY}."
        )
    return found


def command(
    installation: Installation,
    *,
    repositories: Sequence[Path],
    listen: Listen,
    otlp: str | None = None,
    extra: Sequence[str] = (),
) -> Launch:
    """Arguments and environment for a server over `repositories`.

    Args:
        installation: from `locate` or `install`.
        repositories: model repositories; every model in them is loaded.
        listen: its ports.
        otlp: an OTLP/HTTP endpoint (`http://HOST:PORT`, or the full URL of its traces path). With it, Triton
            sends spans of the requests that carry a `traceparent`, and of no others (`rate=0`).
        extra: further `tritonserver` arguments, last so that they win.

    Raises:
        TritonError: a repository is no folder, or there is none.
    """
    if not repositories:
        raise TritonError("Triton needs at least one model repository: name one with --model-repository DIR.")
    for repository in repositories:
        if not repository.is_dir():
            raise TritonError(f"model repository {repository} is not a folder: name one with --model-repository DIR.")
    prefix = f"tidegate_{uuid4().hex[:12]}_"
    argv = [str(installation.server), *(f"--model-repository={path.absolute()}" for path in repositories)]
    if installation.backends is not None:
        argv.append(f"--backend-directory={installation.backends}")
    argv += [
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--exit-timeout-secs={EXIT_SECONDS}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--http-address={listen.host}",
        f"--http-port={listen.http}",
        f"--grpc-address={listen.host}",
        f"--grpc-port={listen.grpc}",
        f"--metrics-address={listen.host}",
        f"--metrics-port={listen.metrics}",
    ]
    if otlp is not None:
        for setting in (
            "mode=opentelemetry",
            "rate=0",
            "level=TIMESTAMPS",
            f"opentelemetry,url={traces_url(otlp)}",
        ):
            argv += ["--trace-config", setting]
    # The gateway's own Python settings are nothing to the managed server; another one may count on them.
    unset = ("PYTHONHOME", "PYTHONPATH") if installation.managed else ()
    return Launch((*argv, *extra), dict(installation.environment), listen, prefix, unset)


def traces_url(endpoint: str) -> str:
    """The traces URL of an OTLP/HTTP endpoint: a bare `http://HOST:PORT` gets OTLP's own path `/v1/traces`.

    Raises:
        TritonError: not an http(s) URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise TritonError(f"{endpoint!r} is no OTLP/HTTP endpoint: write http://HOST:PORT.")
    return urlunsplit(parts if parts.path.strip("/") else parts._replace(path="/v1/traces"))
