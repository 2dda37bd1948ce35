"""What several replicas answer to one question, as one answer. Pure: plain values in, plain values out.

Contract: the order of the replicas never matters, and one answer alone comes out as it came in. Nothing is
hidden: numbers of statistics are sums over the replicas, and where replicas differ the answer says so and who.
Values are those of Triton's JSON; the gRPC door brings its messages into the same form, so that each rule
stands here once.

Rules:
    statistics   one row per (model, version). Counts, durations and bytes add up; `last_inference` is the
                 latest; `batch_stats` add up by batch size, `memory_usage` by kind and device.
    index        one row per (model, version), READY as soon as one replica serves it; `reason` names every
                 replica that is in another state.
    documents    (configuration, settings) the one that most replicas gave; the others are named.
    metadata     of a model: likewise, but `versions` has all that some replica serves.
    regions      (shared memory) one row per name; the others are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from gateway.wire.types import OWN_REGIONS

Row: TypeAlias = dict[str, Any]
Answers: TypeAlias = Mapping[str, Any]
"""By the replica's label (`fleet[0]`)."""

READY: Final = "READY"
_ABSENT: Final = "not in its repository"
_UNLOADED: Final = "not loaded"
# States in the order in which one speaks for the row: traffic can go there, will soon, might not.
_SPEAKS: Final = (READY, "LOADING", "UNLOADING", "UNAVAILABLE", "UNKNOWN", "")

_KEYED: Final[Mapping[str, tuple[str, ...]]] = {
    "batch_stats": ("batch_size",),
    "memory_usage": ("type", "id"),
    "model_stats": ("name", "version"),
}
"""Lists of statistics whose elements are told apart by these fields; all other numbers in them add up."""
_LATEST: Final = frozenset({"last_inference"})


# -- statistics ------------------------------------------------------------------------------------------------


def sum_statistics(answers: Answers) -> list[Row]:
    """Rows of `model_stats` over replicas; each answer is a list of such rows.

    Rows are in the order of name and version number, unless there is one answer only.
    """
    several = list(answers.values())
    if len(several) == 1:
        return list(several[0])
    return _sum_keyed([row for rows in several for row in rows], _KEYED["model_stats"])


def _sum_keyed(rows: Iterable[Row], key: tuple[str, ...]) -> list[Row]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(field) for field in key), []).append(row)
    return [_sum_rows(groups[found], key) for found in sorted(groups, key=_order)]


def _sum_rows(rows: Sequence[Row], key: tuple[str, ...]) -> Row:
    fields = sorted({field for row in rows for field in row}, key=_position(rows))
    return {
        field: rows[0][field] if field in key else _sum_field(field, [row[field] for row in rows if field in row])
        for field in fields
    }


def _position(rows: Sequence[Row]) -> Callable[[str], tuple[int, str]]:
    """Fields stay where Triton has them; the fullest row decides, so that the order of rows does not."""
    fullest = max(rows, key=lambda row: (len(row), tuple(row)))
    place = {field: index for index, field in enumerate(fullest)}
    return lambda field: (place.get(field, len(place)), field)


def _sum_field(field: str, values: list[Any]) -> Any:
    first = values[0]
    if field in _KEYED:
        return _sum_keyed([row for rows in values for row in rows], _KEYED[field])
    if isinstance(first, dict):
        return _sum_rows(values, ())
    if isinstance(first, int | float) and not isinstance(first, bool):
        return max(values) if field in _LATEST else sum(values)
    return max(values, key=str)  # no statistic of Triton is anything else; the choice has no order


def _order(key: tuple[Any, ...]) -> tuple[tuple[int, str], ...]:
    """Version numbers and batch sizes by value, all else as text."""
    texts = ["" if part is None else str(part) for part in key]
    return tuple((len(text), text) if text.isdigit() else (0, text) for text in texts)


# -- repository index ------------------------------------------------------------------------------------------


def merge_index(answers: Answers, missing: Iterable[str] = ()) -> list[Row]:
    """Rows of the repository index over replicas.

    Args:
        answers: by label, the rows of each replica that could be asked.
        missing: labels of those that could not; each row's `reason` says so.
    """
    unknown = [f"{label}: cannot be asked" for label in sorted(missing)]
    if len(answers) == 1 and not unknown:
        return [dict(row) for row in next(iter(answers.values()))]
    versions: dict[str, set[str]] = {}
    rows: dict[tuple[str, str, str], Row] = {}
    listed: dict[str, set[str]] = {}
    for label, found in answers.items():
        for row in found:
            name, version = row["name"], row.get("version", "")
            versions.setdefault(name, set()).add(version)
            listed.setdefault(name, set()).add(label)
            rows[name, version, label] = row
    merged = []
    for name in sorted(versions):
        # A model that a replica has not loaded is a row without a version: it says that of every version.
        known = sorted(versions[name] - {""}, key=lambda version: (len(version), version)) or [""]
        for version in known:
            states = {label: rows.get((name, version, label), rows.get((name, "", label))) for label in sorted(answers)}
            merged.append(_index_row(name, version, states, listed[name], unknown))
    return merged


def _index_row(name: str, version: str, states: Mapping[str, Row | None], listed: set[str], unknown: list[str]) -> Row:
    by_state = {label: "" if row is None else row.get("state", "") for label, row in states.items()}
    speaks = min(by_state.values(), key=_rank)
    reasons = {row.get("reason", "") for label, row in states.items() if row is not None and by_state[label] == speaks}
    says = []
    if speaks != READY or reasons != {""}:
        says += sorted(reasons - {""})
    for label, state in by_state.items():
        row = states[label]
        if state != speaks:
            why = (row or {}).get("reason", "")
            plain = _UNLOADED if label in listed else _ABSENT
            says.append(f"{label}: {state or plain}" + (f" ({why})" if why else ""))
        elif row is None and label not in listed:
            says.append(f"{label}: {_ABSENT}")
    says += unknown
    merged: Row = {"name": name}
    if version:
        merged["version"] = version
    if speaks:
        merged["state"] = speaks
    if says:
        merged["reason"] = "; ".join(says)
    return merged


def _rank(state: str) -> int:
    return _SPEAKS.index(state) if state in _SPEAKS else len(_SPEAKS)


# -- documents and regions -------------------------------------------------------------------------------------


def agree(answers: Answers) -> tuple[Any, list[str]]:
    """The document that most replicas gave, and the labels of those that gave another.

    Of two that are equally frequent the one of the first label stands.
    """
    groups: dict[bytes, list[str]] = {}
    for label in sorted(answers, key=_label_order):
        groups.setdefault(msgspec.json.encode(answers[label], order="sorted"), []).append(label)
    chosen = max(groups.values(), key=len)  # max keeps the first of equals
    return answers[chosen[0]], [label for labels in groups.values() if labels is not chosen for label in labels]


def merge_metadata(answers: Answers) -> tuple[Row, list[str]]:
    """A model's metadata over replicas, and the labels of those that gave another, whatever versions they serve."""
    versions = {version for answer in answers.values() for version in answer.get("versions", ())}
    document, others = agree({label: {**answer, "versions": []} for label, answer in answers.items()})
    return {**document, "versions": sorted(versions, key=lambda version: (len(version), version))}, others


def merge_regions(answers: Answers) -> tuple[list[Row], list[str]]:
    """Rows of registered shared memory over replicas, and the labels of those that lack or differ in one.

    The gateway's own regions are left out: each worker has others on each replica.
    """
    answers = {
        label: [row for row in rows if not row["name"].startswith(OWN_REGIONS)] for label, rows in answers.items()
    }
    if len(answers) == 1:
        return list(next(iter(answers.values()))), []
    by_name: dict[str, dict[str, Row]] = {}
    for label, rows in answers.items():
        for row in rows:
            by_name.setdefault(row["name"], {})[label] = row
    merged, differ = [], set()
    for name in sorted(by_name):
        row, others = agree(by_name[name])
        merged.append(row)
        differ |= {*others, *(set(answers) - set(by_name[name]))}
    return merged, sorted(differ, key=_label_order)


def _label_order(label: str) -> tuple[str, int, str]:
    """`fleet[10]` after `fleet[9]`."""
    name, _, number = label.partition("[")
    return (name, len(number), number)
