"""The limiter's counts: the C twin does what its specification does, whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import _window_c, _window_py

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "limit", "probe", "quiet", "until"]),
        st.floats(0, 2, allow_nan=False),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=60,
)


def told(twin):
    """A window that notes what it says to its limiter."""

    class Told(twin.Window):
        def __init__(self) -> None:
            super().__init__(3, 1.0)
            self.heard = []

        def _left_in_probe(self, *said):
            self.heard.append(("probe", *said))

        def _was_alone(self, *said):
            self.heard.append(("alone", *said))

        def _window_over(self, *said):
            self.heard.append(("over", *said))

    return Told()


def state(window):
    kept = _window_py.Window.__slots__
    return {name: getattr(window, name) for name in kept}, window.heard


@given(STEPS)
def test_both_count_the_same(steps):
    twins = [told(_window_c), told(_window_py)]
    now = 1.0
    for what, number, count, flag in steps:
        now += number
        given = []
        for window in twins:
            if what == "enter":
                given.append(window.enter(now))
            elif what == "leave":
                given.append(window.leave(count, now - number, now, flag))
            elif what == "limit":
                window.limit = count
            elif what == "probe":
                window._probe_due = number if flag else 0.0
            elif what == "quiet":
                window._quiet = flag
            else:
                window._until = now + number
        assert len(set(given)) <= 1
        assert state(twins[0]) == state(twins[1])


@pytest.mark.parametrize("twin", [_window_c, _window_py], ids=["c", "py"])
def test_what_the_limiter_raises_is_raised(twin):
    class Failing(twin.Window):
        def _window_over(self, seconds, now, answered):
            raise LookupError(now)

    window = Failing(1, 0.0)
    assert window.enter(1.0) == 1
    assert window.enter(1.0) == 0
    with pytest.raises(LookupError):
        window.leave(1, 0.0, 2.0, True)
