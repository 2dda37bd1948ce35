"""Hashed n-grams: the C twin, its specification and scikit-learn's HashingVectorizer agree, on every letter there is."""

import struct
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from kernels.features import BINARY, LOWERCASE, SIGNED, Input, Instruction, Refused, Tensor, _features_c, _features_py

BUCKETS = 64
ANALYZERS = ("word", "char", "char_wb")
NORMS = (None, "l1", "l2")
letters = st.sampled_from("aAbZ \t\n_.-09\u00e9\u00c9\u00df\u0130\u03a3\u03c3\u0391\u2028\u4e2d\U0001f600\u0307'")
texts = st.text(letters, max_size=30) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def program(twin, analyzer="word", n=(1, 1), bits=LOWERCASE | SIGNED, norm=2, stop_words=(), buckets=BUCKETS):
    shape = (0, buckets, ANALYZERS.index(analyzer), *n, bits, norm, *range(buckets))
    code = [Instruction("ngrams", a=0, column=0, integers=shape, texts=stop_words)]
    return twin.Program([Input("s", "string", 0)], [Tensor("x", "FP64", buckets)], code, 0, 1)


def made(built, sent):
    return np.frombuffer(built.rows([[one] for one in sent], (0,), empty_is_missing=False)[0]).reshape(len(sent), -1)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=3),
    st.sampled_from(ANALYZERS),
    st.integers(1, 4).flatmap(lambda least: st.tuples(st.just(least), st.integers(least, 5))),
    st.integers(0, 7),
    st.integers(0, 2),
    st.sampled_from([(), ("ab",), ("\u00e9\u00e9", "09")]),
)
@example(["\u0391\u03a3 \u0391\u03a3\u0391 \u03a3 \u0391\u03a3'.\u0391", "I\u0130\u0307"], "char", (1, 3), 7, 2, ())
@example(["ab  ab\t\nab", " ab"], "char_wb", (2, 5), 3, 1, ())
def test_twins_and_scikit_learn_agree(sent, analyzer, n, bits, norm, stop_words):
    if analyzer != "word":
        stop_words = ()
    theirs = HashingVectorizer(
        n_features=BUCKETS, analyzer=analyzer, ngram_range=n, lowercase=bool(bits & LOWERCASE),
        alternate_sign=bool(bits & SIGNED), binary=bool(bits & BINARY), norm=NORMS[norm],
        stop_words=list(stop_words) or None,
    ).transform(sent).toarray()  # fmt: skip
    ours = made(program(_features_c, analyzer, n, bits, norm, stop_words), sent)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(made(program(_features_py, analyzer, n, bits, norm, stop_words), sent), theirs)


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_every_letter_is_taken_as_python_takes_it(analyzer):
    points = [chr(at) for at in range(sys.maxunicode + 1) if not 0xD800 <= at < 0xE000]
    sent = ["".join(f"a{one}b " for one in points[at : at + 4096]) for at in range(0, len(points), 4096)]
    # Among others the two letters for which the whole text is given to Python; beside them each on its own.
    sent += [f"a{one}b" for one in points[:0x600]]
    ours = made(program(_features_c, analyzer, norm=0, buckets=1024), sent)
    theirs = HashingVectorizer(n_features=1024, analyzer=analyzer, norm=None).transform(sent).toarray()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("twin", [_features_c, _features_py])
@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xc0\x80",
        b"\xc3",
        b"a\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xe0\x80\x80",
        b"\xce\xa3\xff",
    ],
)
def test_what_is_no_utf_8_is_refused(twin, data):
    good = "\u00e9t\u00e9 \u4e2d\U0001f600".encode()
    columns = b"".join(struct.pack("<I", len(one)) + one for one in (good, data))
    with pytest.raises(Refused) as refused:
        program(twin).columns(2, [("BYTES", columns)])
    assert (refused.value.row, refused.value.reason) == (1, "text")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=8))
def test_utf_8_is_judged_alike(data):
    def taken(twin):
        try:
            return program(twin, "char", norm=0).columns(1, [("BYTES", struct.pack("<I", len(data)) + data)])
        except Refused as refused:
            return refused.reason

    assert taken(_features_c) == taken(_features_py)


def test_one_call_leaves_nothing_to_the_next_row():
    sent = ["alpha beta", "gamma", "", "alpha"] * 200
    whole = made(program(_features_c, n=(1, 2)), sent)
    alone = np.concatenate([made(program(_features_c, n=(1, 2)), [one]) for one in sent[:4]] * 200)
    np.testing.assert_array_equal(whole, alone)
