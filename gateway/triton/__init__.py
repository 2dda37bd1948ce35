"""A Triton Inference Server managed by Tidegate: installed, started, supervised, stopped.

    interpreter.py   finds a Python 3.11 whose shared library Triton's Python backend can load
    install.py       makes the environment (`tidegate triton install`)
    launch.py        which server to run (PATH first, else the managed one), its arguments and environment
    supervise.py     `ManagedTriton`: start, readiness, restart with back-off, clean stop
    exec_child.py    the few lines that run between fork and Triton
    cli.py           `tidegate triton ...`

Nothing of it is needed when `upstreams` names servers that already run.
"""

from gateway.triton.errors import InstallFailed, TritonError, TritonFailed, Unsupported
from gateway.triton.install import install
from gateway.triton.launch import Installation, Launch, Listen, command, locate
from gateway.triton.supervise import ManagedTriton

__all__ = [
    "InstallFailed",
    "Installation",
    "Launch",
    "Listen",
    "ManagedTriton",
    "TritonError",
    "TritonFailed",
    "Unsupported",
    "command",
    "install",
    "locate",
]
