"""What the figures were taken on."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("uvloop", "httptools", "uvicorn", "litestar", "grpcio", "msgspec", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system."""
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 1024**2, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    for name in ("model name", "Model", "Hardware"):
        found = re.search(rf"^{name}\s*: (.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Python, the packages on the hot path, and the clients."""
    found = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    for client, argument in (("wrk", "-v"), ("h2load", "--version")):
        if shutil.which(client):
            done = subprocess.run([client, argument], capture_output=True, text=True, check=False)
            words = (done.stdout or done.stderr).splitlines()[0].split()
            found[client] = next((word.rpartition("/")[2] for word in words if word[-1:].isdigit()), "unknown")
    return found
