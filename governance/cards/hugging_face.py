"""A card as the README of a model on the Hugging Face Hub: metadata in YAML, then text.

https://huggingface.co/docs/hub/model-cards; `huggingface_hub.ModelCardData` is the oracle in the tests.
"""

from __future__ import annotations

from typing import Any

import yaml

from governance.cards.card import Card, Metric
from governance.cards.licenses import HUGGING_FACE
from governance.cards.text import sections


def write(card: Card) -> str:
    """The README.md."""
    metadata = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)
    return f"---\n{metadata}---\n\n{sections(card)}"


def _metadata(card: Card) -> dict[str, Any]:
    details, parameters = card.model_details, card.model_parameters
    metrics = card.quantitative_analysis.performance_metrics
    found: dict[str, Any] = {
        "language": list(details.language),
        **_license(card),
        "library_name": parameters.library_name,
        "tags": list(details.tags),
        "datasets": [dataset.type for dataset in parameters.datasets if dataset.type],
        "metrics": list(dict.fromkeys(metric.type for metric in metrics if metric.type)),
        "pipeline_tag": parameters.task,
        "model-index": _index(card),
    }
    return {key: value for key, value in found.items() if value}


def _license(card: Card) -> dict[str, str]:
    licenses = [one.identifier for one in card.model_details.licenses if one.identifier]
    if not licenses:
        return {}
    if len(licenses) == 1 and licenses[0] in HUGGING_FACE:
        return {"license": HUGGING_FACE[licenses[0]]}
    return {"license": "other", "license_name": " AND ".join(licenses).removeprefix("LicenseRef-").lower()}


def _index(card: Card) -> list[dict[str, Any]]:
    """Measured values by dataset. The Hub wants task and dataset of each; one that lacks them stands in the text."""
    task, datasets = card.model_parameters.task, card.model_parameters.datasets
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for metric in card.quantitative_analysis.performance_metrics:
        name = metric.dataset or (datasets[0].name if len(datasets) == 1 else "")
        if task and name and metric.type and metric.value is not None:
            by_dataset.setdefault(name, []).append(_metric(metric))
    types = {dataset.name: dataset.type for dataset in datasets}
    results = [
        {"task": {"type": task}, "dataset": {"name": name, "type": types[name] or name}, "metrics": found}
        for name, found in by_dataset.items()
    ]
    return [{"name": card.model_details.name or "model", "results": results}] if results else []


def _metric(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {"type": metric.type, "value": metric.value}
    if metric.slice:
        found["name"] = f"{metric.type} ({metric.slice})"
    return found
