"""The steps that take several columns at once and leave a group: products, rows over their norm, projections.

Contract as in `steps.py`. Formulas are scikit-learn's; sums run in the columns' order, where its libraries take theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Final

from governance.documents.convert import Place
from governance.features import plan as p
from governance.features.values import Group, Number, Wrong
from kernels.features import FUNCTIONS

if TYPE_CHECKING:
    from governance.features.compiling import Compiler

MOST_PRODUCTS: Final = 20_000
"""Columns that one polynomial may make."""
MOST_WEIGHTS: Final = 200_000
"""Of one projection, each of which is an instruction."""
_NEARLY_0: Final = 10 * 2.220446049250313e-16
"""Norms below it are taken for 0, as scikit-learn does."""


def _factors(c: Compiler, listed: Iterable[str], place: Place) -> tuple[list[str], list[Number]] | None:
    """The columns that are meant and their numbers; None where there are none, which is a finding already."""
    columns = c.expanded(listed, (*place, "columns"))
    if not columns:
        return None
    return columns, [c.as_number(c.known[name]) for name in columns]


def _bound(c: Compiler, into: str, names: Sequence[str], values: Iterable[Number], place: Place) -> None:
    for name, value in zip(names, values, strict=True):
        c.bind(name, value, place)
    c.bind(into, Group(tuple(names)), (*place, "into"))


def _polynomial(c: Compiler, what: p.Polynomial, place: Place) -> None:
    """Products, built as scikit-learn builds them: the first factor times the product of the rest."""
    if what.least > what.degree:
        raise Wrong(f"is more than degree {what.degree}", "least")
    found = _factors(c, what.columns, place)
    if found is None:
        return
    columns, factors = found
    pick: Callable[[Iterable[int], int], Iterable[tuple[int, ...]]]
    pick = combinations if what.interaction_only else combinations_with_replacement
    chosen = chain.from_iterable(pick(range(len(columns)), size) for size in range(what.least, what.degree + 1))
    names: list[str] = []
    values: list[Number] = []
    made: dict[tuple[int, ...], Number] = {}
    for one in chosen:
        if len(names) == MOST_PRODUCTS:
            raise Wrong(f"makes more than {MOST_PRODUCTS} columns", "degree")
        names.append(f"{what.into}_{_product_name(one, columns)}")
        values.append(_product(c, one, factors, made))
    _bound(c, what.into, names, values, place)


def _product(c: Compiler, one: tuple[int, ...], factors: list[Number], made: dict[tuple[int, ...], Number]) -> Number:
    """The product of some factors; what it is made of is made once."""
    if not one:
        return c.number("constant", factors[0].column, present=True, numbers=(1.0,))
    if len(one) == 1:
        return factors[one[0]]
    if one not in made:
        first, rest = factors[one[0]], _product(c, one[1:], factors, made)
        present = first.present and rest.present
        made[one] = c.number("multiply", first.column, present=present, a=first.register, b=rest.register)
    return made[one]


def _product_name(one: tuple[int, ...], columns: list[str]) -> str:
    parts = []
    for at in dict.fromkeys(one):
        times = one.count(at)
        parts.append(columns[at] if times == 1 else f"{columns[at]}^{times}")
    return " ".join(parts) or "1"


def _normalise(c: Compiler, what: p.Normalise, place: Place) -> None:
    """Each column over the norm of all."""
    found = _factors(c, what.columns, place)
    if found is None:
        return
    columns, factors = found
    present = all(one.present for one in factors)
    together = "maximum" if what.norm == "max" else "add"
    norm = None
    for one in factors:
        if what.norm == "l2":
            part = c.number("multiply", one.column, present=one.present, a=one.register, b=one.register)
        else:
            absolute = (FUNCTIONS.index("abs"),)
            part = c.number("function", one.column, present=one.present, a=one.register, integers=absolute)
        if norm is not None:
            part = c.number(together, one.column, present=present, a=norm.register, b=part.register)
        norm = part
    assert norm is not None
    if what.norm == "l2":
        root = (FUNCTIONS.index("sqrt"),)
        norm = c.number("function", norm.column, present=present, a=norm.register, integers=root)
    norm = c.number("replace_below", norm.column, present=present, a=norm.register, numbers=(_NEARLY_0, 1.0))
    values = [c.number("divide", one.column, present=present, a=one.register, b=norm.register) for one in factors]
    _bound(c, what.into, [f"{what.into}_{name}" for name in columns], values, place)


def _project(c: Compiler, what: p.Project, place: Place) -> None:
    """Weighted sums."""
    found = _factors(c, what.columns, place)
    if found is None:
        return
    columns, factors = found
    _judge(what, len(columns))
    present = all(one.present for one in factors)
    values = []
    for at, weights in enumerate(what.weights):
        first = factors[0]
        total = c.number("multiply_add", first.column, present=present, a=first.register, numbers=(weights[0], 0.0))
        for one, weight in zip(factors[1:], weights[1:], strict=True):
            total = c.number(
                "add_scaled", one.column, present=present, a=one.register, b=total.register, numbers=(weight,)
            )
        if what.centre or what.scale:
            rest = (what.centre[at] if what.centre else 0.0, what.scale[at] if what.scale else 1.0)
            total = c.number("subtract_divide", total.column, present=present, a=total.register, numbers=rest)
        values.append(total)
    _bound(c, what.into, [f"{what.into}_{at}" for at in range(len(values))], values, place)


def _judge(what: p.Project, columns: int) -> None:
    """Wrong unless there is a number for everything."""
    size = len(what.weights)
    if size * columns > MOST_WEIGHTS:
        raise Wrong(f"has more than {MOST_WEIGHTS} weights", "weights")
    for at, weights in enumerate(what.weights):
        if len(weights) != columns:
            raise Wrong(f"has {len(weights)} of them in list {at + 1}, and there are {columns} columns", "weights")
    for key, listed in (("centre", what.centre), ("scale", what.scale)):
        if listed and len(listed) != size:
            raise Wrong(f"are {len(listed)}, and there are {size} lists of weights", key)
    if 0 in what.scale:
        raise Wrong("must not be 0", "scale")


WIDE: Final[dict[str, Callable[..., None]]] = {
    "polynomial": _polynomial,
    "normalise": _normalise,
    "project": _project,
}
