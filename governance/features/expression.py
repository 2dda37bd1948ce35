"""Expressions of `compute`: `income / (debt + 1)`, `log1p(amount) * 2`, over columns and numbers.

Python's own grammar, of which only this much is taken: names, numbers, `+ - * / **`, a sign, parentheses, and functions
of one number. Nothing is ever evaluated by Python.
"""

from __future__ import annotations

import ast
from typing import Final, TypeAlias

from governance.documents.words import suggest
from kernels.features import FUNCTIONS

CALLABLE: Final = tuple(name for name in FUNCTIONS if not name.endswith("_turn"))
OPERATORS: Final = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power",
}  # fmt: skip
_LONGEST = 2000

Tree: TypeAlias = float | str | tuple[str, "Tree"] | tuple[str, "Tree", "Tree"]
"""A number, a column's name, `(function, operand)` or `(operator, left, right)`."""


def parse(text: str) -> Tree:
    """The expression's tree. ValueError says what is wrong with it."""
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters: make it several columns")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _taken(tree.body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("is no expression: write one such as income / (debt + 1)") from None


def _taken(node: ast.expr) -> Tree:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            try:
                return float(value)
            except OverflowError:
                raise ValueError("a number in it is too large") from None
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return ("negative", _taken(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _taken(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return (OPERATORS[type(op)], _taken(left), _taken(right))
        case ast.Call(func=ast.Name(id=name), args=[operand], keywords=[]):
            if name not in CALLABLE:
                raise ValueError(f"there is no function `{name}`: {suggest(name, CALLABLE, 'functions')}")
            return (name, _taken(operand))
    raise ValueError("has more in it than columns, numbers, + - * / **, parentheses and functions of one number")


def columns_of(tree: Tree) -> list[str]:
    """The columns that it reads, in order."""
    if isinstance(tree, str):
        return [tree]
    if isinstance(tree, float):
        return []
    return list(dict.fromkeys(name for part in tree[1:] for name in columns_of(part)))
