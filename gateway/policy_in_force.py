"""Which policy the settings put in force: the file's, or under change control the one that was agreed to.

Contract: with `policy.approvals` an edited file is a draft. The first policy ever seen is adopted; from then on
the ledger in `state_dir/policy` says what is in force (`governance/policy/changes.py`), for every worker alike.
"""

from __future__ import annotations

import datetime as dt

from gateway import logs
from gateway.settings import Policy, Settings
from governance.errors import PolicyError
from governance.policy import GATEWAY_FIELDS, PolicySnapshot, policy_digest
from governance.policy.changes import ChangeError, Ledger
from governance.policy.snapshot import read_policy
from governance.types import Finding

_log = logs.get("policy")


def ledger_of(settings: Settings) -> Ledger:
    """The change control of a gateway's policy."""
    return Ledger(settings.state_dir / "policy")


def load_policy(settings: Settings, named: Policy) -> PolicySnapshot:
    """The policy in force.

    Args:
        settings: all of them.
        named: their `policy`.

    Raises:
        PolicyError: with every finding; also when the ledger cannot be read or trusted.
    """
    if not named.approvals:
        return PolicySnapshot.load(named.file, named.tests, model=named.model, fields=GATEWAY_FIELDS)
    ledger = ledger_of(settings)
    data = read_policy(named.file)
    tests = None if named.tests is None else (read_policy(named.tests), str(named.tests))
    try:
        hashed = ledger.state().in_force(dt.datetime.now(dt.UTC))
        if hashed is None:
            policy = PolicySnapshot.compile(data, str(named.file), tests=tests)  # only what holds is adopted
            hashed = ledger.adopt(data)
            if hashed == policy.hash:
                return policy
        if hashed == policy_digest(data, None):
            return PolicySnapshot.compile(data, str(named.file), tests=tests)
        _log.warning(
            "%s is a draft: `tidegate policy propose` asks for approvals",
            named.file,
            extra={"fields": {"policy": hashed, "draft": policy_digest(data, None)}},
        )
        return PolicySnapshot.compile(ledger.text(hashed), f"{named.file} as approved", judge=False)
    except (ChangeError, OSError) as error:
        why = str(error) if isinstance(error, ChangeError) else f"{ledger.file}: {error.strerror}"
        raise PolicyError([Finding(str(named.file), 1, 1, "error", "change-control", why)]) from None


def policy_of(settings: Settings) -> PolicySnapshot:
    """The policy that the settings name, or the default one.

    Raises:
        PolicyError: with every finding of severity `error`.
    """
    if settings.policy is not None:
        return load_policy(settings, settings.policy)
    if settings.identity is not None:
        return PolicySnapshot.open_models()
    return PolicySnapshot.allow_all()


def pulse(settings: Settings) -> tuple[int, ...]:
    """What changes when another policy is agreed to, or an emergency change expires."""
    if settings.policy is None or not settings.policy.approvals:
        return ()
    ledger = ledger_of(settings)
    try:
        found = ledger.file.stat()
        emergency = ledger.state().emergency(dt.datetime.now(dt.UTC))
    except (ChangeError, OSError):
        return (0,)
    return found.st_ino, found.st_size, int(emergency is not None), found.st_mtime_ns
