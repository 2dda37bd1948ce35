"""wire.compression: both codings, limits while inflating, and Triton's choice from Accept-Encoding."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, TooLarge
from gateway.wire import compression


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_inflates_again(parts, coding):
    packed = compression.encode([memoryview(part) for part in parts], coding)
    plain = b"".join(parts)
    assert compression.decode(packed, coding, len(plain)) == plain
    assert (gzip.decompress if coding == "gzip" else zlib.decompress)(packed) == plain
    if plain:
        with pytest.raises(TooLarge):
            compression.decode(packed, coding, len(plain) - 1)


def test_a_bomb_is_refused_while_it_inflates():
    bomb = compression.encode([bytes(1 << 20)] * 256, "gzip")
    assert len(bomb) < 2 << 20
    tracemalloc.start()
    with pytest.raises(TooLarge):
        compression.decode(bomb, "gzip", 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_broken_bodies_are_bad_requests(coding):
    packed = compression.encode([b"some text that is long enough"], coding)
    for end in range(len(packed)):
        with pytest.raises(BadRequest):
            compression.decode(packed[:end], coding, 1000)
    for wrong in (
        packed + b"x",
        packed + packed,
        b"plain",
        compression.encode([b"x"], {"gzip": "deflate", "deflate": "gzip"}[coding]),
    ):
        with pytest.raises(BadRequest):
            compression.decode(wrong, coding, 1000)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, ""),
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br", None),
        ("gzip, deflate", None),
    ],
)
def test_content_encoding(header, coding):
    assert compression.request_coding(header) == coding


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, ""),
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0.5,identity", ""),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=0", ""),
        ("br, zstd", ""),
        ("br, gzip;q=0.1", "gzip"),
        ("*", ""),
        ("gzip;q=x, deflate;q=0.1", "deflate"),
        (" , gzip", "gzip"),
        (";q=1, gzip", "gzip"),
        ("gzip; q=0.4, deflate; q=0.6", "deflate"),
    ],
)
def test_accept_encoding(accept, coding):
    assert compression.response_coding(accept) == coding
