"""Client libraries that need an environment of their own: `.venv-peers`, made from `requirements/peers.lock`.

It is made once and kept while the lock stays the same; that takes about a minute, so tests that use it are
`slow`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK = CHECKOUT / "requirements" / "peers.lock"
FOLDER = CHECKOUT / ".venv-peers"


def peers_python() -> Path:
    """The interpreter of the environment, which is made or renewed first."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "peers.lock"
    if not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*install, "--requirement", LOCK], check=True)
        stamp.write_bytes(LOCK.read_bytes())
    return python


def run_peer(script: Path, *args: str, seconds: float = 120) -> str:
    """Run a script in the environment; its output. Fails with what it wrote when it fails."""
    done = subprocess.run([peers_python(), script, *args], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
