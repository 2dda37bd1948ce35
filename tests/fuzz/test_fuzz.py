"""Every decoder against bytes that Hypothesis makes out of sound ones."""

from __future__ import annotations

import pytest
from fuzz_targets import TARGETS, seeds
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_and_old_findings(name: str):
    for seed in seeds(name):
        TARGETS[name](seed)


@st.composite
def changed(draw, name: str) -> bytes:
    """A sound input with some bytes cut out, put in or replaced."""
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(
            st.binary(max_size=8) | st.sampled_from([b'"', b"[", b"{", b"\\u", b"1e9", b"\xff" * 5, b"\x80"])
        )
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_an_answer_or_a_refusal(name: str):
    @given(changed(name) | st.binary(max_size=200))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()
