"""Casbin's matching functions, with the pattern compiled once.

Contract: `compiled(function, pattern)` is a predicate of one text that answers as pycasbin 2.8 does (its
`util/builtin_operators.py`), oddities included, since policies must mean the same to both: `keyMatch` ignores
what follows the first `*`; `regexMatch` is anchored at the start alone; `.` in `keyMatch2` to `keyMatch5` is
any character, and their end matches before a trailing newline. A pattern that can never be judged is a
`PatternError` when it is compiled; a request that cannot is `Unjudged`, where pycasbin raises.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Callable
from typing import TypeAlias

from wcmatch import glob
from wcmatch._wcparse import PatternLimitException

Predicate: TypeAlias = Callable[[str], bool]

_NAMED2 = re.compile(r"(.*?):[^\/]+(.*?)")
_NAMED3 = re.compile(r"(.*?){[^\/]+?}(.*?)")
_NAMED4 = re.compile(r"{([^/]+)}")
_NAMED5 = re.compile(r"{[^/]+}")


class PatternError(ValueError):
    """A pattern that can never be judged."""


class Unjudged(ValueError):
    """A request that a function cannot judge, such as `ipMatch` of what is no address."""


def compiled(function: str, pattern: str) -> Predicate:
    """The predicate of one of `expression.MATCHING` and a pattern.

    Raises:
        PatternError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # "[[" may mean something else one day
            return _COMPILERS[function](pattern)
    except (re.error, RecursionError, OverflowError, PatternLimitException) as error:
        raise PatternError(f"`{pattern}` is no pattern for `{function}` ({error})") from None


def prefix_of(pattern: str) -> str | None:
    """What texts that `keyMatch` a pattern start with; None: they equal it."""
    star = pattern.find("*")
    return None if star < 0 else pattern[:star]


def _key_match(pattern: str) -> Predicate:
    prefix = prefix_of(pattern)
    if prefix is None:
        return pattern.__eq__
    return lambda key: key.startswith(prefix)


def _regex(expression: str) -> Predicate:
    match = re.compile(expression).match
    return lambda key: match(key) is not None


def _key_match2(pattern: str) -> Predicate:
    expression = _NAMED2.sub(r"\g<1>[^\/]+\g<2>", pattern.replace("/*", "/.*"))
    return _regex("^" + ("(.*)" if expression == "*" else expression) + "$")


def _key_match3(pattern: str) -> Predicate:
    return _regex("^" + _NAMED3.sub(r"\g<1>[^\/]+\g<2>", pattern.replace("/*", "/.*")) + "$")


def _key_match4(pattern: str) -> Predicate:
    """As `keyMatch3`, and what has the same name must be the same."""
    names: list[str] = []

    def group(match: re.Match[str]) -> str:
        names.append(match[1])
        return "([^/]+)"

    expression = re.compile("^" + _NAMED4.sub(group, pattern.replace("/*", "/.*")) + "$")
    if expression.groups != len(names):
        raise PatternError(f"`{pattern}` has round brackets, which `keyMatch4` cannot count: leave them out")

    def same(key: str) -> bool:
        match = expression.match(key)
        if match is None:
            return False
        found: dict[str, str | None] = {}
        return all(found.setdefault(name, value) == value for name, value in zip(names, match.groups(), strict=True))

    return same


def _key_match5(pattern: str) -> Predicate:
    match = re.compile("^" + _NAMED5.sub(r"[^/]+", pattern.replace("/*", "/.*")) + "$").match
    return lambda key: match(key.partition("?")[0]) is not None


def _ip_match(pattern: str) -> Predicate:
    try:
        network = ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        network = None  # pycasbin then compares an address with a text: never equal

    def inside(key: str) -> bool:
        try:
            address = ipaddress.ip_address(key)
        except ValueError:
            raise Unjudged("ipMatch of what is no address") from None
        return network is not None and address in network

    return inside


def _glob_match(pattern: str) -> Predicate:
    while pattern.startswith("*/"):
        pattern = pattern[1:]
    parts = [part if part == "**" else re.sub(r"\*{2,}", "*", part) for part in pattern.split("/")]
    spelled = "/".join(parts)
    if spelled.endswith("/**"):  # a folder matches as well as what is in it
        spelled = "{" + spelled[:-3] + "," + spelled + "}"
    matcher = glob.compile(spelled, flags=glob.GLOBSTAR | glob.BRACE)
    return lambda key: bool(matcher.match(key))


_COMPILERS: dict[str, Callable[[str], Predicate]] = {
    "keyMatch": _key_match,
    "keyMatch2": _key_match2,
    "keyMatch3": _key_match3,
    "keyMatch4": _key_match4,
    "keyMatch5": _key_match5,
    "regexMatch": _regex,
    "ipMatch": _ip_match,
    "globMatch": _glob_match,
}
