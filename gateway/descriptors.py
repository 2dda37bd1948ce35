"""How many file descriptors a process may hold (RLIMIT_NOFILE, getrlimit(2)).

Contract: the soft limit is raised to the hard one once, in the supervisor; workers inherit it. Each client
connection holds a descriptor, and the soft limit that systems start programs with, 1024, is there for programs that
use select(2), of which this is none (systemd's advice for daemons is the same). What a worker may need is bounded
by `limits.connections` on each door and `upstreams.NAME.connections`.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable

SPARE = 256
"""Of a worker beyond its connections: tables, logs, listening sockets, channels, files that are read again."""


def raise_limit() -> tuple[int, int]:
    """Raise the soft limit as far as this user may.

    Returns:
        The soft limit before, and what it is now; `resource.RLIM_INFINITY` counts as the largest number.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; the old limit then holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _number(soft), _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def needed(doors: int, connections: int, upstreams: Iterable[int]) -> int:
    """Descriptors that one worker may come to hold.

    Args:
        doors: listening addresses.
        connections: `limits.connections`, which holds for each door.
        upstreams: most connections to each replica.
    """
    return doors * connections + sum(upstreams) + SPARE


def _number(limit: int) -> int:
    return 1 << 63 if limit == resource.RLIM_INFINITY else limit
