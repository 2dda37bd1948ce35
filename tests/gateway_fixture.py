"""Real gateways for tests: the `tidegate serve` command in a process of its own, on free ports.

`gateway` is a factory: `gateway(yaml_text, files={...})` writes the settings into a folder, starts the command,
waits until it is ready, and stops it after the test. In the text `$TRITON_HTTP` and `$TRITON_GRPC` are the
shared Triton's addresses; `listen` and `state_dir` are added when they are not said. `shared_gateway` is one
gateway for the whole run with every model passed through, for tests that change nothing.

`TIDEGATE_TEST_GRPC_ENGINE` is the engine of every gateway whose settings do not say one: the same tests hold for both.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from triton_fixture import RunningTriton, free_ports

START_SECONDS = 300.0
"""Half a second on a quiet machine; on one that others use too it may take a minute."""


@dataclass
class Answer:
    """An HTTP answer, whatever its status."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of the one error body; fails when the shape is another."""
        assert self.headers["content-type"] == "application/json", self.headers
        document = self.json()
        assert list(document) == ["error"], document
        assert isinstance(document["error"], str)
        return document["error"]


@dataclass
class Gateway:
    """A running `tidegate serve`."""

    folder: Path
    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "tidegate.yaml"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One HTTP request on a connection of its own."""
        request = urllib.request.Request(
            f"http://{self.http}{path}", data=body, method=method, headers=dict(headers or {})
        )
        if body is None and method == "POST":
            request.data = b""
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
        except HTTPError as error:
            with error:
                return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, document=None, headers: Mapping[str, str] | None = None) -> Answer:
        """POST a JSON document."""
        body = b"" if document is None else json.dumps(document).encode()
        return self.request("POST", path, body, {"content-type": "application/json", **(headers or {})})

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels; 0 when there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.get("/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until `/readyz` says so; fails with the log when the process ends or takes too long."""
        self._wait_for("/readyz", seconds)

    def wait_live(self, seconds: float = START_SECONDS) -> None:
        """Until the process answers at all."""
        self._wait_for("/healthz", seconds)

    def wait_for_all(self, begun: int) -> None:
        """Until every worker serves, of which the first that is ready answers pages: its log says so behind `begun`."""
        until = time.monotonic() + START_SECONDS
        while b"serving: " not in self.log.read_bytes()[begun:]:
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"not all workers serve:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _wait_for(self, page: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                pytest.fail(f"the gateway ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                if self.get(page).status == 200:
                    return
            except (URLError, OSError):
                pass
            time.sleep(0.05)
        pytest.fail(f"{page} was not 200 within {seconds} s:\n{self.log.read_text()}")

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 120.0) -> int:
        """Signal it and wait; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout)

    def log_lines(self) -> list[dict]:
        """Its JSON log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def with_engine(text: str) -> str:
    """Settings with the engine that the environment names, in front of what else `listen` says."""
    engine = os.environ.get("TIDEGATE_TEST_GRPC_ENGINE")
    if not engine or "grpc_engine" in text:
        return text
    key = f"grpc_engine: {engine}"
    text = re.sub(r"(?m)^listen: *\{", f"listen: {{{key}, ", text)
    return re.sub(r"(?m)^listen: *\n( +)", rf"listen:\n\1{key}\n\1", text)


def start_gateway(
    folder: Path,
    text: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    env: Mapping[str, str] | None = None,
    args: tuple[str, ...] = (),
    wait: str = "ready",
    under: tuple[str, ...] = (),
) -> Gateway:
    """Write the settings and start the command. `wait`: `ready`, `live` or `` for not at all.

    `under`: what the command is prefixed with; it must replace itself by the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    if not re.search(r"(?m)^ *listen:", text):
        text = f"listen: {{http: {http}, grpc: {grpc}}}\n{text}"
    if "state_dir:" not in text:
        text += "\nstate_dir: state\n"
    (folder / "tidegate.yaml").write_text(with_engine(text))
    for name, content in (files or {}).items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    log = folder / "gateway.log"
    environment = {**os.environ, **(env or {})}
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "gateway", "serve", "--config", str(folder / "tidegate.yaml"), *args],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    running = Gateway(folder, process, http, grpc, log, environment)
    try:
        if wait == "ready":
            running.wait_ready()
            if not re.search(r"level: *(warning|error)", text):
                running.wait_for_all(begun)
        elif wait == "live":
            running.wait_live()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return running


GatewayFactory = Callable[..., Gateway]


@pytest.fixture
def gateway(tmp_path: Path, triton: RunningTriton) -> Iterator[GatewayFactory]:
    """Starts gateways; all are stopped after the test."""
    running: list[Gateway] = []

    def start(text: str, **options) -> Gateway:
        text = text.replace("$TRITON_HTTP", triton.http).replace("$TRITON_GRPC", triton.grpc)
        one = start_gateway(tmp_path / f"gateway{len(running)}", text, **options)
        running.append(one)
        return one

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
    for one in running:
        try:
            one.process.wait(15)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory, triton: RunningTriton) -> Iterator[Gateway]:
    """One gateway in front of every model of the shared Triton, with no identity section."""
    text = f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}\n"
    running = start_gateway(tmp_path_factory.mktemp("shared-gateway"), text)
    yield running
    assert running.stop() == 0, running.log.read_text()
