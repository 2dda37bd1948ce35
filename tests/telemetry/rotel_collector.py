"""A third party's OTLP collector: `rotel`, a Rust program in a PyPI wheel. It takes OTLP and hands it on."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triton_fixture import free_ports


@contextmanager
def running_rotel(folder: Path, endpoint: str, protocol: str = "http") -> Iterator[dict[str, str]]:
    """Yields its own endpoints by protocol; what they take goes on to `endpoint` (`protocol`: http or grpc)."""
    found = importlib.util.find_spec("rotel")
    assert found is not None
    assert found.origin is not None
    grpc_port, http_port = free_ports(2)
    command = [
        *(Path(found.origin).with_name("rotel-agent"), "start"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}"),
        *("--pid-file", folder / "rotel.pid", "--log-file", folder / "rotel.log", "--batch-timeout", "100ms"),
        *("--exporter", "otlp", "--otlp-exporter-protocol", protocol),
        *("--otlp-exporter-endpoint", endpoint, "--otlp-exporter-compression", "gzip"),
    ]
    with (folder / "rotel.out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", grpc_port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "rotel.out").read_text()
                assert time.monotonic() < deadline, "rotel does not listen"
                time.sleep(0.05)
        yield {"grpc": f"http://127.0.0.1:{grpc_port}", "http/protobuf": f"http://127.0.0.1:{http_port}"}
    finally:
        process.terminate()
        process.wait(60)
