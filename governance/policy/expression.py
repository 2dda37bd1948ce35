"""Casbin's matcher expressions: the part of them that is safe and says what it means.

Contract: `parse` is a pure function from text to a tree and a fault with its offset; nothing is ever executed.
The grammar, with the precedence that pycasbin gives it (it turns `&&`, `||`, `!` into Python's `and`, `or`,
`not`, so `!a == b` means `!(a == b)`):

    condition  = both { ("||" | "or") both }
    both       = negated { ("&&" | "and") negated }
    negated    = ("!" | "not") negated | test
    test       = "True" | "False" | "(" condition ")" | function "(" text { "," text } ")"
               | text ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") (text | group)
    group      = ("[" | "(") text { "," text } ("]" | ")")
    text       = r.FIELD | p.FIELD | "LITERAL"

Everything is typed: a condition is no text and a text is no condition, as Casbin would raise on them at run
time. What Casbin has beyond this (attributes, arithmetic, `eval`, the clock) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from governance.documents.words import nearest

MATCHING = ("keyMatch", "keyMatch2", "keyMatch3", "keyMatch4", "keyMatch5", "regexMatch", "ipMatch", "globMatch")
"""Casbin's functions of a text and a pattern."""

_COMPARE = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")
_REFUSED = {
    "eval": "runs text of the policy as code: write the condition in the matcher",
    "timeMatch": "reads the clock, so that a decision could not be explained or repeated later",
}
_TOKEN = re.compile(
    r"(?P<space>[ \t]+)|(?P<op>&&|\|\||==|!=|<=|>=|[<>!(),\[\]])|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)|(?P<number>[0-9][0-9.]*)"
)
# pycasbin replaces these in the matcher's text, inside of literals too.
_MANGLED = re.compile(r"&&|\|\||!(?!=)|#|\\|\b[rp][0-9]*\.|\beval\(")


class ExpressionError(ValueError):
    """What is wrong with a matcher, and at which offset; `code` is the finding's."""

    def __init__(self, at: int, message: str, code: str = "matcher") -> None:
        super().__init__(message)
        self.at = at
        self.code = code


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the request (`r`) or of the rule (`p`)."""

    side: str
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """A literal."""

    value: str


Operand: TypeAlias = Field | Text


@dataclass(frozen=True, slots=True)
class Truth:
    """`True` or `False`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Compare:
    """Two texts compared; `in` and `not in` look for a part of the text on the right."""

    op: str
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class Among:
    """Whether a text is one of several."""

    left: Operand
    group: tuple[Operand, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Match:
    """One of `MATCHING`: whether a text matches a pattern."""

    function: str
    key: Operand
    pattern: Operand
    at: int
    """Offset of the function's name, for findings."""


@dataclass(frozen=True, slots=True)
class Linked:
    """`g(name, role)` or `g(name, role, domain)`."""

    function: str
    name: Operand
    role: Operand
    domain: Operand | None


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    of: Expression


@dataclass(frozen=True, slots=True)
class All:
    """Each of them, in order."""

    of: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One of them, in order."""

    of: tuple[Expression, ...]


Expression: TypeAlias = Truth | Compare | Among | Match | Linked | Not | All | Some

_Token: TypeAlias = tuple[str, str, int]


def parse(text: str, request: tuple[str, ...], rule: tuple[str, ...], roles: Mapping[str, int]) -> Expression:
    """The tree of a matcher.

    Args:
        text: the matcher, without comments.
        request: names of the request's fields.
        rule: names of the rule's fields.
        roles: `g`, `g2`, ... with their number of arguments.

    Raises:
        ExpressionError.
    """
    parser = _Parser(_tokens(text), request, rule, roles)
    tree = parser.condition()
    kind, word, at = parser.peek()
    if kind != "end":
        raise ExpressionError(at, f"`{word}` is not expected here: join conditions with `&&` or `||`")
    return tree


def matches(tree: Expression) -> Iterator[Match]:
    """Every use of a matching function."""
    if isinstance(tree, Match):
        yield tree
    elif isinstance(tree, Not):
        yield from matches(tree.of)
    elif isinstance(tree, (All, Some)):
        for one in tree.of:
            yield from matches(one)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "\"'":
                raise ExpressionError(at, "the quote is never closed (a `#` inside of a literal ends the matcher)")
            raise ExpressionError(at, f"`{text[at]}` has no meaning in a matcher here")
        kind, word = str(match.lastgroup), match[0]
        if kind == "number":
            raise ExpressionError(at, f'`{word}` is a number, and fields are text: write `"{word}"`')
        if kind == "text" and (mangled := _MANGLED.search(word)):
            where = at + mangled.start()
            raise ExpressionError(where, f"Casbin would change `{mangled[0]}` inside of the literal: leave it out")
        if word in ("&&", "||") and not (_apart(text, at - 1) and _apart(text, match.end())):
            raise ExpressionError(at, f"write blanks around `{word}`: Casbin would join the words beside it")
        if kind == "name":
            kind = "word" if word in ("and", "or", "not", "in", "True", "False") else "name"
        if kind != "space":
            found.append((kind, {"&&": "and", "||": "or", "!": "not"}.get(word, word), at))
        at = match.end()
    found.append(("end", "the end", len(text)))
    return found


def _apart(text: str, at: int) -> bool:
    return not 0 <= at < len(text) or text[at] in " \t()[]"


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(
        self, tokens: list[_Token], request: tuple[str, ...], rule: tuple[str, ...], roles: Mapping[str, int]
    ) -> None:
        self._tokens = tokens
        self._at = 0
        self._fields = {"r": request, "p": rule}
        self._roles = roles
        self._depth = 0

    def peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at += token[0] != "end"
        return token

    def _takes(self, word: str) -> bool:
        kind, found, _ = self.peek()
        if kind in ("op", "word") and found == word:
            self._at += 1
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            _, found, at = self.peek()
            raise ExpressionError(at, f"`{word}` is expected here, not `{found}`")

    def condition(self) -> Expression:
        self._depth += 1
        if self._depth > 50:
            raise ExpressionError(self.peek()[2], "brackets stand more than 50 deep: write it flatter")
        terms = [self._both()]
        while self._takes("or"):
            terms.append(self._both())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Some(tuple(terms))

    def _both(self) -> Expression:
        terms = [self._negated()]
        while self._takes("and"):
            terms.append(self._negated())
        return terms[0] if len(terms) == 1 else All(tuple(terms))

    def _negated(self) -> Expression:
        times = 0
        while self._takes("not"):
            times += 1
        test = self._test()
        return Not(test) if times % 2 else test

    def _test(self) -> Expression:
        kind, word, at = self.peek()
        if kind == "word" and word in ("True", "False"):
            self._next()
            return Truth(word == "True")
        if kind == "op" and word == "(" and not self._group_of_texts():
            self._next()
            inside = self.condition()
            self._expect(")")
            return inside
        if kind == "name" and self._tokens[self._at + 1][1] == "(":
            self._next()
            return self._call(word, at)
        left = self._operand()
        return self._comparison(left, at)

    def _group_of_texts(self) -> bool:
        """Whether a bracket opens around a single text, as in `("a") == r.sub`."""
        return self._tokens[self._at + 1][0] in ("text", "name") and self._tokens[self._at + 2][1] == ")"

    def _comparison(self, left: Operand, at: int) -> Expression:
        kind, word, where = self._next()
        if kind == "word" and word == "not":
            self._expect("in")
            word = "not in"
        if word not in _COMPARE or kind not in ("op", "word"):
            raise ExpressionError(at, "is text and no condition: compare it, with `==` for example")
        opening = self.peek()[1] if self.peek()[0] == "op" else ""
        if word in ("in", "not in") and (opening == "[" or (opening == "(" and not self._group_of_texts())):
            found: Expression = Among(left, self._group("]" if opening == "[" else ")"), word == "not in")
        else:
            found = Compare(word, left, self._operand())
        kind, word, where = self.peek()
        if word in _COMPARE or word == "not":
            raise ExpressionError(where, "comparisons in a chain: write two, joined with `&&`")
        return found

    def _group(self, closing: str) -> tuple[Operand, ...]:
        self._next()
        found: list[Operand] = []
        while not self._takes(closing):
            found.append(self._operand())
            if not self._takes(","):
                self._expect(closing)
                break
        return tuple(found)

    def _operand(self) -> Operand:
        kind, word, at = self._next()
        if kind == "op" and word == "(":
            inside = self._operand()
            self._expect(")")
            return inside
        if kind == "text":
            return Text(word[1:-1])
        if kind != "name":
            raise ExpressionError(at, f"a field or a literal is expected here, not `{word}`")
        return self._field(word, at)

    def _field(self, word: str, at: int) -> Field:
        if self.peek()[1] == "(" and self.peek()[0] == "op":
            raise ExpressionError(at, f"`{word}(...)` is a condition and no text")
        head, dot, rest = word.partition(".")
        if not dot and word[:2] in ("r_", "p_"):  # as Casbin itself spells `r.` and `p.`
            head, rest = word[0], word[2:]
        if head not in self._fields or not rest:
            plain = word.partition(".")[0]
            if re.fullmatch("[rp][0-9]+", plain):
                message = f"`{word}`: a gateway asks only `r` against `p`"
                raise ExpressionError(at, message, "unsupported")
            hint = {"true": "write `True`", "false": "write `False`"}.get(word, "fields are `r.NAME` and `p.NAME`")
            raise ExpressionError(at, f"unknown name `{word}`: {hint}")
        name, more, _ = rest.partition(".")
        if more:
            message = f"`{word}` reads an attribute of an object: requests here are text alone"
            raise ExpressionError(at, message, "unsupported")
        names = self._fields[head]
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean `{head}.{close}`?" if close else f"`{head}` has {', '.join(names)}"
            raise ExpressionError(at, f"`{head}` has no field `{name}`: {hint}")
        return Field(head, names.index(name), name)

    def _call(self, word: str, at: int) -> Expression:
        if word in _REFUSED:
            raise ExpressionError(at, f"`{word}` {_REFUSED[word]}", "unsupported")
        self._expect("(")
        arguments: list[Operand] = []
        while not self._takes(")"):
            arguments.append(self._operand())
            if not self._takes(","):
                self._expect(")")
                break
        if word in self._roles:
            wanted = self._roles[word]
            if len(arguments) != wanted:
                raise ExpressionError(
                    at, f"`{word}` takes {wanted} arguments, as [role_definition] says, not {len(arguments)}"
                )
            return Linked(word, arguments[0], arguments[1], arguments[2] if wanted == 3 else None)
        if word not in MATCHING:
            known = [*MATCHING, *self._roles]
            if re.fullmatch("g[0-9]*", word):
                raise ExpressionError(at, f"`{word}` is not in [role_definition]: add `{word} = _, _`")
            close = nearest(word, known)
            message = f"unknown function `{word}`: " + (
                f"did you mean `{close}`?" if close else f"there are {', '.join(known)}"
            )
            raise ExpressionError(at, message, "unsupported")
        if len(arguments) != 2:
            raise ExpressionError(at, f"`{word}` takes a text and a pattern, not {len(arguments)} arguments")
        key, pattern = arguments
        if word != "keyMatch" and isinstance(pattern, Field) and pattern.side == "r":
            message = f"`{word}` would take its pattern from the request, so that callers could write it: swap the two"
            raise ExpressionError(at, message, "unsupported")
        return Match(word, key, pattern, at)
