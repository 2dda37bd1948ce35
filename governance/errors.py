"""Every error of governance.

    GovernanceError
    ├── PolicyError          a policy, or a test of it, that cannot take effect; `findings` says what and where
    ├── DataError            data that cannot be read or compared
    ├── CardError            a model card that is none; `findings` says what and where
    ├── PackError            a compliance pack that is none; `findings` says what and where
    ├── AuditError           the audit log
    │   ├── AuditInputError  a file or argument that cannot be read as what it should be; says file and remedy
    │   ├── AuditUnavailable a record cannot be made durable now: refuse what would need it, and try again
    │   └── AuditBroken      the log's own files contradict each other: stop, never guess
    ├── RegistryError        the registry of models
    │   ├── RegistryRefused  a step that may not be made; the text says why
    │   ├── RegistryInputError  a file that it needs cannot be read as what it should be; says file and remedy
    │   └── RegistryBroken   a history that nobody could have made: stop, never guess
    ├── WebhookError         a webhook that cannot be signed or sent; says why, and nothing of its secret
    └── StoreError           the database cannot be used now; says which and why

A refusal is no error here: it is a `Decision` that does not allow. Nor is a log that does not verify: that is
findings.
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


class PackError(GovernanceError):
    """A compliance pack that is none. The text names each fault with file, line and remedy."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = tuple(findings)


class AuditError(GovernanceError):
    """Base of the audit log's errors."""


class AuditInputError(AuditError):
    """A file or argument cannot be used. The text is one line: file, what is wrong, remedy."""


class AuditUnavailable(AuditError):
    """A record cannot be made durable now (full disk, failed fsync, a queue that is full).

    Whoever must not act unrecorded answers 503 and may be asked again.
    """


class AuditBroken(AuditError):
    """The files of the log contradict each other, or a step of it failed in a way that must not be repeated.

    Going on could fork the log. The text says which file, and what to do.
    """


class RegistryError(GovernanceError):
    """Base of the registry's errors."""


class RegistryRefused(RegistryError):
    """A step that may not be made: by the policy, the state machine or a gate."""


class RegistryInputError(RegistryError):
    """A file or argument cannot be used. The text is one line: file, what is wrong, remedy."""


class RegistryBroken(RegistryError):
    """Stored steps contradict each other: somebody has changed them, or the database is damaged."""


class WebhookError(GovernanceError):
    """A webhook's secret cannot be used, or its endpoint gives no answer. One line, without the secret."""


class StoreError(GovernanceError):
    """The database cannot be opened, read or written. One line, without its URL's password."""
