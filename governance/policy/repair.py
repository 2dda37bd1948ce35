"""What a line of a policy surely was meant to be: the repairs that `lint --fix` may make by itself.

Contract: pure functions of text. A repair undoes what a spreadsheet or an editor did (quotes, a byte order
mark, trailing commas, other separators, invisible characters) or what can be meant in one way alone (`Deny`,
`P`, a note behind a rule). The policy with such a line is refused, so no decision in force changes by it.
Nothing is repaired that would need a guess about names, roles or who may do what. Lines that need no repair
stay byte for byte as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping

from governance.policy.model import EFFECTS

_MOST_ROUNDS = 4
"""Repairs of one line that follow one from another: quotes, then separators, then a comma too many."""
_ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad]")


def line(text: str, shapes: Mapping[str, int], effect: int | None) -> str | None:
    """The repaired line, or None where there is no sure repair.

    Args:
        text: the line without its end.
        shapes: kinds of lines (`p`, `g`, ...) with their number of fields.
        effect: index of the effect in a `p` line.
    """
    found = text
    for _ in range(_MOST_ROUNDS):
        better = _once(found, shapes, effect)
        if better == found:
            break
        found = better
    return found if found != text and _stands(found, shapes, effect) else None


def _once(text: str, shapes: Mapping[str, int], effect: int | None) -> str:
    stripped = _ZERO_WIDTH.sub("", text).strip(" \t\u00a0")
    if stripped.startswith(";"):
        return "#" + stripped[1:]
    if '"' in stripped:
        return _unquoted(stripped)
    if not stripped.strip(", \t"):
        return ""
    if stripped.startswith("#"):
        return stripped
    note = re.search(r"[ \t,]#", stripped)
    if note is not None:
        rule = stripped[: note.start()].rstrip(", \t")
        return f"{stripped[note.start() + 1 :]}\n{rule}"
    if re.match(r"[pgPG][0-9]*[ \t]*[;\t]", stripped):
        separator = ";" if ";" in stripped else "\t"
        return stripped if "," in stripped else ", ".join(one.strip() for one in stripped.split(separator))
    return _fields(stripped, shapes, effect)


def _unquoted(text: str) -> str:
    """A line as a spreadsheet writes it, without its quotes; as it was where a value needs them."""
    separator = ";" if text.count(";") > text.count(",") else ","
    try:
        ((*values,),) = csv.reader([text], delimiter=separator, strict=True, skipinitialspace=True)
    except (csv.Error, ValueError):
        return text
    if values and values[0].lstrip().startswith("#") and not any(values[1:]):
        return values[0].strip()
    if any(character in value for value in values for character in '",;'):
        return text
    return ", ".join(value.strip() for value in values)


def _fields(text: str, shapes: Mapping[str, int], effect: int | None) -> str:
    values = [value.strip(" \t\u00a0") for value in text.split(",")]
    values[0] = values[0].lower() if values[0].lower() in shapes else values[0]
    wanted = shapes.get(values[0])
    if wanted is None:
        return text
    while len(values) > wanted + 1 and not values[-1]:
        values.pop()
    if values[0] == "p" and effect is not None and len(values) == wanted + 1 and values[effect + 1].lower() in EFFECTS:
        values[effect + 1] = values[effect + 1].lower()
    joined = ", ".join(values)
    return text if joined.replace(" ", "") == text.replace(" ", "") else joined


def _stands(text: str, shapes: Mapping[str, int], effect: int | None) -> bool:
    """Whether a repaired line would be read without a finding."""
    for one in text.split("\n"):
        if not one or one.startswith("#"):
            continue
        values = [value.strip() for value in one.split(",")]
        if shapes.get(values[0]) != len(values) - 1 or not all(values) or not one.isprintable():
            return False
        if any(character in one for character in "\"'()[]") or re.search(r"[ \t,]#", one):
            return False
        if values[0] == "p" and effect is not None and values[effect + 1] not in EFFECTS:
            return False
    return True


def repaired(data: bytes, repairs: Callable[[bytes], Mapping[int, str]]) -> tuple[bytes, list[int]]:
    """A policy after its sure repairs, and the numbers of the lines that changed.

    Args:
        data: the policy's bytes; returned as they are when they are no UTF-8.
        repairs: reads a policy and says what its lines should be (`ParsedPolicy.repairs`).
    """
    found = dict(repairs(data))
    bare = data.removeprefix(b"\xef\xbb\xbf")
    lines = bare.split(b"\n")
    for number, text in found.items():
        end = b"\r" if lines[number - 1].endswith(b"\r") else b""
        lines[number - 1] = text.encode().replace(b"\n", end + b"\n") + end
    return b"\n".join(lines), sorted(found)
