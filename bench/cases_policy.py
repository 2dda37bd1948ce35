"""Decisions of the governed benchmark's policy at several sizes, and pycasbin's own on the same rules."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import casbin

from bench import configs
from bench.counted import Suite
from bench.load import MODEL
from governance.policy.snapshot import PolicySnapshot

SIZES = (10, 1_000, 11_000)
KINDS = ("allowed, seen before", "allowed, not kept", "allowed, new caller", "denied, new caller")
_CALLERS = 32_768
"""New callers in turn: twice what a snapshot keeps, so that none is known when it comes again."""
_MODEL = """
[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, dom, obj, act, eft
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub, r.dom) && r.dom == p.dom && keyMatch(r.obj, p.obj) && (r.act == p.act || p.act == "*")
"""
_LOAD = ("user:bench", "acme", f"model:{MODEL}", "infer")


def _policy(folder: Path, rules: int) -> Path:
    path = folder / f"{rules}.csv"
    path.write_text(configs.policy(rules))
    return path


def _seen(policy: PolicySnapshot) -> Callable[[], object]:
    return partial(policy.decide, *_LOAD)


def _member(policy: PolicySnapshot, rules: int) -> Callable[[], object]:
    """Callers that the policy itself gives a role; nothing is looked up among kept decisions, and nothing kept."""
    half = rules // 2 - 1
    asked = itertools.cycle([(f"user:u{n}", f"tenant{n % 50}", f"model:m{n}", "infer") for n in range(half)])
    if not policy.answer(next(asked)).allow:
        raise RuntimeError("the policy does not allow what it should")
    return lambda: policy.answer(next(asked))


def _allowed(policy: PolicySnapshot, rules: int) -> Callable[[], object]:
    """Callers that were never seen, or were forgotten, with one of the policy's roles on their credential."""
    half = rules // 2 - 1
    roles = [caller % half for caller in range(_CALLERS)]
    asked = itertools.cycle(
        [
            (f"user:x{caller}", f"tenant{role % 50}", f"model:m{role}", "infer", (f"r{role}",))
            for caller, role in enumerate(roles)
        ]
    )
    if not policy.decide(*next(asked)).allow:
        raise RuntimeError("the policy does not allow what it should")
    return lambda: policy.decide(*next(asked))


def _denied(policy: PolicySnapshot) -> Callable[[], object]:
    asked = itertools.cycle([(f"user:x{n}", "acme", f"model:{MODEL}", "infer") for n in range(_CALLERS)])
    return lambda: policy.decide(*next(asked))


def decisions(folder: Path) -> Suite:
    """Each kind at each size: `RULES KIND`."""
    policies = {rules: PolicySnapshot.load(_policy(folder, rules)) for rules in SIZES}
    kinds: dict[str, Callable[[int], Callable[[], object]]] = {
        KINDS[0]: lambda rules: _seen(policies[rules]),
        KINDS[1]: lambda rules: _member(policies[rules], rules),
        KINDS[2]: lambda rules: _allowed(policies[rules], rules),
        KINDS[3]: lambda rules: _denied(policies[rules]),
    }
    return {f"{rules} {kind}": partial(make, rules) for kind, make in kinds.items() for rules in SIZES}


def compiling(folder: Path) -> Suite:
    """From the file to a snapshot."""
    return {str(rules): partial(partial, PolicySnapshot.load, _policy(folder, rules)) for rules in SIZES}


def _pycasbin(folder: Path, rules: int) -> Callable[[], object]:
    model = folder / "model.conf"
    model.write_text(_MODEL)
    enforcer = casbin.Enforcer(str(model), str(_policy(folder, rules)))
    if not enforcer.enforce(*_LOAD):
        raise RuntimeError("pycasbin does not allow what the policy allows")
    return partial(enforcer.enforce, *_LOAD)


def pycasbin(folder: Path) -> Suite:
    """What pycasbin takes for the request of the load; it remembers nothing."""
    return {str(rules): partial(_pycasbin, folder, rules) for rules in SIZES}
