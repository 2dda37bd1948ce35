"""A card as the technical documentation of Annex IV of the EU AI Act (Regulation 2024/1689).

It gathers what there is and names what is missing; whether that is enough is for people to say.
"""

from __future__ import annotations

from typing import Any

from governance.cards.card import Card, builtins
from governance.cards.complete import is_blank, missing
from governance.cards.text import escape

POINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "General description of the AI system",
        ("model_details.overview", "model_details.owners", "considerations.users", "considerations.use_cases"),
    ),
    (
        "Elements of the AI system and the process of its development",
        (
            "model_parameters.approach",
            "model_parameters.model_architecture",
            "model_parameters.datasets",
            "compliance.human_oversight",
        ),
    ),
    (
        "Monitoring, functioning and control",
        ("considerations.limitations", "compliance.functioning_and_control"),
    ),
    (
        "Appropriateness of the performance metrics",
        ("quantitative_analysis.performance_metrics", "compliance.metrics_appropriateness"),
    ),
    ("Risk management system", ("compliance.risk_management",)),
    ("Changes over the lifecycle", ("compliance.changes",)),
    ("Standards applied", ("compliance.standards",)),
    ("EU declaration of conformity", ("compliance.declaration_of_conformity",)),
    ("Post-market monitoring", ("compliance.post_market_monitoring",)),
)


def points(card: Card) -> list[dict[str, Any]]:
    """Each point with the card's fields for it and the paths that say nothing."""
    found = []
    for number, (title, paths) in enumerate(POINTS, 1):
        fields = {path: builtins(value) for path in paths if not is_blank(value := _at(card, path))}
        found.append({"point": number, "title": title, "fields": fields, "missing": missing(card, paths)})
    return found


def write(card: Card) -> str:
    """The document in Markdown."""
    name = escape(card.model_details.name) or "Model"
    lines = [f"# Technical documentation of {name}", "", "After Annex IV of Regulation (EU) 2024/1689."]
    for point in points(card):
        lines += ["", f"## {point['point']}. {point['title']}", ""]
        for path, value in point["fields"].items():
            lines += [f"**{path}**", "", *_shown(value), ""]
        lines += [f"- missing: `{path}`" for path in point["missing"]]
    return "\n".join(lines).rstrip() + "\n"


def _at(card: Card, path: str) -> Any:
    value: Any = card
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _shown(value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"- {_line(item)}" for item in value]
    return [escape(str(value))]


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_line(item)}" for key, item in value.items())
    return escape(str(value))
