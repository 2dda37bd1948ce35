"""Free ports, and waiting for one to answer."""

import socket
import subprocess
import time
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(address: str, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    """Until somebody listens there. RuntimeError when the process ends or the time is over."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} before it listened on {address}")
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nobody listens on {address} after {seconds:.0f} s")
