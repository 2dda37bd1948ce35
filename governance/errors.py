"""Every error of governance.

    GovernanceError
    ├── PolicyError     a policy, or a test of it, that cannot take effect; `findings` says what and where
    ├── DataError       data that cannot be read or compared
    └── CardError       a model card that is none; `findings` says what and where

A refusal is no error here: it is a `Decision` that does not allow.
"""

from __future__ import annotations

from collections.abc import Sequence

from governance.types import Finding


class GovernanceError(Exception):
    """Base of this package's errors."""


class PolicyError(GovernanceError):
    """A policy that cannot take effect. The text names each fault with file, line and remedy."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = tuple(findings)


class DataError(GovernanceError):
    """Data that cannot be read or compared. One line with file, place and remedy."""


class CardError(GovernanceError):
    """A model card that is none. The text names each fault with file, line and remedy."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = tuple(findings)
