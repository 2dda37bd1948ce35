"""Value objects that cross the border between gateway and governance. Frozen, normalised once at the edge."""

from __future__ import annotations

import msgspec


class Subject(msgspec.Struct, frozen=True, cache_hash=True):
    """Who asks: an authenticated caller, or the anonymous one.

    `user` and `tenant` are bare names; in the policy they are written `user:NAME` and TENANT.
    """

    user: str
    tenant: str
    roles: tuple[str, ...] = ()
    """Roles that the credential itself carries (a token's claims), without the `role:` prefix."""
    method: str = "anonymous"
    """How the caller proved it: `api_key`, `jwt`, `mtls` or `anonymous`."""

    @property
    def id(self) -> str:
        """The subject as the policy and the assignment formula spell it."""
        return "user:" + self.user


class Decision(msgspec.Struct, frozen=True):
    """What the policy said: the verdict and the line of the rule that decided (None: default)."""

    allow: bool
    line: int | None = None


class Finding(msgspec.Struct, frozen=True):
    """Something wrong in a file that a person wrote, and where."""

    file: str
    line: int
    column: int
    severity: str
    """`error` or `warning`."""
    code: str
    message: str
    fix: str | None = None
    """What to write instead of the line, where that is sure or likely."""
    witness: tuple[str, ...] | None = None
    """A request that shows it."""

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: severity: message [code]`, as compilers print it."""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message} [{self.code}]"
