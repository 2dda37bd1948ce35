"""A card as an ML-BOM: CycloneDX 1.7 (ECMA-424), one component of type `machine-learning-model`.

Metric values are strings there. The document has no serial number and no time of its own: the same card gives the
same bytes.
"""

from __future__ import annotations

from typing import Any

from governance.cards.card import Card, Dataset, Metric, builtins
from governance.cards.licenses import HUGGING_FACE


def write(card: Card) -> dict[str, Any]:
    """The document."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "components": [_component(card)],
    }


def _component(card: Card) -> dict[str, Any]:
    details = card.model_details
    references = [{"type": "other", "url": one.reference} for one in details.references if one.reference]
    if details.download_location:
        references.insert(0, {"type": "distribution", "url": details.download_location})
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": details.name or "model",
        **_filled(
            version=details.version,
            description=details.overview,
            authors=[_author(one.name, one.contact) for one in details.owners if one.name],
            licenses=[_license(one.identifier) for one in details.licenses if one.identifier],
            hashes=[{"alg": one.alg, "content": one.content.lower()} for one in details.hashes if one.content],
            externalReferences=references,
            tags=list(details.tags),
            modelCard=_model_card(card),
        ),
    }


def _model_card(card: Card) -> dict[str, Any]:
    parameters, considerations = card.model_parameters, card.considerations
    return _filled(
        modelParameters=_filled(
            approach=_filled(type=parameters.approach),
            task=parameters.task,
            architectureFamily=parameters.architecture_family,
            modelArchitecture=parameters.model_architecture,
            datasets=[_dataset(one) for one in parameters.datasets],
            inputs=[{"format": one.format} for one in parameters.inputs if one.format],
            outputs=[{"format": one.format} for one in parameters.outputs if one.format],
        ),
        quantitativeAnalysis=_filled(
            performanceMetrics=[_metric(one) for one in card.quantitative_analysis.performance_metrics]
        ),
        considerations=_filled(
            users=list(considerations.users),
            useCases=list(considerations.use_cases),
            technicalLimitations=list(considerations.limitations),
            performanceTradeoffs=list(considerations.tradeoffs),
            ethicalConsiderations=[
                _filled(name=one.name, mitigationStrategy=one.mitigation_strategy)
                for one in considerations.ethical_considerations
            ],
            fairnessAssessments=[
                _filled(
                    groupAtRisk=one.group_at_risk,
                    benefits=one.benefits,
                    harms=one.harms,
                    mitigationStrategy=one.mitigation_strategy,
                )
                for one in considerations.fairness_assessments
            ],
        ),
        properties=_properties(card),
    )


def _properties(card: Card) -> list[dict[str, str]]:
    """What the format has no place for, by its path in the card."""
    parameters, details = card.model_parameters, card.model_details
    found = {
        "released": details.released,
        "language": ",".join(details.language),
        "library_name": parameters.library_name,
        **{f"hyperparameters.{name}": value for name, value in parameters.hyperparameters.items()},
        **{f"inputs[{at}].name": one.name for at, one in enumerate(parameters.inputs)},
        **{f"outputs[{at}].name": one.name for at, one in enumerate(parameters.outputs)},
        "risk.rating": card.risk.rating or "",
        "risk.explanation": card.risk.explanation,
    }
    return [{"name": f"tidegate:{name}", "value": value} for name, value in found.items() if value]


def _author(name: str, contact: str) -> dict[str, str]:
    return {"name": name, "email": contact} if "@" in contact and " " not in contact else {"name": name}


def _license(identifier: str) -> dict[str, Any]:
    # The schema lists the identifiers that it takes as `id`.
    return {"license": {"id" if identifier in HUGGING_FACE else "name": identifier}}


def _dataset(dataset: Dataset) -> dict[str, Any]:
    properties = [{"name": "tidegate:type", "value": dataset.type}] if dataset.type else []
    return {
        "type": "dataset",
        **_filled(
            name=dataset.name,
            description=dataset.description,
            sensitiveData=list(dataset.sensitive_data),
            contents=_filled(properties=properties),
        ),
    }


def _metric(metric: Metric) -> dict[str, Any]:
    interval = metric.confidence_interval
    return _filled(
        type=metric.type,
        value=None if metric.value is None else _text(metric.value),
        slice=metric.slice,
        confidenceInterval=None
        if interval is None
        else _filled(
            lowerBound=None if interval.lower_bound is None else _text(interval.lower_bound),
            upperBound=None if interval.upper_bound is None else _text(interval.upper_bound),
        ),
    )


def _text(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _filled(**values: Any) -> dict[str, Any]:
    found: dict[str, Any] = builtins(values)
    return found
