"""`make serve` as a reader has it, for the documentation: `tidegate up` on a copy of `deploy/local`.

A Triton of its own, since what the pages show (start-up lines, the index, spans) depends on how it is started.
Addresses in the pages are the defaults; the copy listens on free ports, and texts are translated both ways.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from doc_blocks import CHECKOUT, Block, blocks
from triton_fixture import free_ports, installed

START_SECONDS = 300.0
PAGE_SECONDS = 400.0
_MARKER = "#=#=# "
_INTERPRETERS = {"python": "python", "js": "node"}
_PORTS = {
    "HTTP_PORT": "8080",
    "GRPC_PORT": "8081",
    "TRITON_HTTP_PORT": "8000",
    "TRITON_GRPC_PORT": "8001",
    "TRITON_METRICS_PORT": "8002",
    "OTLP_PORT": "4318",
    "OTLP_GRPC_PORT": "4317",
}


def _exchange(text: str, ports: dict[str, str]) -> str:
    """The text with other ports; one pass, so that none is exchanged twice."""
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda found: ports.get(found[0], found[0]), text)


@dataclass
class Demo:
    """The running demo deployment."""

    folder: Path
    log: Path
    ports: dict[str, str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def here(self, text: str) -> str:
        """A page's text with this deployment's addresses."""
        return _exchange(text, {_PORTS[name]: port for name, port in self.ports.items()})

    def there(self, text: str) -> str:
        """What was printed, with the addresses that the pages have."""
        back = _exchange(text, {port: _PORTS[name] for name, port in self.ports.items()})
        return back.replace(str(self.folder), "…")

    def run_page(self, page: Path) -> list[tuple[Block, str]]:
        """Run a page's blocks in one shell; each with what it printed. Fails at the first that fails."""
        runnable = [block for block in blocks(page) if block.mark == "run" and _can_run(block)]
        # Background jobs end with the shell.
        script = ["set -Eeuo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
        for number, block in enumerate(runnable):
            script.append(f"echo; echo '{_MARKER}{number}'")
            text = self.here(block.text)
            if block.language in _INTERPRETERS:
                text = f"{_INTERPRETERS[block.language]} - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"
            if block.option == "background":
                text = f"{{ {text.rstrip()}\n}} >/dev/null 2>&1 &\nsleep 1\n"
            script.append(text)
        script.append(f"echo; echo '{_MARKER}end'")
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PAGE_SECONDS,
            check=False,
        )
        parts = self.there(done.stdout.decode(errors="replace")).split("\n" + _MARKER)[1:]
        printed = [part.partition("\n")[2] for part in parts]
        if done.returncode:
            failed = runnable[min(len(parts), len(runnable)) - 1]
            pytest.fail(f"{failed.place}: ended with {done.returncode}:\n{printed[-1]}\n{failed.text}")
        return list(zip(runnable, printed, strict=False))

    def restore(self) -> None:
        """Settings and policy as they were, in force again."""
        changed = False
        for file in (CHECKOUT / "deploy/local").iterdir():
            copy = self.folder / "deploy/local" / file.name
            if file.is_file() and copy.read_bytes() != file.read_bytes():
                shutil.copyfile(file, copy)
                changed = True
        if changed:
            # Two looks at the files, 0.7 s apart, and the time to compile them.
            time.sleep(3)


def _can_run(block: Block) -> bool:
    """Whether this machine has what a block needs; every other block must run."""
    assert block.language in {"sh", *_INTERPRETERS}, f"{block.place}: cannot run {block.language!r}"
    if block.option == "kserve":
        return False
    return block.language != "js" or shutil.which("node") is not None


def start(folder: Path) -> Demo:
    """Start it and wait until it serves."""
    installed()
    shutil.copytree(CHECKOUT / "deploy/local", folder / "deploy/local", ignore=shutil.ignore_patterns("state"))
    (folder / "model_repository").symlink_to(CHECKOUT / "model_repository")
    for environment in (".venv", ".venv-client", ".venv-trace"):
        (folder / environment).symlink_to(sys.prefix)
    ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        **{name: port for name, port in ports.items() if not name.startswith("OTLP_")},
        "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*("tidegate", "up", "deploy/local", "--triton-root"), str(CHECKOUT / ".triton")],
            cwd=folder,
            # The tour's step with traces starts it so; before that step nobody listens there.
            env={**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports['OTLP_PORT']}"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    demo = Demo(folder, log, ports, environment, process)
    until = time.monotonic() + START_SECONDS
    while "Ctrl-C stops both" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['HTTP_PORT']}/readyz", timeout=60) as ready:
        assert ready.status == 200
    return demo


def stop(demo: Demo) -> None:
    """Ctrl-C, and nothing is left."""
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(120) == 0, demo.log.read_text()
