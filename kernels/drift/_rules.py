"""What columns have to be, and where what breaks that is counted: shared by both twins.

A block of rules is 64-bit words in the machine's byte order, apart from the shard's own, so that other rules leave its
counts alone: a header (`VERSION`, `ROWS` as in the shard's; `UNREAD`: calls that could not be judged and were refused),
then for each column with a rule eight words, and the registers of a sketch where it counts distinct values:

    VALUES            values of the column's kind
    BROKEN + rule     rows that broke it; of a value the first rule that it breaks. Missing ones are not counted: rows
                      less VALUES less BROKEN + SCHEMA are missing
    REFUSED + rule    calls that were refused for it

The sketch is HyperLogLog (Flajolet et al. 2007) of 2^11 registers, a byte each: of a value's hash the upper 11 bits
say which, and the register is the largest place of the highest bit set in the others, from 1. Merging takes the larger
register. Hashes: fmix64 of MurmurHash3 of a number's float64 bits (-0.0 as 0.0), or of a text's FNV-1a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.drift._plan import HEADER, Names

UNREAD = 2
MISSING, SCHEMA, RANGE, AMONG = range(4)
"""Rules, in the order in which a value is held against them."""
VALUES = 0
BROKEN = 0
"""Of a rule other than MISSING: this and its number."""
REFUSED = 4
_WORDS = 8
SKETCH_BITS = 11
REGISTERS = 1 << SKETCH_BITS
_WORD = 2**64 - 1


class Rule(NamedTuple):
    """Of one column."""

    required: bool = False
    """No row may lack it."""
    typed: bool = False
    """It is in every call, and its values are of its kind: no text where numbers are, no numbers where times are."""
    low: float = -inf
    """Numbers alone, as `high`: bounds that are allowed themselves, rounded as the tensor's datatype is."""
    high: float = inf
    among: Names | None = None
    """Values that are allowed: its names; it has no others."""
    distinct: bool = False
    """Different values are counted."""


def rule_places(rules: Mapping[int, Rule]) -> tuple[dict[int, int], int]:
    """The first word of each column with a rule, by its number; and how many words there are in all.

    ValueError: a bound is NaN, or a set of values has others.
    """
    found, at = {}, HEADER
    for column in sorted(rules):
        rule = rules[column]
        if isnan(rule.low) or isnan(rule.high):
            raise ValueError("a bound is no number")
        if rule.among is not None and (rule.among.others or len(rule.among.numbers) != len(rule.among.names)):
            raise ValueError("a set of values has others, or numbers that are not as many")
        found[column] = at
        at += _WORDS + (REGISTERS // 8 if rule.distinct else 0)
    return found, at


def rule_nbytes(rules: Mapping[int, Rule]) -> int:
    """Bytes of a block of rules."""
    return rule_places(rules)[1] * 8


def merge_rules(rules: Mapping[int, Rule], blocks: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """One block that counts what several do; none is all zeros.

    ValueError: a block is of other rules.
    """
    places, words = rule_places(rules)
    total = np.zeros(words, dtype=np.uint64)
    for block in blocks:
        more = np.frombuffer(block, dtype=np.uint64)
        if len(more) != words:
            raise ValueError("a block of other rules")
        before = total.copy()
        total += more
        for column, place in places.items():
            if rules[column].distinct:
                span = slice(place + _WORDS, place + _WORDS + REGISTERS // 8)
                total[span] = np.maximum(before[span].view(np.uint8), more[span].view(np.uint8)).view(np.uint64)
    total[0] = 0
    return total


def registers(rules: Mapping[int, Rule], block: npt.NDArray[np.uint64], column: int) -> npt.NDArray[np.uint8]:
    """The sketch of a column whose rule is `distinct`."""
    place = rule_places(rules)[0][column] + _WORDS
    return block[place : place + REGISTERS // 8].view(np.uint8)


def registers_at(place: int) -> int:
    """The first byte, in the block, of the sketch of a column whose words begin there."""
    return (place + _WORDS) * 8


def mixed(bits: int) -> int:
    """The last step of MurmurHash3 x64 (https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp)."""
    bits = (bits ^ bits >> 33) * 0xFF51AFD7ED558CCD & _WORD
    bits = (bits ^ bits >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return bits ^ bits >> 33


def fnv(text: bytes) -> int:
    """FNV-1a of 64 bits (http://www.isthe.com/chongo/tech/comp/fnv/)."""
    found = 0xCBF29CE484222325
    for one in text:
        found = (found ^ one) * 0x100000001B3 & _WORD
    return found


def sketched(hashed: int) -> tuple[int, int]:
    """The register of a hash, and the least that it has to be."""
    rest = (hashed << SKETCH_BITS & _WORD) | 1 << (SKETCH_BITS - 1)
    return hashed >> (64 - SKETCH_BITS), 65 - rest.bit_length()
