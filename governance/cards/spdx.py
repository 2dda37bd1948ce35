"""A card as an SPDX 3.0.1 document with the AI profile, in JSON-LD.

https://spdx.github.io/spdx-spec/v3.0.1/model/AI/AI/. The time of creation is the card's release, so that the same card
gives the same bytes.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import msgspec

from governance.cards.card import Card, builtins

_CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"
_UNKNOWN_TIME = "1970-01-01T00:00:00Z"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def write(card: Card) -> dict[str, Any]:
    """The document."""
    base = f"urn:tidegate:card:{sha256(msgspec.json.encode(card)).hexdigest()}"
    owners = [one.name for one in card.model_details.owners if one.name] or ["NOASSERTION"]
    agents = [
        {"type": "Agent", "spdxId": f"{base}#owner-{at}", "creationInfo": _CREATION, "name": name}
        for at, name in enumerate(owners)
    ]
    datasets = [
        {
            "type": "dataset_DatasetPackage",
            "spdxId": f"{base}#dataset-{at}",
            "creationInfo": _CREATION,
            "name": one.name or f"dataset {at}",
            "dataset_datasetType": ["noAssertion"],
            **builtins({"description": one.description}),
        }
        for at, one in enumerate(card.model_parameters.datasets)
    ]
    model = f"{base}#model"
    graph: list[dict[str, Any]] = []
    graph.append(
        {
            "type": "CreationInfo",
            "@id": _CREATION,
            "specVersion": "3.0.1",
            "created": _time(card) or _UNKNOWN_TIME,
            "createdBy": [agent["spdxId"] for agent in agents],
        }
    )
    graph += agents
    graph.append(
        {
            "type": "SpdxDocument",
            "spdxId": f"{base}#document",
            "creationInfo": _CREATION,
            "profileConformance": ["core", "software", "ai", *(["dataset"] if datasets else [])],
            "rootElement": [model],
        }
    )
    graph.append(_package(card, model, agents[0]["spdxId"]))
    graph += datasets
    if datasets:
        graph.append(
            {
                "type": "Relationship",
                "spdxId": f"{base}#trained-on",
                "creationInfo": _CREATION,
                "from": model,
                "relationshipType": "trainedOn",
                "to": [one["spdxId"] for one in datasets],
            }
        )
    graph += _licenses(card, base, model)
    return {"@context": _CONTEXT, "@graph": graph}


def _package(card: Card, model: str, owner: str) -> dict[str, Any]:
    details, parameters, considerations = card.model_details, card.model_parameters, card.considerations
    sensitive = any(one.sensitive_data for one in parameters.datasets)
    kinds = (parameters.approach or "", parameters.architecture_family, parameters.model_architecture)
    return {
        "type": "ai_AIPackage",
        "spdxId": model,
        "creationInfo": _CREATION,
        "name": details.name or "model",
        "suppliedBy": owner,
        "software_primaryPurpose": "model",
        "ai_useSensitivePersonalInformation": "yes" if sensitive else "noAssertion",
        **builtins(
            {
                "description": details.overview,
                "software_packageVersion": details.version,
                "software_downloadLocation": details.download_location,
                "releaseTime": _time(card),
                "ai_typeOfModel": [kind for kind in kinds if kind],
                "ai_domain": [parameters.task] if parameters.task else [],
                "ai_informationAboutApplication": "\n".join(considerations.use_cases),
                "ai_informationAboutTraining": "\n".join(
                    f"{one.name}: {one.description}" for one in parameters.datasets if one.description
                ),
                "ai_limitation": "\n".join(considerations.limitations),
                "ai_safetyRiskAssessment": card.risk.rating,
                "ai_standardCompliance": list(card.compliance.standards),
                "ai_hyperparameter": [
                    _entry(name, value) for name, value in parameters.hyperparameters.items() if value
                ],
                "ai_metric": [
                    _entry(f"{one.type} ({one.slice})" if one.slice else one.type, f"{one.value:g}")
                    for one in card.quantitative_analysis.performance_metrics
                    if one.type and one.value is not None
                ],
                "verifiedUsing": [
                    {"type": "Hash", "algorithm": "sha256", "hashValue": one.content.lower()}
                    for one in details.hashes
                    if one.content
                ],
            }
        ),
    }


def _licenses(card: Card, base: str, model: str) -> list[dict[str, Any]]:
    licenses = [one.identifier for one in card.model_details.licenses if one.identifier]
    if not licenses:
        return []
    expression = f"{base}#license"
    return [
        {
            "type": "simplelicensing_LicenseExpression",
            "spdxId": expression,
            "creationInfo": _CREATION,
            "simplelicensing_licenseExpression": " AND ".join(licenses),
        },
        {
            "type": "Relationship",
            "spdxId": f"{base}#licensed",
            "creationInfo": _CREATION,
            "from": model,
            "relationshipType": "hasDeclaredLicense",
            "to": [expression],
        },
    ]


def _entry(key: str, value: str) -> dict[str, str]:
    return {"type": "DictionaryEntry", "key": key, "value": value}


def _time(card: Card) -> str:
    released = card.model_details.released
    return f"{released}T00:00:00Z" if _DATE.fullmatch(released) else ""
