"""The Merkle tree of RFC 6962, section 2.1, as its text defines it: recursive, over all leaf hashes.

This is the specification that the functions of `kernels.merkle` are tested against. It takes time and memory in
proportion to the tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data): 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right): 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two smaller than `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n]), section 2.1, from the leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(tree_hash(leaves[:k]), tree_hash(leaves[k:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(m, D[n]), section 2.1.1: from the leaf's sibling to the root's child.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError("no such leaf")
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), tree_hash(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), tree_hash(leaves[:k])]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """PROOF(m, D[n]), section 2.1.2, from the tree of the first `old` leaves to that of all.

    Empty where there is nothing to prove: from the empty tree, and to the same one.

    Raises:
        ValueError: the old tree is larger.
    """
    if not 0 <= old <= len(leaves):
        raise ValueError("the old tree is larger")
    return _subproof(old, leaves, whole=True) if old else []


def _subproof(m: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [tree_hash(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], whole=whole), tree_hash(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], whole=False), tree_hash(leaves[:k])]
