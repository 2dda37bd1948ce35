"""What the figures were taken on."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import msgspec

_PACKAGES = ("uvloop", "httptools", "uvicorn", "litestar", "grpcio", "msgspec", "numpy")


class Machine(msgspec.Struct):
    """Processor, cores, memory, system."""

    name: str
    """Of the results' folder: the processor in short, and its cores."""
    cpu: str
    cores: int
    memory_gib: float | None
    system: str
    load_average: float
    """Before the run."""


def machine() -> Machine:
    """This one."""
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    cpu, cores = _cpu(), len(os.sched_getaffinity(0))
    short = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", cpu.lower()))[:4])
    return Machine(
        name=f"{short or 'unknown'}-{cores}c",
        cpu=cpu,
        cores=cores,
        memory_gib=round(int(memory[1]) / 1024**2, 1) if memory else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        load_average=round(os.getloadavg()[0], 2),
    )


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
