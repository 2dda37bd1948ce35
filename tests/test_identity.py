"""Who is let in, who is not, and what a refusal gives away."""

from __future__ import annotations

import hashlib

import pytest

from gateway.errors import Unauthenticated
from gateway.identity import Credentials, Identifier
from gateway.keys import new_key
from gateway.settings import Anonymous, ApiKey, Identity
from governance.types import Subject

ALICE, BOB = "tg_alice", "tg_bob"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = (
    ApiKey(sha256=digest(ALICE), user="alice", tenant="acme"),
    ApiKey(sha256=digest(BOB), user="bob", tenant="globex"),
)
CLOSED = Identifier(Identity(api_keys=KEYS))
OPEN = Identifier(Identity(api_keys=KEYS, anonymous=Anonymous(user="guest", tenant="lobby")))
ALICES = Subject(user="alice", tenant="acme", method="api_key")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": ALICE},
        {"authorization": f"Bearer {ALICE}"},
        {"authorization": f"bearer {ALICE}"},
        {"authorization": f"BEARER   {ALICE} "},
        {"x-api-key": ALICE, "authorization": f"Bearer {ALICE}"},
    ],
)
@pytest.mark.parametrize("identifier", [CLOSED, OPEN])
def test_a_key_is_its_user(identifier, headers):
    assert identifier.identify(headers) == ALICES


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "tg_mallory"},
        {"x-api-key": ""},
        {"x-api-key": digest(ALICE)},
        {"x-api-key": ALICE + " "},
        {"x-api-key": "\udcff\u20ac"},
        {"authorization": "Bearer tg_mallory"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer"},
        {"authorization": ""},
        {"authorization": ALICE},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": f"Bearer {ALICE}", "x-api-key": BOB},
        {"authorization": f"Basic {ALICE}", "x-api-key": ALICE},
    ],
)
@pytest.mark.parametrize("identifier", [CLOSED, OPEN])
def test_a_credential_that_is_not_accepted_is_refused_even_where_anyone_may_come(identifier, headers):
    with pytest.raises(Unauthenticated) as caught:
        identifier.identify(headers)
    assert caught.value.status == 401
    # every wrong credential reads alike, and none is repeated
    assert caught.value.message == "the credential is not accepted"
    assert caught.value.detail == ""


def test_no_credential():
    with pytest.raises(Unauthenticated, match="a credential is needed"):
        CLOSED.identify({})
    assert OPEN.identify({"host": "x"}) == Subject(user="guest", tenant="lobby")


def test_without_identity_everyone_is_anonymous_whatever_they_show():
    identifier = Identifier(None)
    assert identifier.identify({}) == Subject(user="anonymous", tenant="public")
    assert identifier.identify({"authorization": "Basic x"}).method == "anonymous"


def test_other_kinds_of_credential_are_asked_first_and_may_pass():
    class Tokens:
        def authenticate(self, credentials: Credentials) -> Subject | None:
            if not credentials.token.startswith("ey"):
                return None
            if credentials.token != "eyGood":
                raise Unauthenticated("the credential is not accepted")
            return Subject(user="carol", tenant="acme", roles=("scorer",), method="jwt")

    identifier = Identifier(Identity(api_keys=KEYS), (Tokens(),))
    assert identifier.identify({"authorization": "Bearer eyGood"}).roles == ("scorer",)
    assert identifier.identify({"x-api-key": ALICE}) == ALICES
    with pytest.raises(Unauthenticated):
        identifier.identify({"authorization": "Bearer eyBad"})


def test_a_credential_is_in_no_repr():
    assert ALICE not in repr(Credentials(ALICE))
    assert ALICE not in repr(CLOSED.__dict__)


def test_keys_are_new_each_time():
    keys = [new_key() for _ in range(100)]
    assert len(set(keys)) == 100
    assert all(digest(key) == sha256 and len(key) == 46 for key, sha256 in keys)
