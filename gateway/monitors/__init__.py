"""Step 9, drift: what a route's callers send, held against the profile that its model was made with.

The files: `tiles` (what all had counted when), `past` (from there to the store, and back for windows), `left` (the same
of monitors that are gone), `board` (the monitors of this worker, which count in `gateway.shards`, and the reports of
all workers), `alarms` (when drift is worth somebody's time), `meters` (reports as metrics, and the one worker that
looks). What is counted is `kernels.drift`, what is computed of it `governance.monitor.live`.
"""

from __future__ import annotations

from gateway.monitors.board import Board, Monitor, MonitorError, MonitorReport
from gateway.monitors.past import History

__all__ = ["Board", "History", "Monitor", "MonitorError", "MonitorReport"]
