"""The parts of the audit log that the settings ask for."""

from __future__ import annotations

from gateway.settings import Settings
from governance.audit.cosignature import parse_cosigner_key
from governance.audit.cosigning import Cosigning, WitnessAddress
from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.note import parse_vkey
from governance.audit.retention import REST, Class, Retention
from governance.audit.sequencing import Sequencing, sequencing_of
from governance.audit.witness import Witness
from governance.errors import GovernanceError
from governance.ports import DecisionLog, NoLog


def decision_log(settings: Settings) -> DecisionLog:
    """Where decisions are recorded. Blocks; raises as `AuditLog`."""
    audit = settings.audit
    if audit.mode == "off":
        return NoLog()
    return AuditLog(
        settings.state_dir,
        mode=audit.mode,
        erasure=audit.erasure,
        pseudonyms=audit.pseudonyms,
        origin=audit.origin,
        on_failure=audit.on_failure,
        standby=True,
    )


def retention(settings: Settings) -> Retention | None:
    """How long records are kept; None: for ever."""
    stated = settings.audit.retention
    if stated is None:
        return None
    classes = [
        Class(one.name, one.days, one.duty, frozenset(one.kinds), frozenset(one.models)) for one in stated.classes
    ]
    return Retention(stated.policy, Class(REST, stated.days, stated.duty), tuple(classes))


def sequencing(settings: Settings) -> Sequencing | None:
    """The sequencer of the supervisor; None: nothing is recorded, or a worker will say why it cannot be. Blocks."""
    if settings.audit.mode == "off":
        return None
    try:
        return sequencing_of(settings.state_dir, settings.audit.origin)
    except (GovernanceError, OSError):
        return None


def cosigning(settings: Settings) -> Cosigning:
    """What asks the witnesses; it is yet to be started."""
    asked = [WitnessAddress(one.url, parse_cosigner_key(one.key), one.ca) for one in settings.audit.witnesses]
    return Cosigning(Layout(settings.state_dir), asked)


def witness(settings: Settings) -> Witness | None:
    """This gateway as a witness; None: it is not one. Blocks; raises as `Witness`."""
    audit = settings.audit
    if audit.witness is None:
        return None
    return Witness(Layout(settings.state_dir), [parse_vkey(key) for key in audit.witness.logs], audit.origin)
