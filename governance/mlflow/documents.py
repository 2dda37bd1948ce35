"""What MLflow says of a version, as the registry's evidence and as the beginning of a model card.

Contract: pure; a function of MLflow's answers, so that the same version gives the same bytes (keys sorted), until
somebody changes it in MLflow. Three documents: `evaluation`, which the gate of metrics reads; `lineage`, what it was
made of; `mlflow`, the version as it stands there. Numbers that are none (NaN, infinite) are named and left out: a gate
that asks for one does not hold. Tags that the registry itself writes (`tidegate.*`) are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_type_hints

import msgspec

from governance.cards.card import Risk

OWN = "tidegate."
"""How the tags that the registry writes begin."""
_HISTORY = "mlflow.log-model.history"
"""A run's tag that says again, at length, what its models say."""
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON holds as it is and YAML does not (YAML 1.2, section 5.1), or takes for the end of a line."""
_PLAIN = re.compile("(?!(null|true|false)$)[a-z][a-z_]*")
_RATINGS = frozenset(
    one for kind in get_args(get_type_hints(Risk)["rating"]) for one in get_args(kind) if isinstance(one, str)
)


class Found(msgspec.Struct, frozen=True):
    """MLflow's answers about one version."""

    registry: str
    """Its URI."""
    version: dict[str, Any]
    aliases: tuple[str, ...] = ()
    run: dict[str, Any] | None = None
    logged_model: dict[str, Any] | None = None


def model_id(version: Mapping[str, Any]) -> str:
    """The logged model (MLflow 3) that a version is of; empty: it is of a run's files."""
    named, source = version.get("model_id"), version.get("source")
    if isinstance(named, str) and named:
        return named
    return source.removeprefix("models:/") if isinstance(source, str) and source.startswith("models:/m-") else ""


def encode(document: Mapping[str, Any]) -> bytes:
    """A document's file."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def evaluation(found: Found) -> dict[str, Any]:
    """What was measured, as the gate of metrics reads it."""
    good: list[dict[str, Any]] = []
    none: list[str] = []
    for one in _metrics(found):
        value = one["value"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            none.append(one["type"])
        elif one not in good:
            good.append(one)
    return {"performance_metrics": good, "not_finite": sorted(set(none)), **_source(found)}


def _metrics(found: Found) -> Iterator[dict[str, Any]]:
    own = model_id(found.version)
    for metric in _part(found.logged_model, "data", "metrics"):
        yield _metric(metric)
    measured = {str(metric.get("key")) for metric in _part(found.logged_model, "data", "metrics")}
    for metric in _part(found.run, "data", "metrics"):
        # A run says again what its model says, without the data set; and it may have other models.
        if metric.get("model_id", own) in ("", own) and metric.get("key") not in measured:
            yield _metric(metric)


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": str(metric.get("key")), "value": metric.get("value"), "dataset": metric.get("dataset_name") or ""}


def lineage(found: Found, dvc: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What it was made of: data sets with their digests, code, and parameters."""
    tags = _pairs(_part(found.run, "data", "tags"))
    info = {} if found.run is None else found.run.get("info") or {}
    return {
        "datasets": [*_datasets(found), *dvc],
        "code": {
            "source": tags.get("mlflow.source.name"),
            "commit": tags.get("mlflow.source.git.commit"),
            "repository": tags.get("mlflow.source.git.repoURL"),
        },
        "run": {
            key: info.get(key) for key in ("run_id", "experiment_id", "user_id", "status", "start_time", "end_time")
        },
        "parameters": _parameters(found),
        **_source(found),
    }


def _datasets(found: Found) -> Iterator[dict[str, Any]]:
    for one in _part(found.run, "inputs", "dataset_inputs"):
        dataset = one.get("dataset")
        if isinstance(dataset, dict):
            yield {
                "name": dataset.get("name"),
                "digest": dataset.get("digest"),
                "algorithm": "mlflow",
                "role": _pairs(_listed(one, "tags")).get("mlflow.data.context"),
                "source": dataset.get("source"),
                "source_type": dataset.get("source_type"),
                "from": "mlflow",
            }


def as_it_stands(found: Found) -> dict[str, Any]:
    """The version as MLflow has it."""
    version = found.version
    run_tags = _pairs(_part(found.run, "data", "tags"))
    run_tags.pop(_HISTORY, None)
    return {
        **_source(found),
        "run_id": version.get("run_id") or None,
        "model_id": model_id(version) or None,
        "artifacts": version.get("source"),
        "description": version.get("description") or "",
        "created": version.get("creation_timestamp"),
        "aliases": sorted(found.aliases),
        "tags": {key: value for key, value in _pairs(_listed(version, "tags")).items() if not key.startswith(OWN)},
        "run_tags": run_tags,
    }


def _source(found: Found) -> dict[str, Any]:
    return {
        "registry": found.registry,
        "model": found.version.get("name"),
        "version": str(found.version.get("version")),
    }


def card(found: Found, name: str) -> bytes:
    """The beginning of a card: what MLflow knows, as YAML for people to go on with. Its text is quoted as in JSON."""
    version, tags = found.version, _pairs(_listed(found.version, "tags"))
    measured = evaluation(found)["performance_metrics"]
    datasets = {str(one["name"]): one for one in _datasets(found)}
    rating = tags.get(f"{OWN}risk")
    document: dict[str, Any] = {
        "schema_version": "tidegate.card/1",
        "model_details": {
            "name": name,
            "version": str(version.get("version")),
            "overview": version.get("description") or "",
        },
        "model_parameters": {
            "hyperparameters": _parameters(found),
            "datasets": [
                {"name": key, "description": f"MLflow's digest {one['digest']}, for {one['role'] or 'an unsaid use'}"}
                for key, one in datasets.items()
            ],
        },
        "quantitative_analysis": {"performance_metrics": measured},
        "risk": {"rating": rating if rating in _RATINGS else None},
    }
    return "".join(_yaml(document, 0)).encode()


def _yaml(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Block style for mappings and lists of mappings; scalars and the rest as JSON, which YAML 1.2 reads."""
    for key, one in value.items():
        begin = f"{'  ' * depth}{key if _PLAIN.fullmatch(key) else _quoted(key)}:"
        if isinstance(one, dict) and one:
            yield f"{begin}\n"
            yield from _yaml(one, depth + 1)
        elif isinstance(one, list) and one:
            yield f"{begin}\n"
            for item in one:
                yield f"{'  ' * (depth + 1)}- {_quoted(item)}\n"
        else:
            yield f"{begin} {_quoted(one)}\n"


def _quoted(value: Any) -> str:
    return _NOT_YAML.sub(lambda char: f"\\u{ord(char[0]):04x}", json.dumps(value, ensure_ascii=False))


def _parameters(found: Found) -> dict[str, str]:
    both = (*_part(found.run, "data", "params"), *_part(found.logged_model, "info", "params"))
    return dict(sorted(_pairs(both).items()))


def _part(answer: Mapping[str, Any] | None, *keys: str) -> list[dict[str, Any]]:
    """A list inside of an answer; empty where there is none."""
    found: Any = answer
    for key in keys[:-1]:
        found = found.get(key) if isinstance(found, Mapping) else None
    return _listed(found, keys[-1]) if isinstance(found, Mapping) else []


def _listed(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _pairs(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {str(one["key"]): str(one.get("value", "")) for one in entries if "key" in one}
