"""Who asks, and what lets them, is remembered of a head; never longer than what it was found by holds."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from bench.cases_steps import Site
from bench.load import HTTP_BODY, KEY, http_request
from gateway.doors import http_heads
from gateway.doors.fast_http import FastExchange
from gateway.errors import Forbidden, Unauthenticated
from gateway.headers import UNKNOWN
from gateway.identity import Identifier
from gateway.settings import Anonymous, ApiKey, Identity


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path, rules=8)
    yield made
    http_heads.known_heads.clear()


@pytest.fixture
def head():
    whole = http_request("localhost").partition(b"\r\n\r\n")[0]
    http_heads.known_heads.clear()
    http_heads._older.clear()
    found = http_heads.read(whole, len(HTTP_BODY))
    assert found.headers.standing is UNKNOWN
    return found


def entered(site, head, snapshot, headers=None):
    """The exchange after steps 3 to 5."""
    headers = head.headers if headers is None else headers
    x = FastExchange(snapshot, head, headers, HTTP_BODY, "127.0.0.1", None)
    site.app.observer.started(x)
    try:
        site.app.pipeline.enter(x).send(None)
    except StopIteration:
        return x
    finally:
        site.app.pipeline.leave(x)
    raise AssertionError("it waited")


def identified(snapshot, **section):
    """The snapshot with another `identity`; its hash says that it is another one."""
    return msgspec.structs.replace(snapshot, identifier=Identifier(Identity(**section)), hash="another", _allowed={})


def test_the_second_request_of_a_head_is_known(site, head):
    first = entered(site, head, site.snapshot)
    kept = head.headers.standing
    assert kept.of is site.snapshot.hash
    second = entered(site, head, site.snapshot)
    assert head.headers.standing is kept
    assert second.subject is first.subject is kept.subject
    assert second.decision_line == first.decision_line is not None
    assert second.route is first.route is not None


def test_a_key_that_is_taken_back_is_refused(site, head):
    entered(site, head, site.snapshot)
    other = identified(site.snapshot, api_keys=[ApiKey(sha256="0" * 64, user="bench", tenant="acme")])
    with pytest.raises(Unauthenticated):
        entered(site, head, other)
    assert entered(site, head, site.snapshot).subject.user == "bench"  # who began before goes on


def test_a_key_that_is_another_ones_now_is_judged_anew(site, head):
    entered(site, head, site.snapshot)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    other = identified(site.snapshot, api_keys=[ApiKey(sha256=digest, user="u0", tenant="acme")])
    with pytest.raises(Forbidden):
        entered(site, head, other)


def test_headers_of_one_request_alone_keep_nothing(site, head):
    copied = head.headers.copied()
    entered(site, head, site.snapshot, copied)
    assert copied.standing is None
    assert head.headers.standing is UNKNOWN


def test_nobody_but_the_holder_of_a_key_is_remembered(site, head):
    head.headers.pop("x-api-key")
    other = identified(site.snapshot, anonymous=Anonymous(user="bench", tenant="acme"))
    assert entered(site, head, other).subject.method == "anonymous"
    assert head.headers.standing is UNKNOWN
