"""`python -m bench.policy`: what a decision costs, beside pycasbin's, and what compiling a policy costs.

CPU time of this process, the best of several rounds; requests in random order, all of them allowed. Rules are
`p` and `g` lines together, one role for each ten users, twenty tenants: Casbin's own benchmark with tenants.
`uncached` is a decision that was never asked before (`engine.decide`); `cached` one that was (`decide`).
`carried` is uncached with a role from the credential. pycasbin is asked a few times only: it takes milliseconds.
"""

from __future__ import annotations

import platform
import random
import sys
import time
from collections.abc import Callable

from governance.policy.casbin_ref import Reference
from governance.policy.engine import Engine
from governance.policy.model import BUILTIN_MODEL
from governance.policy.parse import parse
from governance.policy.roles import Carried
from governance.policy.snapshot import PolicySnapshot

SIZES = (11, 110, 1_100, 11_000, 100_000)
ROUNDS = 5
_TENANTS = 20
_LARGEST_PYCASBIN = 11_000
"""Rules; beyond, one decision takes it seconds."""


def policy(rules: int) -> tuple[str, list[tuple[str, str, str, str]]]:
    """A policy of so many lines, and a request that each of its users is allowed."""
    roles = max(1, rules // 11)
    users = rules - roles
    lines = [f"p, role:r{n}, t{n % _TENANTS}, model:m{n}, infer, allow" for n in range(roles)]
    requests = []
    for user in range(users):
        role = user % roles
        lines.append(f"g, user:u{user}, role:r{role}, t{role % _TENANTS}")
        requests.append((f"user:u{user}", f"t{role % _TENANTS}", f"model:m{role}", "infer"))
    random.Random(1).shuffle(requests)  # noqa: S311 - the same order each time
    return "\n".join(lines) + "\n", requests


def best(run: Callable[[], None], times: int) -> float:
    """CPU microseconds of one of so many steps, in the best round."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found) / times * 1e6


def row(rules: int) -> tuple[str, ...]:
    """One line of the table."""
    text, requests = policy(rules)
    data = text.encode()
    compiling = best(lambda: Engine(parse(data, "policy.csv")) and None, 1) / 1e3
    judging = best(lambda: PolicySnapshot.compile(data, "policy.csv") and None, 1) / 1e3
    snapshot = PolicySnapshot.compile(data, "policy.csv")
    engine = snapshot.engine
    asked = requests[:5_000]
    carried = [(request, Carried(request[0], request[1], ("role:r0",))) for request in asked]
    many = asked * max(1, 5_000 // len(asked))

    def loop() -> None:
        for _ in many:
            pass

    def uncached() -> None:
        for request in many:
            engine.decide(request)

    def with_role() -> None:
        for request, more in carried:
            engine.decide(request, more)

    def cached() -> None:
        decide = snapshot.decide
        for sub, dom, obj, act in many:
            decide(sub, dom, obj, act)

    cached()
    empty = best(loop, len(many))
    figures = [best(uncached, len(many)), best(with_role, len(carried)), best(cached, len(many))]
    shown = (f"{figure - empty:.2f}" for figure in figures)
    theirs = "-" if rules > _LARGEST_PYCASBIN else f"{_pycasbin(text, requests, engine):,.0f}"
    return f"{rules:,}", f"{compiling:,.1f}", f"{judging:,.1f}", *shown, theirs


def _pycasbin(text: str, requests: list[tuple[str, str, str, str]], engine: Engine) -> float:
    """CPU microseconds of one of pycasbin's decisions, which must be ours."""
    reference = Reference(BUILTIN_MODEL, text)
    for tenant in range(_TENANTS):  # it builds each tenant's roles when first asked
        reference.allows(("user:nobody", f"t{tenant}", "model:m0", "infer"))
    few = requests[: max(1, 2_000 // len(requests))]
    began = time.process_time()
    verdicts = [reference.allows(request) for request in few]
    took = time.process_time() - began
    if verdicts != [engine.decide(request).allow for request in few]:
        sys.exit("decided otherwise than pycasbin")
    return took / len(few) * 1e6


def main() -> None:
    """Prints the table."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}; CPU time")
    heads = ("rules", "compile ms", "with lint ms", "uncached us", "carried us", "cached us", "pycasbin us")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for rules in SIZES:
        print("| " + " | ".join(row(rules)) + " |", flush=True)


if __name__ == "__main__":
    main()
