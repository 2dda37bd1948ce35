"""What is wrong with the `audit` section."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.settings.audit import Retention, RetentionClass
from gateway.settings.checker import Checker
from governance.audit.cosignature import parse_cosigner_key
from governance.audit.note import NoteError, parse_vkey
from governance.audit.retention import FLOORS, MOST_CLASSES, MOST_NAME, MOST_TEXT, REST
from governance.documents.convert import Place, dotted


def audit(settings: Settings, check: Checker) -> None:
    """The whole section."""
    section = settings.audit
    if section.mode == "strict" and section.on_failure == "serve":
        message = (
            "`audit.on_failure: serve` contradicts `audit.mode: strict`, which answers nothing unrecorded: remove one"
        )
        check.error(("audit", "on_failure"), "contradiction", message)
    if section.mode == "off" and (section.witnesses or section.witness is not None):
        message = "`audit.mode: off` has no log to cosign and none to record what a witness sees: remove one of them"
        check.error(("audit", "mode"), "contradiction", message)
    check.once([(one.key, ("audit", "witnesses", at, "key")) for at, one in enumerate(section.witnesses)], "witness")
    for at, one in enumerate(section.witnesses):
        here: Place = ("audit", "witnesses", at)
        if why := _not_a_url(one.url):
            message = f"`{dotted((*here, 'url'))}` {why}: write http://HOST:PORT/audit/witness (or https://)"
            check.error((*here, "url"), "wrong-value", message)
        try:
            parse_cosigner_key(one.key)
        except NoteError as error:
            message = f"`{dotted((*here, 'key'))}`: {error}: copy the line of the witness's `audit/witness.vkey`"
            check.error((*here, "key"), "wrong-value", message)
    logs = () if section.witness is None else section.witness.logs
    for at, log in enumerate(logs):
        try:
            parse_vkey(log)
        except NoteError as error:
            place: Place = ("audit", "witness", "logs", at)
            message = f"`{dotted(place)}`: {error}: copy the line of the other gateway's `audit/log.vkey`"
            check.error(place, "wrong-value", message)
    if section.retention is not None:
        _retention(section.retention, check)


def _retention(section: Retention, check: Checker) -> None:
    here: Place = ("audit", "retention")
    if not section.policy.strip() or len(section.policy.encode()) > MOST_TEXT:
        message = f"`audit.retention.policy` names the policy in each record of a pruning: 1 to {MOST_TEXT} bytes"
        check.error((*here, "policy"), "wrong-value", message)
    if len(section.classes) > MOST_CLASSES:
        check.error((*here, "classes"), "wrong-value", f"`audit.retention.classes`: at most {MOST_CLASSES}")
    check.once([(one.name, (*here, "classes", at, "name")) for at, one in enumerate(section.classes)], "class")
    _floor(section, here, check)
    for at, one in enumerate(section.classes):
        place: Place = (*here, "classes", at)
        check.name(one.name, (*place, "name"))
        if one.name == REST or len(one.name.encode()) > MOST_NAME:
            message = (
                f"`{dotted((*place, 'name'))}`: at most {MOST_NAME} bytes, and not `{REST}`, which is all the rest"
            )
            check.error((*place, "name"), "wrong-name", message)
        if not one.kinds and not one.models:
            message = f"`{dotted(place)}` takes every record: name its kinds or models, or set `audit.retention.days`"
            check.error(place, "missing-key", message)
        _floor(one, place, check)


def _floor(section: Retention | RetentionClass, place: Place, check: Checker) -> None:
    least = FLOORS[section.duty]
    if section.days < least:
        message = (
            f"`{dotted((*place, 'days'))}` is below the {least} days of `{section.duty}`: keep them for so long, or "
            "name the duty that they are really under (`none`: no law that you know of)"
        )
        check.error((*place, "days"), "below-floor", message)


def _not_a_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return f"is not a URL ({error})"
    if parts.scheme not in ("http", "https"):
        return "needs http:// or https:// before the host"
    if not parts.hostname or port == 0 or text != text.strip() or parts.query or parts.fragment or parts.username:
        return "needs a host, and nothing but a path behind it"
    return ""
