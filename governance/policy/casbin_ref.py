"""pycasbin's enforcer over parsed rules: the one place that imports casbin.

Contract: built aside, in memory, and never changed afterwards, so threads may share it. Rules are handed over
as parsed, not through Casbin's file loader; memberships through Casbin's `RoleManager` interface, which
`Roles` answers without keeping the names that it is asked about. Casbin interprets its matcher once for each
rule (about 5 us), so it is given only the rules whose subject and tenant can hold for the request: for the
others the matcher is false. Casbin's own log is silent: it would write every refused request.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import casbin
from casbin.rbac import RoleManager
from casbin.util import SimpleEval

from governance.policy.model import BUILTIN_MODEL
from governance.policy.parse import Rule
from governance.policy.roles import Roles


class Caller(str):
    """A request's subject together with the roles that its credential carries (`role:NAME`)."""

    __slots__ = ("roles",)
    roles: Sequence[str]

    def __new__(cls, name: str, roles: Sequence[str] = ()) -> Self:
        """A subject."""
        caller = super().__new__(cls, name)
        caller.roles = roles
        return caller


class _Frozen(RoleManager):  # type: ignore[misc]  # casbin ships no types
    """`Roles` behind Casbin's interface."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        """Casbin's `g(name1, name2, domain)`."""
        return self._roles.has(name1, name2, domain[0], getattr(name1, "roles", ()))


def _model() -> Any:
    model = casbin.Model()
    model.load_model_from_text(BUILTIN_MODEL)
    return model


# Casbin parses its matcher anew on each request (28 us); besides, `ast.parse` in several threads at once raises
# SystemError in CPython 3.11 (python/cpython#106905). So it is parsed here, while the import lock is held.
_MATCHER = casbin.Enforcer._get_expression(_model()["m"]["m"].value).ast_parsed_value  # noqa: SLF001


class _Enforcer(casbin.Enforcer):  # type: ignore[misc]
    """Casbin's enforcer, with its matcher parsed beforehand."""

    def _get_expression(self, _expr: str, functions: object = None) -> Any:
        expression = SimpleEval("", functions)
        expression.ast_parsed_value = _MATCHER
        return expression


class Reference:
    """Casbin's verdict on requests of the built-in model."""

    def __init__(self, roles: Roles) -> None:
        model = _model()
        self._enforcer = _Enforcer(model, enable_log=False)
        manager = _Frozen(roles)
        self._enforcer.set_role_manager(manager)
        model["g"]["g"].rm = manager

    def allows(self, rules: Sequence[Rule], request: tuple[str, str, str, str], roles: Sequence[str] = ()) -> bool:
        """Whether a request is allowed.

        Args:
            rules: those that can matter, in file order.
            request: subject, tenant, object, action.
            roles: the roles of its credential, as `role:NAME`.
        """
        # An enforcer of its own for each evaluation, sharing all but the list of rules (some 5 us).
        assertion = copy(self._enforcer.model["p"]["p"])
        assertion.policy = [rule.values for rule in rules]
        model = copy(self._enforcer.model)
        model.model = {**model.model, "p": {"p": assertion}}
        enforcer = copy(self._enforcer)
        enforcer.model = model
        sub, *rest = request
        return enforcer.enforce(Caller(sub, roles), *rest) is True
