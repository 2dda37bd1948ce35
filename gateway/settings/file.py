"""`tidegate.yaml` read and judged: the one way from a file to `Settings`.

Contract: `load` never raises for what a user can write or do; everything is a finding with file, line, column
and remedy. Steps: bytes -> text -> YAML nodes -> Structs (`governance.documents`) -> names and contradictions
(`check`) -> the policy it names (`policy`). Each step runs only on what the one before it
could make sense of, so that one slip is not reported twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.errors import SettingsError
from gateway.identity.reading import read_key_sets
from gateway.plans import read_plans
from gateway.settings import Settings
from gateway.settings.check import check
from gateway.settings.check_registry import check_requirements
from gateway.settings.policy import check_policy
from gateway.settings.profiles import read_profiles
from gateway.settings.units import READERS
from governance.documents.convert import Forms, Places, convert
from governance.documents.nodes import compose, decode
from governance.types import Finding

UNREADABLE = "unreadable"
"""Code of the finding for a file that could not be opened: it could not be judged."""
_FORMS = Forms(readers=READERS)
_EMPTY = "the file is empty: write at least `upstreams: {triton: {http: HOST:PORT}}`"
_LARGEST = 8 << 20
"""Bytes. Thousands of routes and tenants fit in one MiB; a bigger file is another file."""


def read_text(path: Path) -> tuple[str | None, list[Finding]]:
    """The text of a settings file, or why there is none."""
    file = str(path)

    def finding(code: str, message: str) -> list[Finding]:
        return [Finding(file, 1, 1, "error", code, message)]

    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        return None, finding(UNREADABLE, f"cannot be read ({error.strerror or error}): check the path and its rights")
    except ValueError as error:  # a NUL character in the path
        return None, finding(UNREADABLE, f"cannot be read ({error}): check the path")
    if len(data) > _LARGEST:
        return None, finding("too-large", f"larger than {_LARGEST >> 20} MiB: this is not a settings file")
    return decode(data, file)


def load(path: Path, env: Mapping[str, str] = os.environ) -> tuple[Settings | None, list[Finding]]:
    """Settings from a file.

    Args:
        path: the file; paths in it are relative to its folder.
        env: where `${NAME}` is looked up.

    Returns:
        The settings, or None when there is an error; all findings, warnings included, in file order.
    """
    reading = read(path, env)
    broken = any(finding.severity == "error" for finding in reading.findings)
    return (None if broken else reading.settings), reading.findings


class Reading(msgspec.Struct, frozen=True):
    """All that a settings file gives, whether it holds or not."""

    settings: Settings | None
    """None: it is not even well-formed. Else as written, which may still be wrong."""
    findings: list[Finding]
    places: Places
    """Where everything stands in the file."""


def read(path: Path, env: Mapping[str, str] = os.environ) -> Reading:
    """As `load`, with what is known of a file that does not hold."""
    text, findings = read_text(path)
    if text is None:
        return Reading(None, findings, Places())
    document, findings = compose(text, str(path), env)
    if document is None:
        if [finding.code for finding in findings] == ["empty"]:
            findings = [msgspec.structs.replace(findings[0], message=_EMPTY)]
        return Reading(None, findings, Places())
    base = path.absolute().parent
    settings, places, more = convert(document, Settings, str(path), base, _FORMS)
    findings += more
    if settings is not None:
        findings += check(settings, str(path), places)
        findings += check_policy(settings, str(path), places)
        findings += check_requirements(settings, str(path), places)
        findings += read_key_sets(settings, str(path), places)[1]
        findings += read_plans(settings, str(path), places)[1]
        findings += read_profiles(settings, str(path), places)[1]
    # The settings' own findings first, in file order, then those of the files that it names.
    findings.sort(key=lambda finding: (finding.file != str(path), finding.file, finding.line, finding.column))
    return Reading(settings, findings, places)


def load_or_raise(path: Path, env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from a file.

    Raises:
        SettingsError: with every finding, when one of them is an error.
    """
    settings, findings = load(path, env)
    if settings is None:
        raise SettingsError(findings)
    return settings
