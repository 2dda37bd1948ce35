"""One policy in force: compiled aside, immutable, swapped by one reference.

Contract: `compile` refuses a policy with an error (`PolicyError` with every finding), so a snapshot that
exists can decide. `decide` is synchronous, never raises for a name that a caller may send, and default is
deny. Decisions are `engine.py`'s, kept for the snapshot's lifetime in a bounded cache: a new policy is a new
snapshot, so nothing ever has to be invalidated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from governance.errors import PolicyError
from governance.policy.cases import failures, parse_cases
from governance.policy.definition import Definition, builtin, define
from governance.policy.engine import Engine
from governance.policy.lint import lint
from governance.policy.model import EVERYWHERE, key_match
from governance.policy.parse import Membership, ParsedPolicy, Rule, parse
from governance.policy.roles import Carried
from governance.types import Decision, Finding

_Key: TypeAlias = tuple[str, str, str, str, tuple[str, ...]]

_GENERATION = 8192
"""Decisions in one half of the cache: two halves of keys up to `_LONGEST` are at most some 16 MiB."""
_LONGEST = 512
"""Characters of a request that is kept. Longer names come from nobody's policy, only from a caller's hand."""
_LARGEST = 64 << 20
"""Bytes of a policy file: some million rules."""
GATEWAY_FIELDS = ("sub", "dom", "obj", "act")
"""What the gateway asks; a model for it has these fields in `r`, in this order."""

_ALLOWED = Decision(allow=True, line=None)
_OPEN_MODELS = (("model:*", "infer"), ("model:*", "read"))
_EVERYTHING = (("*", "*"),)


class PolicySnapshot:
    """A policy that decides. Made by its class methods; safe to share by threads."""

    __slots__ = ("_carry", "_everyone", "_old", "_young", "engine", "file", "findings", "hash", "memberships")

    def __init__(self, parsed: ParsedPolicy, digest: str, everyone: tuple[tuple[str, str], ...] = ()) -> None:
        self.file = parsed.file
        self.hash = digest
        """SHA-256 of the policy's bytes (after those of its model, where it has one), lower-case hex."""
        self.findings: tuple[Finding, ...] = tuple(parsed.findings)
        """The policy's warnings."""
        self.engine = Engine(parsed)
        self.memberships: tuple[Membership, ...] = tuple(parsed.memberships)
        self._everyone = everyone
        self._carry = _carry(self.engine.definition)
        # Two generations in place of an eviction order: when the young one is full it becomes the old one.
        # Each step is one atomic operation on a dict or attribute, and a lost race costs one evaluation.
        self._young: dict[_Key, Decision] = {}
        self._old: dict[_Key, Decision] = {}

    @classmethod
    def compile(
        cls,
        text: str | bytes | None,
        file: str,
        *,
        tests: tuple[bytes, str] | None = None,
        model: tuple[bytes, str] | None = None,
        fields: tuple[str, ...] | None = None,
        judge: bool = True,
    ) -> PolicySnapshot:
        """A snapshot of a policy.

        Args:
            text: the policy's CSV, as text or bytes; None is `open_models`.
            file: its name in findings.
            tests: bytes and name of a file of policy tests; one that fails refuses the policy.
            model: bytes and name of its Casbin model; None: the built-in one.
            fields: names that the model's requests must have; None: any.
            judge: False looks at syntax, arity and effect alone, not at what the words mean. What words mean is
                known for the built-in model alone.

        Raises:
            PolicyError: with every finding, when one of them is an error.
        """
        if text is None:
            return cls.open_models()
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        definition = builtin() if model is None else definition_of(*model)
        if fields is not None and definition.request != fields:
            message = f"requests have the fields `{', '.join(fields)}`: write `r = {', '.join(fields)}`"
            raise PolicyError([Finding(definition.file, 1, 1, "error", "request", message)])
        parsed = parse(raw, file, definition)
        if judge and model is None:
            lint(parsed)
        cases, problems = parse_cases(*tests, fields=len(definition.request)) if tests is not None else (None, [])
        if parsed.broken or problems:
            raise PolicyError([*parsed.findings, *problems])
        snapshot = cls(parsed, policy_digest(raw, None if model is None else model[0]))
        if cases is not None and (failed := failures(cases, snapshot.answer)):
            raise PolicyError([*parsed.findings, *failed])
        return snapshot

    @classmethod
    def load(
        cls,
        path: Path,
        tests: Path | None = None,
        *,
        model: Path | None = None,
        fields: tuple[str, ...] | None = None,
        judge: bool = True,
    ) -> PolicySnapshot:
        """A snapshot of a policy file.

        Args:
            path: the policy.
            tests: its tests, if it has any.
            model: its Casbin model; None: the built-in one.
            fields: as for `compile`.
            judge: as for `compile`.

        Raises:
            PolicyError: with every finding; code `unreadable` where a file cannot be opened.
        """
        given = (read_policy(tests), str(tests)) if tests is not None else None
        written = (read_policy(model), str(model)) if model is not None else None
        return cls.compile(read_policy(path), str(path), tests=given, model=written, fields=fields, judge=judge)

    @classmethod
    def open_models(cls) -> PolicySnapshot:
        """What holds with an `identity` section and no policy: everyone may `infer` and `read` models."""
        return cls._fixed("open-models", _OPEN_MODELS)

    @classmethod
    def allow_all(cls) -> PolicySnapshot:
        """What holds without an `identity` section: everyone on this machine may do everything."""
        return cls._fixed("allow-all", _EVERYTHING)

    @classmethod
    def _fixed(cls, name: str, everyone: tuple[tuple[str, str], ...]) -> PolicySnapshot:
        file = f"built-in:{name}"
        return cls(ParsedPolicy(file), hashlib.sha256(file.encode()).hexdigest(), everyone)

    def decide(self, sub: str, dom: str, obj: str, act: str, roles: Sequence[str] = ()) -> Decision:
        """Whether a request is allowed, and the line that says so.

        Args:
            sub: `user:NAME`.
            dom: the tenant it is asked in; `*` for governance objects (`ask.request_of`).
            obj: `model:ROUTE`, `registry:MODEL`, `route:NAME`, `policy`, `audit` or `server`.
            act: one of `model.ACTIONS`.
            roles: roles of the credential without `role:`; each acts as `g, SUB, role:R, DOM` for this
                request, and none does in tenant `*`, which is nobody's.
        """
        key = (sub, dom, obj, act, tuple(roles))
        found = self._young.get(key)
        if found is not None:
            return found
        found = self._old.get(key)
        if found is None:
            found = self._evaluate((sub, dom, obj, act), roles)
        length = len(sub) + len(dom) + len(obj) + len(act)
        for role in roles:
            length += len(role)
        if length <= _LONGEST:
            if len(self._young) >= _GENERATION:
                self._old, self._young = self._young, {}
            self._young[key] = found
        return found

    def answer(self, request: Sequence[str], roles: Sequence[str] = ()) -> Decision:
        """As `decide`, for a model of any fields, and nothing is kept.

        Args:
            request: the fields of `r`, in order.
            roles: roles of the credential without `role:`.
        """
        return self._evaluate(tuple(request), roles)

    def _evaluate(self, request: tuple[str, ...], roles: Sequence[str]) -> Decision:
        if self._everyone:
            for pattern, action in self._everyone:
                if key_match(request[2], pattern) and action in (request[3], "*"):
                    return _ALLOWED
        return self.engine.decide(request, self.carried(request, roles) if roles else None)

    def carried(self, request: Sequence[str], roles: Sequence[str]) -> Carried | None:
        """The memberships that a credential's roles are for one request."""
        subject, domain = self._carry
        if subject is None:
            return None
        where = "" if domain is None else request[domain]
        if where == EVERYWHERE:
            return None
        if len(roles) == 1:  # most credentials; a list costs 0.2 us more
            return Carried(request[subject], where, ("role:" + roles[0],))
        return Carried(request[subject], where, tuple(["role:" + role for role in roles]))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The policy's rules in file order."""
        return tuple(sorted(self.engine.rules, key=lambda rule: rule.line))


def _carry(definition: Definition) -> tuple[int | None, int | None]:
    """Which fields of a request say who carries a credential's roles, and where (None: memberships have no domain).

    (None, None): the model has no use for such roles.
    """
    arity = dict(definition.roles).get("g")
    if arity is None or (arity == 3 and "dom" not in definition.request):
        return None, None
    subject = definition.request.index("sub") if "sub" in definition.request else 0
    return subject, (definition.request.index("dom") if arity == 3 else None)


def policy_digest(policy: bytes, model: bytes | None) -> str:
    """SHA-256, in hex, of a policy's bytes, after those of its model and a NUL where it has one."""
    return hashlib.sha256(policy if model is None else model + b"\0" + policy).hexdigest()


def definition_of(data: bytes, file: str) -> Definition:
    """The model of a file. Raises PolicyError with every finding."""
    definition, findings = define(data, file)
    if definition is None:
        raise PolicyError(findings)
    return definition


def read_policy(path: Path) -> bytes:
    """The bytes of a policy or of its tests.

    Raises:
        PolicyError: it cannot be opened, or is far too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read ({why}): check the path and its rights"
        raise PolicyError([Finding(str(path), 1, 1, "error", "unreadable", message)]) from None
    if len(data) > _LARGEST:
        message = f"larger than {_LARGEST >> 20} MiB: this is not a policy"
        raise PolicyError([Finding(str(path), 1, 1, "error", "too-large", message)])
    return data
