"""Step 9, drift: what a route's callers send, held against the profile that its model was made with.

The files: `shards` (where one worker counts), `tiles` (what all had counted when, for windows), `board` (the monitors
of this worker, and the reports of all workers), `alarms` (when drift is worth somebody's time), `meters` (reports as
metrics, and the one worker that looks). What is counted is `kernels.drift`, what
is computed of it `governance.monitor.live`.
"""

from __future__ import annotations

from gateway.monitors.board import Board, Monitor, MonitorError, MonitorReport

__all__ = ["Board", "Monitor", "MonitorError", "MonitorReport"]
