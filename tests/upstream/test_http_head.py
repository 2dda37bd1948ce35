"""Nothing that a caller gives can end a header line early, and addresses are read right."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest
from gateway.upstream.http_head import header_block, split_address
from gateway.upstream.pool import Pool


@pytest.mark.parametrize(
    "header", [("x-a", "1\r\nx-evil: 1"), ("x-a\r\n", "1"), ("x-a", "a\0b"), ("x-\xe9", "1"), ("x", "\u20ac")]
)
def test_headers_cannot_smuggle_lines(header):
    with pytest.raises(BadRequest, match="header"):
        header_block([("fine", "1"), header])


def test_latin_1_values_pass():
    assert header_block([("x-name", "caf\xe9")]) == b"x-name: caf\xe9\r\n"


@pytest.mark.parametrize("target", ["/a b", "/a\r\nx: 1", "/\xe9", "/a\tb"])
def test_targets_cannot_smuggle_lines(run_once, target):
    async def main():
        pool = Pool("127.0.0.1", 1, connections=1)
        with pytest.raises(BadRequest):
            await pool.request("GET", target, b"", timeout=1)
        await pool.close()

    run_once(main())


@pytest.mark.parametrize(
    "text, expected",
    [("localhost:80", ("localhost", 80)), ("[::1]:8000", ("::1", 8000)), ("a.b:1", ("a.b", 1))],
)
def test_addresses(text, expected):
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["localhost", "localhost:", "host:x", ":", "host:-1"])
def test_addresses_without_a_port(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)
