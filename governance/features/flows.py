"""What an import writes down: columns on their way through a pipeline, and the steps that they take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["number", "boolean", "string", "hashed"]
"""`hashed`: a count of n-grams, which only tensors take."""


class Unsupported(ValueError):
    """A part of a pipeline that a plan has no step for; the text names its class or function."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One column at one place of a pipeline."""

    name: str
    """What the plan calls it."""
    kind: Kind
    finite: bool
    """Whether it cannot be infinite."""
    present: bool = False
    """Whether it cannot be missing."""
    alias: str | None = None
    """The name that the next step gives it, since another branch still needs it as it is."""
    raw: bool = False
    """Whether it is an input that nothing has looked at: `finite` then holds once something refuses infinite ones."""
    group: tuple[str, int, int] | None = None
    """The group that it is of, its place in it, and the group's size."""


class Script:
    """The steps of a plan as they come up."""

    def __init__(self, names: list[str]) -> None:
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.looked_at: set[str] = set()
        """Inputs of which some transformer refuses infinite values."""
        self.summed: set[str] = set()
        """Groups of sums, in which what cancels leaves rounding behind."""
        self._taken = set(names)

    def fresh(self, name: str) -> str:
        """The name, or one like it that no column has."""
        found, at = name, 1
        while found in self._taken:
            at += 1
            found = f"{name}_{at}"
        self._taken.add(found)
        return found

    def add(self, step: str, column: str, parameters: dict[str, Any]) -> None:
        """A step for one column; neighbours of the same step stand together."""
        if not self.steps or self.steps[-1][0] != step or column in self.steps[-1][1]:
            self.steps.append((step, {}))
        self.steps[-1][1][column] = parameters

    def apply(self, step: str, flow: Flow, **parameters: Any) -> Flow:
        """A step that makes one column of one."""
        name = flow.name
        if flow.alias is not None:
            parameters["into"] = name = flow.alias
        self.add(step, flow.name, parameters)
        return replace(
            flow,
            name=name,
            alias=None,
            finite=flow.finite and not flow.raw,
            raw=False,
            group=None if name != flow.name else flow.group,
        )

    def require(self, flow: Flow, *, finite: bool = True, present: bool = False, positive: bool = False) -> Flow:
        """Refuse what a transformer refuses, unless it cannot come up."""
        if flow.raw and finite:
            self.looked_at.add(flow.name)
            flow = replace(flow, raw=False)
        wanted = {
            "finite": finite and not flow.finite,
            "present": present and not flow.present,
            "positive": positive,
        }
        asked = {key: True for key, value in wanted.items() if value}
        if asked and flow.kind == "string":
            asked.pop("finite", None)
        if asked:
            self.add("require", flow.name, asked)
        return replace(flow, finite=flow.finite or finite, present=flow.present or present)


def branch(flow: Flow, name: str, script: Script) -> Flow:
    """The flow for one of several branches that take it."""
    return replace(flow, alias=script.fresh(f"{name}__{flow.alias or flow.name}"))
