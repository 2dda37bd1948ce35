"""The text of a card in Markdown: the sections that the README and Annex IV share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from governance.cards.card import Card, Metric


def sections(card: Card) -> str:
    """Everything that the card says, as Markdown, under one title."""
    details, parameters, considerations = card.model_details, card.model_parameters, card.considerations
    parts = [f"# {escape(details.name) or 'Model'}\n", escape(details.overview)]
    parts += _list("Version", [details.version]) + _list("Released", [details.released])
    parts += _list("Owners", (f"{one.name} ({one.contact})" if one.contact else one.name for one in details.owners))
    parts += _list("Licences", (one.identifier for one in details.licenses))
    parts += _list("Users", considerations.users)
    parts += _list("Use cases", considerations.use_cases)
    parts += _list("Limitations", considerations.limitations)
    parts += _list("Trade-offs", considerations.tradeoffs)
    parts += _list(
        "Ethical considerations",
        (_with(one.name, one.mitigation_strategy, "mitigation") for one in considerations.ethical_considerations),
    )
    parts += _list(
        "Fairness",
        (
            _with(one.group_at_risk, "; ".join(filter(None, (one.benefits, one.harms, one.mitigation_strategy))), "")
            for one in considerations.fairness_assessments
        ),
    )
    parts += _list("Risk", [_with(card.risk.rating or "", card.risk.explanation, "")])
    how = [
        parameters.approach or "",
        parameters.architecture_family,
        parameters.model_architecture,
        parameters.library_name,
    ]
    parts += _list("How it was made", how)
    parts += _list("Hyperparameters", (f"{name}: {value}" for name, value in parameters.hyperparameters.items()))
    parts += _list(
        "Data",
        (
            _with(f"{one.name} ({one.type})" if one.type else one.name, one.description, "")
            for one in parameters.datasets
        ),
    )
    parts += _list("Inputs", (_with(one.name, one.format, "") for one in parameters.inputs))
    parts += _list("Outputs", (_with(one.name, one.format, "") for one in parameters.outputs))
    parts += _metrics(card.quantitative_analysis.performance_metrics)
    parts += _list("References", (one.reference for one in details.references))
    return "\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown takes as it stands: no tags, no table cells, no headings."""
    for character in ("\\", "`", "*", "_", "[", "]", "<", ">", "|", "#"):
        text = text.replace(character, "\\" + character)
    return text.strip()


def bounds(metric: Metric) -> str:
    """A metric's interval, or nothing."""
    interval = metric.confidence_interval
    if interval is None or interval.lower_bound is None or interval.upper_bound is None:
        return ""
    return f"{interval.lower_bound:g} to {interval.upper_bound:g}"


def _with(name: str, more: str, what: str) -> str:
    return f"{name}: {f'{what}: ' if what else ''}{more}" if name and more else name or more


def _list(title: str, items: Iterable[str]) -> list[str]:
    there = [escape(item) for item in items if item.strip()]
    return [f"\n## {title}\n", *(f"- {item}" for item in there)] if there else []


def _metrics(metrics: Sequence[Metric]) -> list[str]:
    if not metrics:
        return []
    rows = [
        f"| {escape(one.type)} | {'' if one.value is None else f'{one.value:g}'} | {bounds(one)} "
        f"| {escape(one.slice)} | {escape(one.dataset)} |"
        for one in metrics
    ]
    return ["\n## Measured\n", "| metric | value | interval | slice | data |", "|---|---|---|---|---|", *rows]
