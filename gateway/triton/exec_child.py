"""Runs between fork and Triton: `python -I -S exec_child.py PARENT_PID CHANGES ARGV...`.

Asks the kernel to end this process when the gateway dies (a gateway killed with SIGKILL must not leave a
server on its ports), applies the environment CHANGES (JSON: {"set": {...}, "unset": [...]}) and becomes
Triton. A file of its own rather than a `preexec_fn`: that one is unsafe in a process with threads, and this
one's Python must not see Triton's LD_LIBRARY_PATH.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Become the server; does not return."""
    parent, changes, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the line above took effect
            sys.exit(1)
    wanted = json.loads(changes)
    environment = {key: value for key, value in os.environ.items() if key not in wanted["unset"]}
    os.execve(argv[0], argv, {**environment, **wanted["set"]})  # noqa: S606 - its very purpose


if __name__ == "__main__":
    main()
