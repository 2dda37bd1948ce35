"""What is wrong with a route's `fairness`: sources that are none or two, values that repeat, too many groups."""

from __future__ import annotations

import math

from gateway.settings.checker import Checker
from gateway.settings.routes import Decision, Fairness
from governance.documents.convert import Place

MOST_GROUPS = 256
"""Combinations of a route's values: each has its counts for every variant and minute of a day."""
_SOURCES = ("parameter", "header", "column")


def fairness(one: Fairness, place: Place, check: Checker) -> None:
    """Judges the `fairness` of a route."""
    if not one.attributes:
        check.error((*place, "attributes"), "no-attributes", "name an attribute, or remove `fairness`")
    check.once([(each.name, (*place, "attributes", at, "name")) for at, each in enumerate(one.attributes)], "attribute")
    for at, each in enumerate(one.attributes):
        here: Place = (*place, "attributes", at)
        check.name(each.name, (*here, "name"))
        given = [source for source in _SOURCES if getattr(each, source) is not None]
        if len(given) + each.joined != 1:
            message = "say where it is said: one of `parameter`, `header`, `column` or `joined: true`"
            check.error(here, "attribute-source", message)
        for source in given:
            if source == "header":
                check.header(each.header or "", (*here, source))
            else:
                check.name(getattr(each, source), (*here, source))
        if not each.values:
            check.error((*here, "values"), "no-values", "name the values that make groups")
        check.once([(value, (*here, "values", number)) for number, value in enumerate(each.values)], "value")
        for number, value in enumerate(each.values):
            check.name(value, (*here, "values", number))
    combinations = math.prod(len(each.values) for each in one.attributes)
    if combinations > MOST_GROUPS:
        message = f"{combinations} groups are more than {MOST_GROUPS}: name fewer attributes or values"
        check.error((*place, "attributes"), "too-many-groups", message)
    _join(one, place, check)
    if one.alert is not None and combinations == 1:
        message = "an alert compares groups, and there is one: name another value, or remove `alert`"
        check.error((*place, "alert"), "one-group", message, key=True)
    _decision(one.decision, (*place, "decision"), check)


def _join(one: Fairness, place: Place, check: Checker) -> None:
    if one.join is not None and not any(each.joined for each in one.attributes):
        message = "nothing is told later: give an attribute `joined: true`, or remove `join`"
        check.error((*place, "join"), "none-joined", message, key=True)


def _decision(one: Decision, place: Place, check: Checker) -> None:
    check.name(one.output, (*place, "output"))
    if bool(one.positive) == (one.at_least is not None):
        message = "say what is selected: either `positive`, values that mean it, or `at_least`, a score"
        check.error(place, "decision-rule", message)
    check.once([(value, (*place, "positive", at)) for at, value in enumerate(one.positive)], "value")
