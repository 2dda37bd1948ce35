"""What people hand in beside the log: model cards, the policy, a fairness report. Read strictly, kept as it came.

Contract: each file is read once; what is judged, what is hashed and what is copied into the bundle are the same
bytes. A file that is not what it should be ends the command; nothing is skipped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from governance.cards.card import Card
from governance.cards.card import parse as parse_card
from governance.errors import DataError, PolicyError
from governance.policy.lint import lint
from governance.policy.parse import ParsedPolicy, parse
from governance.policy.snapshot import definition_of, policy_digest, read_policy


class File(msgspec.Struct, frozen=True):
    """One file, as it came."""

    name: str
    """In the bundle, below `given/`."""
    source: str
    """The path that it was given by."""
    content: bytes

    @property
    def sha256(self) -> str:
        """Of its bytes, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


class PolicyFile(msgspec.Struct, frozen=True):
    """A policy and what lint says of it."""

    parsed: ParsedPolicy
    digest: str
    """As records have it in `policy`."""
    linted: bool
    """Whether its words were judged: those of a policy with a model of its own cannot be."""


class _Rate(msgspec.Struct):
    value: float | None
    n: int
    status: str


class _Group(msgspec.Struct):
    group: dict[str, str]
    n: int
    metrics: dict[str, _Rate]


class _Row(msgspec.Struct):
    group: dict[str, str]
    n: int
    selected: int
    rate: float | None
    impact_ratio: float | None
    excluded: bool


class _Table(msgspec.Struct):
    by: list[str]
    unknown: int
    rows: list[_Row]


class _Ll144(msgspec.Struct):
    kind: str
    tables: list[_Table]


class Fairness(msgspec.Struct):
    """What `tidegate fairness report` prints, as far as it is judged here."""

    groups: list[_Group] | None = None
    unknown: dict[str, int] = {}
    excluded: list[dict[str, Any]] = []
    ll144: _Ll144 | None = None


class Given(msgspec.Struct, frozen=True):
    """All of it."""

    cards: tuple[tuple[str, Card], ...] = ()
    """Name in the bundle, and the card."""
    policy: PolicyFile | None = None
    fairness: Fairness | None = None
    files: tuple[File, ...] = ()


def read(
    cards: tuple[Path, ...] = (), policy: Path | None = None, model: Path | None = None, fairness: Path | None = None
) -> Given:
    """What was handed in.

    Args:
        cards: model cards.
        policy: the policy.
        model: its Casbin model; None: the built-in one.
        fairness: a fairness report as JSON.

    Raises:
        CardError: a card is none.
        PolicyError: the policy cannot be opened, or its model is none.
        DataError: a file cannot be read, or the report is none.
    """
    files, found = [], []
    for number, path in enumerate(cards, 1):
        name = f"card-{number}.yaml"
        content = _bytes(path)
        found.append((name, parse_card(content, str(path), path.parent)))
        files.append(File(name, str(path), content))
    judged = None
    if policy is not None:
        judged, more = _policy(policy, model)
        files += more
    report = None
    if fairness is not None:
        content = _bytes(fairness)
        report = _fairness(fairness, content)
        files.append(File("fairness.json", str(fairness), content))
    return Given(tuple(found), judged, report, tuple(files))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}:1: cannot be read ({why}): check the path and its rights") from None


def _policy(path: Path, model: Path | None) -> tuple[PolicyFile, list[File]]:
    content = read_policy(path)
    files = [File("policy.csv", str(path), content)]
    written = None
    if model is None:
        parsed = parse(content, str(path))
        lint(parsed)
    else:
        written = read_policy(model)
        files.append(File("model.conf", str(model), written))
        parsed = parse(content, str(path), definition_of(written, str(model)))
    if any(finding.code == "unreadable" for finding in parsed.findings):
        raise PolicyError(parsed.findings)
    return PolicyFile(parsed, policy_digest(content, written), linted=model is None), files


def _fairness(path: Path, content: bytes) -> Fairness:
    wanted = "give what `tidegate fairness report` prints as JSON"
    try:
        found = msgspec.json.decode(content, type=Fairness)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}:1: no fairness report ({error}): {wanted}") from None
    if found.groups is None and found.ll144 is None:
        raise DataError(f"{path}:1: no fairness report (neither `groups` nor `ll144`): {wanted}")
    return found
