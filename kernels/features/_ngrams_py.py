"""Hashed n-grams of the specification: what scikit-learn's HashingVectorizer counts in a text."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence

from kernels.features._numbers_py import murmur3

WORD, CHAR, CHAR_WB = 0, 1, 2
"""Analyzers: words of at least two characters; characters; characters of each word, with a blank on either side."""
LOWERCASE, SIGNED, BINARY = 1, 2, 4
"""Bits: lower case first; a count is -1 where the hash is below 0; a bucket holds 1, however many fall into it."""
NO_NORM, L1, L2 = 0, 1, 2
_WORD = re.compile(r"\b\w\w+\b")
_BLANKS = re.compile(r"\s\s+")


def bucket_of(hashed: int, buckets: int) -> int:
    """The bucket of a signed hash; where abs() does not fit 32 bits, as scikit-learn's FeatureHasher has it."""
    return (2**31 - 1 - (buckets - 1)) % buckets if hashed == -(2**31) else abs(hashed) % buckets


def counted(text: bytes, integers: Sequence[int], stop_words: Collection[bytes]) -> dict[int, float] | None:
    """What is in the buckets that n-grams of a text fall into; None: it is no UTF-8.

    Args:
        text: UTF-8.
        integers: number of buckets, analyzer, least and most n, bits, norm.
        stop_words: words that are left out, as they are after lower case.
    """
    buckets, analyzer, least, most, bits, norm = integers
    try:
        words = text.decode()
    except UnicodeDecodeError:
        return None
    if bits & LOWERCASE:
        words = words.lower()
    found: dict[int, float] = {}
    for one in _grams(words, analyzer, least, most, stop_words):
        hashed = murmur3(one.encode())
        bucket = bucket_of(hashed, buckets)
        found[bucket] = found.get(bucket, 0.0) + (-1.0 if bits & SIGNED and hashed < 0 else 1.0)
    if bits & BINARY:
        found = dict.fromkeys(found, 1.0)
    # Sums of whole numbers are exact, in whatever order.
    size = sum(map(abs, found.values())) if norm == L1 else math.sqrt(sum(one * one for one in found.values()))
    return {bucket: one / size for bucket, one in found.items()} if norm and size else found


def _grams(text: str, analyzer: int, least: int, most: int, stop_words: Collection[bytes]) -> Iterator[str]:
    if analyzer == WORD:
        tokens = [one for one in _WORD.findall(text) if one.encode() not in stop_words]
        for n in range(least, most + 1):
            for at in range(len(tokens) - n + 1):
                yield " ".join(tokens[at : at + n])
        return
    if analyzer == CHAR:
        yield from _runs(_BLANKS.sub(" ", text), least, most)
        return
    for word in text.split():
        padded = f" {word} "
        if len(padded) <= least:
            yield padded  # a short word counts once
        else:
            yield from _runs(padded, least, most)


def _runs(text: str, least: int, most: int) -> Iterator[str]:
    for n in range(least, most + 1):
        for at in range(len(text) - n + 1):
            yield text[at : at + n]
