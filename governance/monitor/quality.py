"""Data quality: what columns were declared to be, as rules of the kernel, and what was found.

Contract: pure. A constraint is of one column: `range`, `set` and `schema` are of each value; `missing` is of the share
of rows, and of each row where none may be missing; `unique` is of the share of values that differ, by a sketch. Counts
are whole numbers and sketches merge, so that what several workers found is what one would have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import inf, isfinite
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from governance.errors import DataError
from governance.monitor import live
from governance.monitor.kinds import label, number_written
from governance.monitor.profile import ColumnProfile, Names, Numbers, Profile, Times, build
from governance.monitor.rows import RowTensor, Values
from governance.monitor.sketch import ERROR, estimate
from governance.tables import Table
from kernels import drift

MIN_ROWS = 30
"""Rows, or values, below which a share says nothing; as of columns in reports."""
_SURE = 3
"""Standard errors by which values must be too few."""

Kind: TypeAlias = Literal["missing", "schema", "range", "set", "unique"]
KINDS: tuple[Kind, ...] = ("missing", "schema", "range", "set")
"""By the numbers of the kernel's rules."""
Words: TypeAlias = npt.NDArray[np.uint64]


class Declared(Protocol):
    """What a column has to be; `gateway.settings.routes.Constraint` is such. None: anything."""

    @property
    def min(self) -> float | None:
        """The least number."""

    @property
    def max(self) -> float | None:
        """The greatest."""

    @property
    def values(self) -> tuple[str | float | bool, ...] | None:
        """All that it may be."""

    @property
    def missing(self) -> float | None:
        """The greatest share of rows without it."""

    @property
    def unique(self) -> float | None:
        """The least share of its values that differ."""


class Constraint(msgspec.Struct, frozen=True):
    """One constraint, and what was found."""

    column: str
    constraint: Kind
    declared: dict[str, Any]
    """As it was: `min`, `max`, `values`, `missing`, `unique`, or the column's kind."""
    status: Literal["ok", "violated", "insufficient"]
    """Of what was served: refused calls break nothing. Insufficient: too few rows to say."""
    rows: int
    """That were held against it; of `unique` the values."""
    broken: int | None
    """Rows that broke it; of `unique` null."""
    refused: int
    """Calls that were refused for it."""
    share: float | None
    """`broken` of `rows`; of `unique` the share of different values, about 2.3 % off. Null without rows."""


class Quality(msgspec.Struct, frozen=True):
    """All constraints of a route."""

    on_violation: Literal["count", "refuse"]
    rows: int
    """Served since these constraints took force."""
    unread: int
    """Calls that were refused because their values could not be looked at."""
    constraints: list[Constraint]


def faults(profile: Profile, declared: Mapping[str, Declared]) -> Iterator[tuple[str, str, str]]:
    """Column, key (empty: the column itself) and what is wrong with it."""
    columns = {column.name: column for column in profile.columns}
    for name, one in declared.items():
        column = columns.get(name)
        if column is None:
            yield name, "", "the profile has no such column"
            continue
        given = {key for key in ("min", "max", "values", "missing", "unique") if getattr(one, key) is not None}
        if not given:
            yield name, "", "it says nothing: give it `min`, `max`, `values`, `missing` or `unique`"
        if not isinstance(column, Numbers):
            for key in sorted(given & {"min", "max"}):
                yield name, key, f"a bound is of numbers, and this column is {_kind(column)}"
        elif one.min is not None and one.max is not None and one.min > one.max:
            yield name, "min", "it is above `max`: no value would be allowed"
        if one.values is not None:
            yield from ((name, "values", why) for why in _wrong_values(column, one.values))


def _wrong_values(column: ColumnProfile, values: tuple[str | float | bool, ...]) -> Iterator[str]:
    if not values:
        yield "the list is empty: no value would be allowed"
    if isinstance(column, Times):
        yield "a set of values is of numbers or categories, and this column is timestamp"
    elif isinstance(column, Numbers) and not all(isfinite(_number(value)) for value in values):
        yield "the column is numeric, and one of these is no number"


def rules_of(
    profile: Profile, declared: Mapping[str, Declared], *, schema: bool, outputs: Collection[str] = ()
) -> dict[int, drift.Rule]:
    """The kernel's rules, by column. The constraints have no `faults`.

    Args:
        profile: what the columns are.
        declared: by column.
        schema: every input column is in each call, with values of its kind.
        outputs: output tensors that are columns; they are watched and never asked for.
    """
    _, answered = drift.tensors_of([column.name for column in profile.columns], tuple(outputs))
    given = {at for wide in answered.values() for at in wide}
    found = {}
    for at, column in enumerate(profile.columns):
        one = declared.get(column.name)
        if one is None and (not schema or at in given):
            continue
        typed = schema and at not in given
        if one is None:
            found[at] = drift.Rule(typed=typed)
            continue
        found[at] = drift.Rule(
            required=one.missing == 0,
            typed=typed,
            low=-inf if one.min is None else one.min,
            high=inf if one.max is None else one.max,
            among=None if one.values is None else _among(column, one.values),
            distinct=one.unique is not None,
        )
    return found


def _among(column: ColumnProfile, values: tuple[str | float | bool, ...]) -> drift.Names:
    truth = isinstance(column, Names) and column.truth
    names = tuple(dict.fromkeys(label(value, "boolean" if truth else "categorical") for value in values))
    numbers = tuple(number if isfinite(number := number_written(name)) else None for name in names)
    return drift.Names(names, (), numbers, truth)


def _number(value: str | float | bool) -> float:
    return number_written(label(value))


def report(
    profile: Profile,
    declared: Mapping[str, Declared],
    rules: Mapping[int, drift.Rule],
    block: Words,
    on_violation: Literal["count", "refuse"] = "count",
) -> Quality:
    """What was found, of a block that `rules` describe."""
    places, _ = drift.rule_places(rules)
    rows = int(block[drift.ROWS])
    constraints: list[Constraint] = []
    for at, rule in rules.items():
        column = profile.columns[at]
        words = [int(word) for word in block[places[at] : places[at] + 8]]
        one = declared.get(column.name)
        values, foreign = words[drift.VALUES], words[drift.BROKEN + drift.SCHEMA]
        for kind, said in _declared(column, rule, one):
            if kind == "unique":
                distinct = estimate(drift.registers(rules, block, at))
                constraints.append(_unique(column.name, said, values, distinct))
                continue
            number = KINDS.index(kind)
            missing = kind == "missing"
            # A worker that was killed amid a call may have counted some of its values.
            broken = max(0, rows - values - foreign) if missing else words[drift.BROKEN + number]
            most = float(said["missing"]) if missing else 0.0
            constraints.append(
                Constraint(
                    column=column.name,
                    constraint=kind,
                    declared=said,
                    status=_status(rows, broken, most),
                    rows=rows,
                    broken=broken,
                    refused=words[drift.REFUSED + number],
                    share=broken / rows if rows else None,
                )
            )
    return Quality(on_violation, rows, int(block[drift.UNREAD]), constraints)


def of_table(
    reference: Table, table: Table, declared: Mapping[str, Declared], *, schema: bool, categorical: Collection[str] = ()
) -> Quality:
    """What was found in a table, whose rows are as calls of one row each.

    Args:
        reference: decides what a column is.
        table: what is held against the constraints.
        declared: by column.
        schema: every column of the reference is there.
        categorical: columns of numbers that are names.

    Raises:
        DataError: a constraint cannot be of the reference's columns, or there are no rows to decide by.
    """
    for name in declared:
        if name not in reference.columns:
            raise DataError(f"{reference.path}: there is no column '{name}' to hold to a constraint")
    without = [name for name in reference.columns if not schema and name not in declared]
    if len(without) == len(reference.columns):
        return Quality("count", table.rows, 0, [])
    names = [name for name in categorical if name not in without]
    profile = build(reference, categorical=names, without=without)
    for name, key, why in faults(profile, declared):
        raise DataError(f"{reference.path}: '{name}'{key and f' `{key}`'}: {why}")
    rules = rules_of(profile, declared, schema=schema)
    columns = live.counted(profile)
    block, broken = bytearray(drift.nbytes(columns)), bytearray(drift.rule_nbytes(rules))
    tensors = {column.name: (at,) for at, column in enumerate(profile.columns)}
    shard = drift.Shard(block, columns, tensors, None, rules, broken)
    rows = np.arange(table.rows)
    there = [column for column in profile.columns if column.name in table.columns]
    found = [Values(column, table.columns[column.name]).tensor(rows) for column in there]
    # Without any of them the rows are those of the first tensor, which is in no column.
    shard.count(found or [RowTensor("", "BOOL", (table.rows,), b"")] * 2)
    return report(profile, declared, rules, drift.merge_rules(rules, [bytes(broken)]))


def _declared(column: ColumnProfile, rule: drift.Rule, one: Declared | None) -> Iterator[tuple[Kind, dict[str, Any]]]:
    if one is not None and one.missing is not None:
        yield "missing", {"missing": one.missing}
    if rule.typed:
        yield "schema", {"kind": _kind(column)}
    if one is None:
        return
    bounds = {key: bound for key, bound in (("min", one.min), ("max", one.max)) if bound is not None}
    if bounds:
        yield "range", bounds
    if one.values is not None:
        yield "set", {"values": list(one.values)}
    if one.unique is not None:
        yield "unique", {"unique": one.unique}


def _status(rows: int, broken: int, most: float) -> Literal["ok", "violated", "insufficient"]:
    if rows < (MIN_ROWS if most else 1):
        return "insufficient"
    return "violated" if broken > most * rows else "ok"


def _unique(name: str, said: dict[str, Any], values: int, distinct: float) -> Constraint:
    status: Literal["ok", "violated", "insufficient"] = "ok"
    if values < MIN_ROWS:
        status = "insufficient"
    elif distinct * (1 + _SURE * ERROR) < said["unique"] * values:
        status = "violated"
    share = min(1.0, distinct / values) if values else None
    return Constraint(name, "unique", said, status, values, None, 0, share)


def _kind(column: ColumnProfile) -> Literal["numeric", "categorical", "timestamp"]:
    if isinstance(column, Numbers):
        return "numeric"
    return "categorical" if isinstance(column, Names) else "timestamp"


def words_of(rule: int, column: ColumnProfile, one: Declared | None) -> str:
    """Why a value was refused, for the client: what was declared, and never the value."""
    kind = KINDS[rule]
    if kind == "missing":
        return "is missing, and constraint `missing` has it in every row"
    if kind == "schema":
        return f"is not there or of another kind than {_kind(column)}, which constraint `schema` has it be"
    if kind == "range":
        assert one is not None
        low, high = (None if bound is None else f"{bound:g}" for bound in (one.min, one.max))
        sides = f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"
        return f"is outside of {sides} (constraint `range`)"
    return "is none of the values that constraint `set` allows"
