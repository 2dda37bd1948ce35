"""A plan to a program, or to findings.

Contract: pure. Names are resolved step by step, in the plan's order, so a step sees what the ones before it left.
Everything that a program could be refused for is a finding here: what comes out runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from governance.documents.convert import Place, Places, dotted
from governance.documents.words import suggest
from governance.features import expression
from governance.features.plan import OF_COLUMNS, Column, Plan, Step
from governance.features.registers import allocated
from governance.features.steps import STEPS
from governance.features.values import Coded, Gram, Group, Number, Text, Value, Wrong, kind_of
from governance.features.wide import WIDE
from governance.types import Finding
from kernels.features import FUNCTIONS, REFUSE_INFINITE, REFUSE_MISSING, Input, Instruction, Program, Tensor


class Compiled(msgspec.Struct, frozen=True):
    """A plan's program and what goes in and out of it."""

    program: Program
    columns: dict[str, tuple[str, ...]]
    """For each tensor the names of its columns."""
    instructions: tuple[Instruction, ...]


class Compiler:
    """Collects instructions, names and findings."""

    def __init__(self, plan: Plan, file: str, places: Places) -> None:
        self.plan = plan
        self.file = file
        self.places = places
        self.findings: list[Finding] = []
        self.known: dict[str, Value] = {}
        self.used: set[str] = set()
        self.code: list[Instruction] = []
        self.numbers = 0
        self.texts = 0
        self.inputs: list[Input] = []

    # -- findings and names

    def report(self, severity: str, code: str, message: str, place: Place, *, key: bool = False) -> None:
        """A finding where something stands."""
        line, column = self.places.of_key(place) if key else self.places.of(place)
        self.findings.append(Finding(self.file, line, column, severity, code, message))

    def unknown(self, name: str, place: Place, *, key: bool = False) -> None:
        """No column has that name here."""
        message = f"there is no column `{name}` here: {suggest(name, list(self.known), 'columns')}"
        self.report("error", "unknown-column", message, place, key=key)

    def bind(self, name: str, value: Value, place: Place, *, over: str | None = None) -> None:
        """Give a value a name; `over`: the one whose place it takes."""
        if name in self.known and name != over:
            self.report("error", "duplicate-name", f"there is a column `{name}` already: name it otherwise", place)
        self.known[name] = value

    # -- instructions

    def number(self, op: str, column: int, *, present: bool, kind: str = "number", **rest: Any) -> Number:
        """An instruction with a number as its result."""
        self.code.append(Instruction(op, dst=self.numbers, column=column, **rest))
        self.numbers += 1
        return Number(self.numbers - 1, column, present, kind)

    def text(self, op: str, column: int, *, present: bool, **rest: Any) -> Text:
        """An instruction with a text as its result."""
        self.code.append(Instruction(op, dst=self.texts, column=column, **rest))
        self.texts += 1
        return Text(self.texts - 1, column, present)

    def effect(self, op: str, column: int, **rest: Any) -> None:
        """An instruction without a result."""
        self.code.append(Instruction(op, column=column, **rest))

    def as_number(self, value: Value, *, times: bool = False) -> Number:
        """A value as a number register. Raises Wrong where it is none."""
        if isinstance(value, Number) and (times or value.kind != "timestamp"):
            return value
        if isinstance(value, Coded):
            column = value.code.column
            one = self.number("equals", column, present=True, a=value.code.register, numbers=(float(value.place),))
            if value.sign is None:
                return one
            return self.number("multiply", column, present=True, a=one.register, b=value.sign.register)
        raise Wrong(f"this is {kind_of(value)}, and the step takes numbers")

    # -- the plan, from top to bottom

    def run(self) -> Compiled | None:
        """All of it."""
        for name, column in self.plan.inputs.items():
            self.input(name, column)
        for at, step in enumerate(self.plan.steps):
            self.step(step, ("steps", at))
        columns: dict[str, tuple[str, ...]] = {}
        tensors: list[Tensor] = []
        for name, output in self.plan.outputs.items():
            place: Place = ("outputs", name)
            columns[name] = tuple(self.expanded(output.columns, (*place, "columns")))
            tensors.append(Tensor(name, output.datatype, len(columns[name])))
        if not any(finding.severity == "error" for finding in self.findings):
            for at, name in enumerate(columns):
                self.store(at, name, columns[name])
        for name in self.plan.inputs:
            if name not in self.used:
                message = f"nothing is made of `{name}`: use it, or take it out"
                self.report("warning", "unused-column", message, ("inputs", name), key=True)
        if any(finding.severity == "error" for finding in self.findings):
            return None
        inputs, code, numbers, texts = allocated(self.inputs, self.code)
        return Compiled(Program(inputs, tensors, code, numbers, texts), columns, tuple(code))

    def input(self, name: str, column: Column) -> None:
        """A column into its register."""
        at, present = len(self.inputs), column.missing == "refuse"
        if column.type == "string":
            self.inputs.append(Input(name, column.type, self.texts))
            self.known[name] = Text(self.texts, at, present)
            self.texts += 1
            if present:
                self.effect("text_check", at, a=self.texts - 1)
            return
        self.inputs.append(Input(name, column.type, self.numbers))
        self.known[name] = Number(self.numbers, at, present, column.type)
        self.numbers += 1
        bits = REFUSE_MISSING if present else 0
        if column.type == "number" and column.infinite == "refuse":
            bits |= REFUSE_INFINITE
        if bits:
            self.effect("check", at, a=self.numbers - 1, integers=(bits,))

    def step(self, step: Step, place: Place) -> None:
        """One step, column by column."""
        given = [name for name in Step.__struct_fields__ if getattr(step, name) is not None]
        if len(given) != 1:
            message = (
                "a step is one key, such as `- standardise:`"
                if not given
                else (f"`{given[0]}` and `{given[1]}` in one step: begin another with `- {given[1]}:`")
            )
            self.report("error", "wrong-step", message, place)
            return
        (name,) = given
        what = getattr(step, name)
        here: Place = (*place, name)
        if name in OF_COLUMNS:
            self.guarded(WIDE[name], (what,), here)
        elif name == "compute":
            for into, text in what.items():
                self.guarded(Compiler.compute, (into, text), (*here, into))
        else:
            for column, parameters in what.items():
                spot: Place = (*here, column)
                value = self.known.get(column)
                if value is None:
                    self.unknown(column, spot, key=True)
                    continue
                self.used.add(column)
                self.guarded(STEPS[name], (column, value, parameters), spot)

    def guarded(self, act: Callable[..., None], what: tuple[Any, ...], place: Place) -> None:
        """A step, whose complaint becomes a finding."""
        try:
            act(self, *what, place)
        except Wrong as wrong:
            spot = place if wrong.key is None else (*place, wrong.key)
            self.report("error", "wrong-step", f"`{dotted(spot)}`: {wrong}", spot)

    def compute(self, into: str, text: str, place: Place) -> None:
        """A column by an expression."""
        try:
            tree = expression.parse(text)
        except ValueError as error:
            raise Wrong(str(error)) from None
        missing = [name for name in expression.columns_of(tree) if name not in self.known]
        if missing:
            self.unknown(missing[0], place)
            return
        if not expression.columns_of(tree):
            raise Wrong("is the same for every row: name a column in it")
        self.bind(into, self.computed(tree), place, over=into)

    def computed(self, tree: expression.Tree) -> Number:
        """The number of a tree."""
        if isinstance(tree, float):
            return self.number("constant", -1, present=True, numbers=(tree,))
        if isinstance(tree, str):
            self.used.add(tree)
            return self.as_number(self.known[tree], times=True)
        if len(tree) == 2:
            operand = self.computed(tree[1])
            at = FUNCTIONS.index(tree[0])
            return self.number("function", operand.column, present=operand.present, a=operand.register, integers=(at,))
        left, right = self.computed(tree[1]), self.computed(tree[2])
        return self.number(
            tree[0],
            max(left.column, right.column) if min(left.column, right.column) < 0 else left.column,
            present=left.present and right.present,
            a=left.register,
            b=right.register,
        )

    def expanded(self, names: Iterable[str], place: Place) -> list[str]:
        """Columns, with groups as the columns that they stand for; an unknown name is a finding."""
        found: list[str] = []
        for at, name in enumerate(names):
            value = self.known.get(name)
            if value is None:
                self.unknown(name, (*place, at))
            elif isinstance(value, Group):
                self.used.add(name)
                found += self.expanded(value.names, (*place, at))
            elif isinstance(value, Text):
                message = f"`{name}` is text, and tensors hold numbers: encode it (one_hot, ordinal, hashed) first"
                self.report("error", "text-output", message, (*place, at))
            elif isinstance(value, Number) and value.kind == "timestamp":
                message = f"`{name}` is a time, and tensors hold numbers: use `cyclic` or `compute` first"
                self.report("error", "time-output", message, (*place, at))
            else:
                self.used.add(name)
                found.append(name)
        return found

    def store(self, tensor: int, name: str, columns: tuple[str, ...]) -> None:
        """A tensor's columns; those of one code are written together."""
        scattered: dict[tuple[int, int], dict[int, int]] = {}
        codes: dict[tuple[int, int], Coded] = {}
        grams: dict[tuple[Text, tuple[int, ...], tuple[str, ...]], list[list[int]]] = {}
        for at, column in enumerate(columns):
            value = self.known[column]
            if isinstance(value, Coded):
                key = (value.code.register, -1 if value.sign is None else value.sign.register)
                if value.place not in scattered.setdefault(key, {}):
                    scattered[key][value.place] = at
                    codes[key] = value
                    continue
            if isinstance(value, Gram):
                # A column that stands there twice takes another pass.
                passes = grams.setdefault((value.text, value.shape, value.stop_words), [])
                free = next((one for one in passes if one[value.place] < 0), None)
                if free is None:
                    free = [-1] * value.shape[0]
                    passes.append(free)
                free[value.place] = at
                continue
            number = self.as_number(value)
            self.effect("store", number.column, a=number.register, integers=(tensor, at))
            if not number.present:
                message = (
                    f"where `{column}` is missing, the model gets NaN: impute it, or refuse it, unless it takes NaN"
                )
                self.report("warning", "missing-output", message, ("outputs", name))
        for (register, sign), places in scattered.items():
            targets = tuple(places.get(place, -1) for place in range(max(places) + 1))
            self.effect("scatter", codes[register, sign].code.column, a=register, b=sign, integers=(tensor, *targets))
        for (text, shape, stop_words), passes in grams.items():
            for one in passes:
                self.effect("ngrams", text.column, a=text.register, integers=(tensor, *shape, *one), texts=stop_words)


def compile_plan(plan: Plan, file: str, places: Places) -> tuple[Compiled | None, list[Finding]]:
    """The program of a plan, or None where a finding is an error.

    Args:
        plan: as it was read.
        file: its name in findings.
        places: where everything stands in it.
    """
    compiler = Compiler(plan, file, places)
    compiled = compiler.run()
    return compiled, compiler.findings
