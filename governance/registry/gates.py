"""Whether a version's evidence meets what its risk class asks for.

Contract: `judge` reads each file once, so that the digest in a result is that of the bytes that were judged. A file
that is absent, of another form, or without the number that is asked for is a gate that does not hold: nothing is
guessed, and `null` is never 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from governance.cards.card import Card
from governance.cards.complete import missing
from governance.errors import RegistryInputError
from governance.mlflow import dvc
from governance.registry.events import GateResult
from governance.registry.lineage import known, unchanged
from governance.registry.requirements import FairnessGate, LineageGate, MetricGate, RiskClass, ScanGate, ShadowGate

_LEVELS = ("none", "note", "warning", "error")
"""SARIF 2.1.0, section 3.27.10, in the order of severity; absent is `warning`."""


class _Unreadable(Exception):
    """Evidence that is not there or not of its form; the text says what."""


class Evidence:
    """The files of a version's evidence, each read once."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._read: dict[str, bytes] = {}

    def digest(self, name: str) -> str:
        """Of the bytes that were read; empty: there are none."""
        data = self._read.get(name)
        return "" if data is None else hashlib.sha256(data).hexdigest()

    def data(self, name: str) -> bytes:
        """The file. Raises _Unreadable."""
        if name not in self._files:
            raise _Unreadable(f"there is no evidence `{name}`: register it with --evidence {name}=FILE")
        try:
            self._read[name] = self._files[name].read_bytes()
        except OSError as error:
            raise _Unreadable(f"the file cannot be read ({error.strerror})") from None
        return self._read[name]

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object. Raises _Unreadable."""
        try:
            found = msgspec.json.decode(self.data(name))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Unreadable("the file is not JSON") from None
        if not isinstance(found, dict):
            raise _Unreadable("the file is no JSON object")
        return found


def judge(
    wanted: RiskClass, model: str, version: str, card: Card, card_digest: str, files: Mapping[str, Path]
) -> tuple[GateResult, ...]:
    """Every gate of a class, in the order of the file of requirements.

    Args:
        wanted: the class.
        model: whose version it is.
        version: which.
        card: its model card.
        card_digest: SHA-256 of the card's file.
        files: the evidence, by name.
    """
    evidence = Evidence(files)
    found: list[GateResult] = []
    if wanted.card == "complete":
        absent = missing(card)
        said = f"missing: {', '.join(absent)}" if absent else "complete"
        found.append(GateResult("card", not absent, "complete", said, card_digest))
    found.extend(_metric(gate, card, card_digest, evidence, own="evaluation" in files) for gate in wanted.metrics)
    found.extend(_fairness(gate, model, version, evidence) for gate in wanted.fairness)
    if wanted.scan is not None:
        found.append(_scan(wanted.scan, evidence))
    if wanted.shadow is not None:
        found.append(_shadow(wanted.shadow, model, version, evidence))
    if wanted.lineage is not None:
        found.extend(_lineage(wanted.lineage, evidence))
    return tuple(found)


def _from(gate: str, wanted: str, name: str, evidence: Evidence, look: Callable[[], tuple[bool, str]]) -> GateResult:
    try:
        ok, measured = look()
    except _Unreadable as error:
        ok, measured = False, str(error)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        ok, measured = False, "the file is not of the form that this gate reads"
    return GateResult(gate, ok, wanted, measured, evidence.digest(name))


def _metric(gate: MetricGate, card: Card, card_digest: str, evidence: Evidence, *, own: bool) -> GateResult:
    among = "".join(f", {key} {value}" for key, value in (("slice", gate.slice), ("dataset", gate.dataset)) if value)
    wanted = f"{gate.type}{among} {_bounds(gate.min, gate.max)}"

    def metrics() -> Iterator[tuple[str, str, str, Any]]:
        if own:
            for one in evidence.document("evaluation")["performance_metrics"]:
                yield one["type"], one.get("slice") or "", one.get("dataset") or "", one["value"]
        else:
            for metric in card.quantitative_analysis.performance_metrics:
                yield metric.type, metric.slice, metric.dataset, metric.value

    def look() -> tuple[bool, str]:
        same = [
            value
            for kind, slice_, dataset, value in metrics()
            if kind == gate.type and slice_ == gate.slice and (not gate.dataset or dataset == gate.dataset)
        ]
        if not same:
            return False, "no such metric"
        # Of several (one a dataset, say) every one has to hold.
        return all(_within(value, gate.min, gate.max) for value in same), ", ".join(map(_number, same))

    result = _from("metric", wanted, "evaluation", evidence, look)
    return result if own else msgspec.structs.replace(result, evidence=card_digest)


def _fairness(gate: FairnessGate, model: str, version: str, evidence: Evidence) -> GateResult:
    def look() -> tuple[bool, str]:
        reports = _reports(evidence.document("fairness"), model, version)
        if not reports:
            return False, "this version is no variant or shadow of that route"
        values = [report[f"{gate.measure}s"][gate.metric] for report in reports]
        return all(_within(value, gate.min, gate.max) for value in values), ", ".join(map(_number, values))

    wanted = f"{gate.metric} {gate.measure} {_bounds(gate.min, gate.max)}"
    return _from("fairness", wanted, "fairness", evidence, look)


def _reports(document: Mapping[str, Any], model: str, version: str) -> list[Any]:
    """The report itself; of a route's, those of its variants and shadows that are a version."""
    if "variants" not in document:
        return [document]
    return [
        report
        for report in (*document["variants"].values(), *document["shadows"].values())
        if report["model"] == model and str(report["version"] or "") == version
    ]


def _scan(gate: ScanGate, evidence: Evidence) -> GateResult:
    def look() -> tuple[bool, str]:
        document = evidence.document("scan")
        if document["version"] != "2.1.0" or not document["runs"]:
            raise _Unreadable("the file is no SARIF 2.1.0 log of a run")
        least = _LEVELS.index(gate.fails_on)
        bad = 0
        for run in document["runs"]:
            if run.get("results") is None:  # section 3.14.23: absent when the scan could not say
                raise _Unreadable("a run of the scanner has no results")
            if any(not call.get("executionSuccessful", False) for call in run.get("invocations", ())):
                raise _Unreadable("a run of the scanner did not succeed")
            for one in run["results"]:
                if one.get("kind", "fail") != "fail" or _accepted(one):
                    continue
                bad += _LEVELS.index(one.get("level", "warning")) >= least
        return not bad, f"{bad} findings"

    return _from("scan", f"no finding of level {gate.fails_on} or worse", "scan", evidence, look)


def _accepted(result: Mapping[str, Any]) -> bool:
    """Whether a person has accepted a finding (section 3.35: one suppression, and none under review or rejected)."""
    said = result.get("suppressions") or ()
    return bool(said) and all(one.get("status", "accepted") == "accepted" for one in said)


def _shadow(gate: ShadowGate, model: str, version: str, evidence: Evidence) -> GateResult:
    def look() -> tuple[bool, str]:
        shadows = [
            one
            for one in evidence.document("shadow")["shadows"]
            if one["model"] == model and str(one["version"] or "") == version
        ]
        if not shadows:
            return False, "this version is no shadow of that route"
        outputs = [output for one in shadows for output in one["outputs"]]
        compared = min((_count(output["compared"]) for output in outputs), default=0)
        shares = [output["differences"] / output["compared"] for output in outputs if _count(output["compared"])]
        worst = max(shares, default=math.nan)
        ok = compared >= gate.min_compared and worst <= gate.max_differing
        return ok, f"{compared} compared, {_number(worst)} of them differing"

    wanted = f"{gate.min_compared} compared, at most {gate.max_differing:g} of them differing"
    return _from("shadow", wanted, "shadow", evidence, look)


def _lineage(gate: LineageGate, evidence: Evidence) -> Iterator[GateResult]:
    def datasets() -> Any:
        return evidence.document("lineage")["datasets"]

    def now() -> list[dict[str, Any]]:
        try:
            return dvc.datasets_of(evidence.data("data"), "the file")
        except RegistryInputError as error:
            raise _Unreadable(str(error)) from None

    wanted = f"digests of {gate.min_datasets} data sets or more"
    yield _from("lineage", wanted, "lineage", evidence, lambda: known(datasets(), gate.min_datasets))
    if gate.unchanged:
        wanted = "the same digests in the evidence `data`"
        yield _from("lineage", wanted, "data", evidence, lambda: unchanged(datasets(), now()))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _within(value: Any, low: float | None, high: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def _number(value: Any) -> str:
    return "not given" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(low: float | None, high: float | None) -> str:
    parts = ([f"at least {low:g}"] if low is not None else []) + ([f"at most {high:g}"] if high is not None else [])
    return " and ".join(parts)
