"""The pinned formula, the split's boundaries, and the units that requests have."""

import hashlib
import math
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import CallView, Split, unit_fraction, unit_integer
from gateway.routing.assign import SPAN, header_text, parameter_text, threshold, unit_of
from governance.types import Subject

# Computed apart from this code, by
#   printf 'SALT\0UNIT' | sha256sum | cut -c1-16
VECTORS = [
    ("credit", "user:alice", 0x99A0E0433259A45D),
    ("credit", "user:bob", 0x5A21108CA06EE84E),
    ("income", "acme", 0x651E20EAAB5402A6),
    ("credit", "0", 0x121DCA5EC8D39159),
    ("credit", "true", 0x5DD6B707F53130FC),
    ("credit", "-12345678901234567890", 0x517F708E0D9D28C2),
    ("s", "é", 0x0996BD57395B5BDB),
    ("", "user:alice", 0x3583255EB9A7E087),
]

ALICE = Subject("alice", "acme")


@pytest.mark.parametrize(("salt", "unit", "n"), VECTORS)
def test_the_formula_gives_the_pinned_vectors(salt, unit, n):
    assert unit_integer(salt, unit) == n
    assert unit_fraction(salt, unit) == pytest.approx(n / 2**64, abs=2**-53)


def test_the_shell_computes_the_same_units():
    units = ["user:alice", "acme", "é", "0", "true"]
    for unit in units:
        shell = subprocess.run(
            ["sh", "-c", r'printf "%s\0%s" "$1" "$2" | sha256sum | cut -c1-16', "sh", "credit", unit],
            check=True,
            capture_output=True,
            text=True,
        )
        assert unit_integer("credit", unit) == int(shell.stdout, 16)


@given(st.text(), st.text())
def test_any_text_has_a_unit(salt, unit):
    u = unit_fraction(salt, unit)
    assert 0 <= u < 1
    if not any("\ud800" <= c <= "\udfff" for c in salt + unit):
        digest = hashlib.sha256(salt.encode() + b"\0" + unit.encode()).digest()
        assert unit_integer(salt, unit) == int.from_bytes(digest[:8], "big")


def test_a_lone_surrogate_is_hashed_not_refused():
    assert unit_integer("s", "\ud800") != unit_integer("s", "\ud801")


weights = st.lists(st.one_of(st.integers(0, 1000), st.floats(0, 1e6)), min_size=1, max_size=6).filter(any)


@given(weights, st.integers(0, SPAN - 1))
def test_the_variant_is_the_first_whose_share_exceeds_u(listed, n):
    exact = [Fraction(str(w)) for w in listed]
    u, total, cumulative = Fraction(n, SPAN), sum(exact), Fraction()
    expected = None
    for i, w in enumerate(exact):
        cumulative += w
        if cumulative / total > u:
            expected = i
            break
    assert Split(listed).pick(n) == expected


@given(weights)
def test_the_ends_of_every_interval_fall_on_their_own_side(listed):
    split = Split(listed)
    assert split.bounds[-1] == SPAN
    for i, bound in enumerate(split.bounds):
        low = split.bounds[i - 1] if i else 0
        if low < bound:
            assert split.pick(low) == i
            assert split.pick(bound - 1) == i
        else:
            assert i not in {split.pick(low) if low < SPAN else None, split.pick(low - 1) if low else None}


def test_decimal_weights_are_the_decimals_they_say():
    # In binary floats 0.1 + 0.2 > 0.3 and the boundary would lie elsewhere.
    assert Split([0.1, 0.2, 0.7]).bounds == (
        math.ceil(SPAN / Fraction(10)),
        math.ceil(3 * SPAN / Fraction(10)),
        SPAN,
    )
    assert Split([1, 2, 7]).bounds == Split([0.1, 0.2, 0.7]).bounds == Split([10, 20, 70]).bounds


def test_order_is_the_order_listed():
    assert Split([90, 10]).pick(SPAN - 1) == 1
    assert Split([10, 90]).pick(0) == 0
    assert Split([0, 1, 0, 1, 0]).pick(0) == 1
    assert Split([0, 1, 0, 1, 0]).pick(SPAN // 2) == 3


@pytest.mark.parametrize("listed", [[], [0], [0, 0.0], [1, -1], [-1], [float("nan")], [1, float("inf")]])
def test_impossible_weights_are_refused(listed):
    with pytest.raises(ValueError, match="weight"):
        Split(listed)


@pytest.mark.parametrize("listed", [[90, 10], [50, 30, 20], [1, 1, 1, 97], [0.5, 0, 99.5]])
def test_20000_units_fall_as_the_weights_say(listed):
    split, counts, n = Split(listed), [0] * len(listed), 20_000
    for i in range(n):
        counts[split.pick(unit_integer("fixed", f"user:{i}"))] += 1
    total = sum(listed)
    assert all(count == 0 for count, w in zip(counts, listed, strict=True) if not w)
    expected = [n * w / total for w in listed]
    chi2 = sum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True) if e)
    # The units are fixed, so this holds always or never; 16.3 is the 99.9 % point for 3 degrees of freedom.
    assert chi2 < 16.3


def test_another_salt_draws_anew():
    split = Split([50, 50])
    first = [split.pick(unit_integer("a", f"user:{i}")) for i in range(2000)]
    second = [split.pick(unit_integer("b", f"user:{i}")) for i in range(2000)]
    assert 0.45 < sum(x == y for x, y in zip(first, second, strict=True)) / 2000 < 0.55


@pytest.mark.parametrize(
    ("assign_by", "unit"),
    [
        ("subject", "user:alice"),
        ("tenant", "acme"),
        ("id", "req-1"),
        ("header:X-Unit", "u7"),
        ("header:absent", ""),
        ("parameter:text", "a b"),
        ("parameter:whole", "-12345678901234567890"),
        ("parameter:yes", "true"),
        ("parameter:no", "false"),
        ("parameter:float", ""),
        ("parameter:absent", ""),
        ("parameter:with:colon", "c"),
    ],
)
def test_units_as_text(assign_by, unit):
    parameters = {
        "text": "a b",
        "whole": -12345678901234567890,
        "yes": True,
        "no": False,
        "float": 1.0,
        "with:colon": "c",
    }
    call = CallView(ALICE, headers={"x-unit": "u7"}, parameters=parameters, id="req-1")
    assert unit_of(assign_by)(call) == unit


def test_request_has_no_unit():
    assert unit_of("request") is None


@pytest.mark.parametrize("assign_by", ["", "header", "header:", "parameter:", "user", "subject:x", "Tenant"])
def test_other_forms_of_assign_by_are_refused(assign_by):
    with pytest.raises(ValueError, match="assign_by must be"):
        unit_of(assign_by)


def test_a_header_is_the_text_that_was_sent_however_it_was_decoded():
    sent = "né😀"
    assert header_text(sent.encode().decode("latin-1")) == sent
    assert header_text(sent) == sent
    assert header_text("caf\xe9") == "café"
    assert parameter_text(0) == "0"


@given(st.floats(0, 1))
def test_a_sample_is_its_share_of_the_span(share):
    assert threshold(share) == math.ceil(Fraction(str(share)) * SPAN)


def test_all_and_nothing_are_exact():
    assert threshold(1.0) == SPAN
    assert threshold(0.0) == 0


def test_the_formula_needs_nothing_but_sha256():
    # The one-liner that another system would use.
    code = "import hashlib;print(int.from_bytes(hashlib.sha256(b'credit\\0user:alice').digest()[:8],'big')*100>>64)"
    percent = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert ("champion", "challenger")[Split([90, 10]).pick(unit_integer("credit", "user:alice"))] == (
        "champion" if percent < 90 else "challenger"
    )
