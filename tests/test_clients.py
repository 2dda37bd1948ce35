"""Whose word is taken about who the client is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clients import FORWARDING, client_address, drop_untrusted

PROXIES = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("203.0.113.9", {"x-forwarded-for": "1.1.1.1"}, "203.0.113.9"),
        ("10.1.1.1", {}, "10.1.1.1"),
        ("10.1.1.1", {"x-forwarded-for": "198.51.100.7"}, "198.51.100.7"),
        ("10.1.1.1", {"x-forwarded-for": "6.6.6.6, 198.51.100.7"}, "198.51.100.7"),
        ("10.1.1.1", {"x-forwarded-for": "6.6.6.6, 198.51.100.7, 10.2.2.2"}, "198.51.100.7"),
        ("10.1.1.1", {"x-forwarded-for": "10.9.9.9, 10.2.2.2"}, "10.9.9.9"),
        ("10.1.1.1", {"x-forwarded-for": "198.51.100.7, nonsense"}, "10.1.1.1"),
        ("10.1.1.1", {"x-forwarded-for": "nonsense, 10.2.2.2"}, "10.2.2.2"),
        ("10.1.1.1", {"x-forwarded-for": ""}, "10.1.1.1"),
        ("10.1.1.1", {"x-forwarded-for": "198.51.100.7:4711"}, "198.51.100.7"),
        ("fd00::1", {"x-forwarded-for": "2001:db8::7"}, "2001:db8::7"),
        ("ipv6:%5Bfd00::1%5D:99", {"x-forwarded-for": "[2001:db8::7]:99"}, "2001:db8::7"),
        ("ipv4:127.0.0.1:99", {"forwarded": 'for=198.51.100.7;proto=https, for="[2001:db8::7]:1"'}, "2001:db8::7"),
        ("::ffff:10.1.1.1", {"forwarded": "For=198.51.100.7"}, "198.51.100.7"),
        ("10.1.1.1", {"forwarded": "for=unknown"}, "10.1.1.1"),
        ("10.1.1.1", {"forwarded": "for=1.1.1.1", "x-forwarded-for": "2.2.2.2"}, "2.2.2.2"),
        ("", {"x-forwarded-for": "1.1.1.1"}, ""),
        ("unix:", {"x-forwarded-for": "1.1.1.1"}, "unix:"),
    ],
)
def test_the_right_most_address_that_is_no_proxy(peer, headers, client):
    assert client_address(peer, headers, PROXIES) == client


def test_without_proxies_nobody_is_believed():
    assert client_address("10.1.1.1", {"x-forwarded-for": "1.1.1.1"}, ()) == "10.1.1.1"


@given(st.text(), st.text())
def test_whatever_they_write_the_answer_is_one_address(one, other):
    found = client_address("10.1.1.1", {"x-forwarded-for": one, "forwarded": other}, PROXIES)
    assert found.isprintable()
    assert len(found) < 46


def test_who_may_not_speak_for_others_loses_those_headers():
    for peer, kept in (("203.0.113.9", False), ("10.1.1.1", True)):
        headers = dict.fromkeys([*FORWARDING, "x-mine"], "v")
        drop_untrusted(headers, peer, PROXIES)
        assert "x-mine" in headers
        assert FORWARDING.issubset(headers) == kept
