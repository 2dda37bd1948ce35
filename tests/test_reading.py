"""What the event loop reads: the C twin hands on what its specification does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.doors import _reading_c, _reading_py
from gateway.doors.http_connection import LARGE


@pytest.fixture(params=[_reading_c, _reading_py], ids=["c", "py"])
def twin(request):
    return request.param


@pytest.mark.parametrize("size", [0, 1, 500, LARGE])
def test_what_was_read_is_the_connections(twin, size):
    came = []
    reading = twin.Reading(SimpleNamespace(arriving=None, data_received=came.append))
    data = bytes(range(256)) * (LARGE // 256)
    buffer = reading.get_buffer(-1)
    assert len(buffer) == LARGE
    buffer[:size] = data[:size]
    reading.buffer_updated(size)
    buffer[:] = bytes(LARGE)
    assert came == [data[:size]]
    assert type(came[0]) is bytes


def test_a_large_body_is_read_into_its_own_memory(twin):
    taken = []
    large = SimpleNamespace(left=memoryview(bytearray(10)), came=taken.append)
    reading = twin.Reading(SimpleNamespace(arriving=large))
    assert reading.get_buffer(-1) is large.left
    reading.buffer_updated(7)
    assert taken == [7]


def test_what_the_connection_raises_is_raised(twin):
    reading = twin.Reading(SimpleNamespace(arriving=None))
    with pytest.raises(AttributeError):
        reading.buffer_updated(1)


@pytest.mark.parametrize("size", [-1, LARGE + 1])
def test_no_byte_beyond_the_buffer_is_read(size):
    reading = _reading_c.Reading(SimpleNamespace(arriving=None, data_received=None))
    with pytest.raises(ValueError, match="more than the buffer holds"):
        reading.buffer_updated(size)
