"""Step 9, fairness: on whom a route decides what, counted by declared groups while it serves.

The files: `reading` (whose group, and what was decided), `board` (the watches of this worker, which count in
`gateway.shards`, and the reports of all workers), `pending` and `joining` (people who are told of later), `alerts`.
What is counted is `kernels.groups`, what is said of it `governance.fairness.online` and `governance.fairness.alert`.
Who somebody is, is never written down: counts are all that stays.
"""

from __future__ import annotations

from gateway.fairness.board import Board, FairnessError, Watch

__all__ = ["Board", "FairnessError", "Watch"]
