"""pycasbin itself, as its users run it: the oracle that our decisions are compared with.

Contract: the one place that imports casbin. File adapter, role manager and effector are pycasbin's own. It is
no part of any decision: one costs it 5 us for each rule, and its loader drops lines in silence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import casbin


class Reference:
    """pycasbin's verdicts on a model and a policy."""

    def __init__(self, model: str, policy: str) -> None:
        """Loads both, as texts, through pycasbin's own loaders. Raises what pycasbin raises."""
        with tempfile.TemporaryDirectory() as folder:
            conf, rules = Path(folder, "model.conf"), Path(folder, "policy.csv")
            conf.write_text(model, "utf-8")
            rules.write_text(policy, "utf-8")
            self._enforcer = casbin.Enforcer(str(conf), str(rules), enable_log=False)

    def allows(self, request: Sequence[str]) -> bool:
        """Its verdict. Raises what pycasbin raises."""
        return self._enforcer.enforce(*request) is True

    def explained(self, request: Sequence[str]) -> tuple[bool, list[str]]:
        """Its verdict, and the rule that it names for it (none: empty)."""
        allow, rule = self._enforcer.enforce_ex(*request)
        return allow is True, list(rule)
