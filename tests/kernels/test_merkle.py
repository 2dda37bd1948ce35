"""RFC 6962: published numbers, the specification beside the kernel, and proofs that are changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import merkle
from kernels.merkle import _merkle_py as spec

# transparency-dev/merkle, testonly/constants.go: leaf inputs, and the roots of the trees of size 0 to 8.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [spec.leaf_hash(bytes.fromhex(text)) for text in INPUTS]


def reader(leaves):
    """Any perfect subtree, from the leaves."""
    return lambda level, index: merkle.fold(leaves[index << level : (index + 1) << level])


def leaves_of(size):
    return [spec.leaf_hash(number.to_bytes(4)) for number in range(size)]


def test_published_hashes_of_one_leaf_and_one_node():
    # rfc6962/rfc6962_test.go of the same repository.
    assert merkle.leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    node = merkle.node_hash(b"N123", b"N456").hex()
    assert node == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    assert merkle.EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size):
    assert spec.tree_hash(LEAVES[:size]).hex() == ROOTS[size]
    assert merkle.root(size, reader(LEAVES)).hex() == ROOTS[size]


@pytest.mark.parametrize("size", [*range(40), 255, 256, 257, 511, 1000])
def test_every_root_and_proof_is_that_of_the_specification(size):
    leaves = leaves_of(size)
    node = reader(leaves)
    root = spec.tree_hash(leaves)
    assert merkle.root(size, node) == root
    for at in {*range(min(size, 40)), size // 2, size - 1} if size else ():
        proof = spec.inclusion_proof(leaves, at)
        assert merkle.inclusion_proof(at, size, node) == proof
        assert merkle.verify_inclusion(at, size, leaves[at], proof, root)
    for old in {*range(min(size, 40) + 1), size // 2, size}:
        proof = spec.consistency_proof(leaves, old)
        assert merkle.consistency_proof(old, size, node) == proof
        assert merkle.verify_consistency(old, size, spec.tree_hash(leaves[:old]), root, proof) is (old > 0)


@st.composite
def trees(draw):
    size = draw(st.integers(1, 300))
    return leaves_of(size), draw(st.integers(0, size - 1))


@given(trees(), st.data())
def test_an_inclusion_proof_shows_nothing_else(tree, data):
    leaves, at = tree
    size, root = len(leaves), spec.tree_hash(leaves)
    proof = spec.inclusion_proof(leaves, at)
    other = data.draw(st.integers(0, 400).filter(lambda i: i != at))
    assert not merkle.verify_inclusion(other, size, leaves[at], proof, root)
    assert not merkle.verify_inclusion(at, size, bytes(32), proof, root)
    assert not merkle.verify_inclusion(at, size, leaves[at], [*proof, bytes(32)], root)
    if proof:
        assert not merkle.verify_inclusion(at, size, leaves[at], proof[:-1], root)
        hurt = data.draw(st.integers(0, len(proof) - 1))
        changed = [bytes(32) if i == hurt else part for i, part in enumerate(proof)]
        assert not merkle.verify_inclusion(at, size, leaves[at], changed, root)
        assert not merkle.verify_inclusion(at, size, leaves[at], [part[:-1] for part in proof], root)


@given(trees(), st.data())
def test_a_consistency_proof_shows_nothing_else(tree, data):
    leaves, old = tree
    size, root = len(leaves), spec.tree_hash(leaves)
    proof = spec.consistency_proof(leaves, old)
    before = spec.tree_hash(leaves[:old])
    forged = leaves_of(size + 1)[1:]
    assert not merkle.verify_consistency(old, size, before, spec.tree_hash(forged), proof)
    assert not merkle.verify_consistency(size, size, before, root, proof) or old == size
    if old:
        assert not merkle.verify_consistency(old, size, spec.tree_hash(forged[:old]), root, proof)
    assert not merkle.verify_consistency(old, size, before, root, [*proof, bytes(32)])
    if proof:
        hurt = data.draw(st.integers(0, len(proof) - 1))
        changed = [bytes(32) if i == hurt else part for i, part in enumerate(proof)]
        assert not merkle.verify_consistency(old, size, before, root, changed)
        assert not merkle.verify_consistency(old, size, before, root, proof[:-1])
    assert not merkle.verify_consistency(size + 1, size, before, root, proof)


@pytest.mark.parametrize("module", ["spec", "kernel"])
def test_what_is_not_there_cannot_be_proved(module):
    leaves = leaves_of(5)
    for at in (-1, 5):
        with pytest.raises(ValueError, match="no such leaf"):
            spec.inclusion_proof(leaves, at) if module == "spec" else merkle.inclusion_proof(at, 5, reader(leaves))
    for old in (-1, 6):
        with pytest.raises(ValueError, match="larger"):
            spec.consistency_proof(leaves, old) if module == "spec" else merkle.consistency_proof(old, 5, reader([]))


@pytest.mark.parametrize("count", [0, 3, 5, 255])
def test_only_perfect_trees_are_folded(count):
    with pytest.raises(ValueError, match="power of two"):
        merkle.fold(leaves_of(count))
