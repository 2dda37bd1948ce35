"""Every accepted kind of model against pycasbin: verdict, deciding rule, and our specification."""

from __future__ import annotations

import random

import pytest
from policy_models import KINDS

from governance.errors import PolicyError
from governance.policy.casbin_ref import Reference
from governance.policy.definition import (
    ALLOW_OVERRIDE,
    PRIORITY,
    SUBJECT_PRIORITY,
    define,
)
from governance.policy.engine import Engine
from governance.policy.parse import parse


def compare(name: str, seed: int, policies: int, requests: int) -> tuple[int, int]:
    """Decisions compared, and those that pycasbin raised on."""
    kind = KINDS[name]
    rng = random.Random(f"{name}/{seed}")
    definition, findings = define(kind.text.encode(), "model.conf")
    assert definition is not None, findings
    compared = raised = 0
    for _ in range(policies):
        text = kind.policy(rng)
        parsed = parse(text, "policy.csv", definition)
        assert not parsed.broken, parsed.findings
        try:
            engine = Engine(parsed)
        except PolicyError:  # a circle where subjectPriority needs an order
            with pytest.raises(RuntimeError, match="cycle"):
                Reference(kind.text, text)
            continue
        theirs = Reference(kind.text, text)
        for _ in range(requests):
            request = kind.request(rng)
            decision = engine.decide(request)
            assert decision == engine.in_order(request), (text, request)
            compared += 1
            try:
                allow, rule = theirs.explained(request)
            except (ValueError, RuntimeError):  # an address that is none
                raised += 1
                assert not decision.allow
                continue
            assert decision.allow is allow, (kind.text, text, request)
            if decision.line is not None and decides(definition.effect, allow=allow):
                assert rule == list(next(one for one in engine.rules if one.line == decision.line).values)
            elif decision.line is None and engine.rules and definition.effect != ALLOW_OVERRIDE:
                assert rule == [], (kind.text, text, request)
    return compared, raised


def decides(effect: str, *, allow: bool) -> bool:
    """Whether the rule that pycasbin names is the one that decided: elsewhere it names the last that matched."""
    return effect in (PRIORITY, SUBJECT_PRIORITY) or allow is (effect == ALLOW_OVERRIDE)


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_of_decisions_is_casbins(name):
    compared, raised = compare(name, 0, policies=25, requests=12)
    assert compared > 100
    assert raised == 0 or "ipMatch" in name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_decisions_are_casbins():
    compared = raised = 0
    seed = 0
    while compared < 1_000_000:
        seed += 1
        for name in KINDS:
            more, errors = compare(name, seed, policies=25, requests=60)
            compared += more
            raised += errors
    print(f"{compared} decisions compared, {raised} of them raised in pycasbin and were refused here")
    assert raised < compared / 20
