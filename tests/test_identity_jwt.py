"""Tokens: which are accepted, and a table of attacks; keys from files and from a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.errors import Unauthenticated
from gateway.identity import ApiKeys, Credentials, Identifier, KeysNeeded
from gateway.identity.claims import ClaimsError, subject_of
from gateway.identity.jwks import KeySetError, parse
from gateway.identity.jwt import Tokens
from gateway.identity.sources import KeySource, UrlSource
from gateway.settings import ApiKey, Identity, Jwt
from governance.types import Subject

NOW = 1_800_000_000.0
RULES = Jwt(issuer="https://issuer", audience="tidegate", jwks="unused")
PRIVATE = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
MAKERS = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def jwk(algorithm: str, kid: str | None, key=None, **more) -> dict:
    made = MAKERS[algorithm].to_jwk((key or PRIVATE[algorithm]).public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def key_set(*keys: dict) -> bytes:
    return json.dumps({"keys": keys}).encode()


ALL = parse(key_set(jwk("RS256", "r"), jwk("ES256", "e"), jwk("EdDSA", "d")))
KIDS = {"RS256": "r", "ES256": "e", "EdDSA": "d"}
CLAIMS = {
    "iss": "https://issuer",
    "aud": "tidegate",
    "sub": "alice",
    "tenant": "acme",
    "roles": ["scorer"],
    "iat": NOW - 10,
    "exp": NOW + 300,
}
ALICE = Subject(user="alice", tenant="acme", roles=("scorer",), method="jwt")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(algorithm="RS256", kid="", key=None, header=None, payload: bytes | None = None, **changes) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not ...}
    head = {"kid": KIDS.get(algorithm, "r") if kid == "" else kid, **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    data = json.dumps(claims).encode() if payload is None else payload
    return PyJWS().encode(data, key or PRIVATE[algorithm], algorithm=algorithm, headers=head)


def raw(header: dict | bytes, payload: dict | bytes, sign) -> str:
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, payload)]
    text = ".".join(map(b64, parts))
    return f"{text}.{b64(sign(text.encode()))}"


def rs256(data: bytes) -> bytes:
    return RSAAlgorithm(RSAAlgorithm.SHA256).sign(data, PRIVATE["RS256"])


PEM = PRIVATE["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def tokens(keys=ALL, clock=lambda: NOW, rules=RULES) -> Tokens:
    return Tokens([(rules, KeySource(keys))], clock)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_algorithm(algorithm):
    known = tokens()
    made = token(algorithm)
    for _ in range(2):  # the second time it is remembered
        assert known.authenticate(Credentials(made)) == ALICE


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "tidegate"]},
        {"roles": ...},
        {"roles": "one"},
        {"nbf": NOW + 29, "iat": NOW + 29},
        {"exp": NOW - 29},
        {"iat": ...},
        {"header": {"typ": "at+jwt"}},
        {"header": {"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}},
    ],
)
def test_what_is_good(changes):
    found = tokens().authenticate(Credentials(token(**changes)))
    assert found is not None
    assert (found.user, found.tenant) == ("alice", "acme")


OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ATTACKS = {
    "alg none": raw({"alg": "none", "kid": "r"}, CLAIMS, lambda _: b""),
    "alg None in capitals": raw({"alg": "NONE", "kid": "r"}, CLAIMS, lambda _: b"x"),
    "alg missing": raw({"kid": "r"}, CLAIMS, rs256),
    "alg a list": raw({"alg": ["RS256"], "kid": "r"}, CLAIMS, rs256),
    "HS256 with the public key": raw(
        {"alg": "HS256", "kid": "r"}, CLAIMS, lambda data: hmac.new(PEM, data, hashlib.sha256).digest()
    ),
    "RS512": PyJWS().encode(json.dumps(CLAIMS).encode(), PRIVATE["RS256"], "RS512", headers={"kid": "r"}),
    "PS256": PyJWS().encode(json.dumps(CLAIMS).encode(), PRIVATE["RS256"], "PS256", headers={"kid": "r"}),
    "ES256 naming the RSA key": token("ES256", kid="r"),
    "RS256 naming the EC key": token("RS256", kid="e"),
    "no kid among several keys": token(kid=None),
    "unknown kid": token(kid="nope"),
    "kid a path": token(kid="../../../../dev/null"),
    "kid SQL": token(kid="r' UNION SELECT 'x"),
    "kid a number": raw({"alg": "RS256", "kid": 1}, CLAIMS, rs256),
    "kid huge": token(kid="r" * 600),
    "another key": token(key=OTHER),
    "embedded jwk": token(key=OTHER, header={"jwk": jwk("RS256", "r", OTHER)}),
    "embedded jwk with its kid": token(key=OTHER, kid="mine", header={"jwk": jwk("RS256", "mine", OTHER)}),
    "crit": token(header={"crit": ["exp"], "exp": 1}),
    "b64 false": raw({"alg": "RS256", "kid": "r", "b64": False, "crit": ["b64"]}, CLAIMS, rs256),
    "b64 true": raw({"alg": "RS256", "kid": "r", "b64": True}, CLAIMS, rs256),
    "another type": token(header={"typ": "logout+jwt"}),
    "wrong issuer": token(iss="https://other"),
    "issuer a list": token(iss=["https://issuer"]),
    "issuer with a slash": token(iss="https://issuer/"),
    "wrong audience": token(aud="other"),
    "audience that begins alike": token(aud="tidegate-admin"),
    "audience missing": token(aud=...),
    "audience an object": token(aud={"tidegate": True}),
    "audience of numbers": token(aud=["tidegate", 1]),
    "expired": token(exp=NOW - 30),
    "exp missing": token(exp=...),
    "exp text": token(exp="9999999999"),
    "exp true": token(exp=True),
    "exp null": token(exp=None),
    "exp infinite": token(payload=json.dumps(CLAIMS).replace(str(NOW + 300), "Infinity").encode()),
    "exp beyond any float": token(payload=json.dumps(CLAIMS).replace(str(NOW + 300), "9" * 400).encode()),
    "exp of a million digits": token(payload=b'{"iss":"https://issuer","exp":' + b"9" * 5000 + b"}"),
    "nbf in the future": token(nbf=NOW + 31),
    "iat in the future": token(iat=NOW + 31),
    "user missing": token(sub=...),
    "user a number": token(sub=7),
    "user empty": token(sub=""),
    "user blank": token(sub=" alice"),
    "user with a line end": token(sub="alice\nbob"),
    "user with NUL": token(sub="alice\0"),
    "user huge": token(sub="a" * 257),
    "tenant missing": token(tenant=...),
    "tenant the gateway's own": token(tenant="*"),
    "tenant with an escape": token(tenant="acme\x1b[2J"),
    "roles an object": token(roles={"admin": True}),
    "roles of numbers": token(roles=[1]),
    "roles with a control character": token(roles=["a\tb"]),
    "duplicate claims": token(payload=json.dumps(CLAIMS)[:-1].encode() + b', "sub": "admin"}'),
    "duplicate header": raw(b'{"alg":"none","alg":"RS256","kid":"r"}', CLAIMS, rs256),
    "payload a list": token(payload=b"[]"),
    "payload no JSON": token(payload=b"{"),
    "payload nested": token(payload=b"[" * 3000),
    "invalid UTF-8": token(payload=b'{"iss": "\xff"}'),
    "tampered": "AA".join([token()[:60], token()[62:]]),
    "signature cut": token()[:-4],
    "signature empty": token().rpartition(".")[0] + ".",
    "signature padded": token() + "==",
    "not base64url": token().replace(".", ".+", 1),
    "three dots": "..",
    "nothing": "a.b.c",
    "huge": token(pad="x" * 9000),
    "line end": token() + "\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack):
    with pytest.raises(Unauthenticated) as caught:
        tokens().authenticate(Credentials(ATTACKS[attack]))
    assert caught.value.message == "the credential is not accepted"
    assert caught.value.detail == ""
    assert not isinstance(caught.value, KeysNeeded)


def test_a_kid_may_be_left_out_where_there_is_one_key():
    only = tokens(parse(key_set(jwk("ES256", "e"))))
    assert only.authenticate(Credentials(token("ES256", kid=None))) == ALICE
    with pytest.raises(Unauthenticated):
        only.authenticate(Credentials(token("RS256", kid=None)))


def test_a_verified_token_is_good_until_it_expires_or_the_keys_change():
    now = [NOW]
    source = KeySource(ALL)
    known = Tokens([(RULES, source)], lambda: now[0])
    made = Credentials(token())
    assert known.authenticate(made) == ALICE
    source.keys = parse(key_set(jwk("RS256", "r", OTHER)))
    assert known.authenticate(made) == ALICE
    source.generation += 1
    with pytest.raises(Unauthenticated):
        known.authenticate(made)
    source.keys = ALL
    assert known.authenticate(made) == ALICE
    now[0] = NOW + 329
    assert known.authenticate(made) == ALICE
    now[0] = NOW + 330
    with pytest.raises(Unauthenticated):
        known.authenticate(made)


def test_memory_of_tokens_is_bounded():
    known = tokens()
    for at in range(30):
        known._verified[bytes([at])] = (ALICE, NOW, KeySource(ALL), 0)
    assert known.authenticate(Credentials(token("EdDSA"))) == ALICE
    assert len(known._verified) == 31
    for at in range(5000):
        known._verified[at.to_bytes(4, "big")] = (ALICE, NOW, KeySource(ALL), 0)
    known.authenticate(Credentials(token("EdDSA", jti="x")))
    assert len(known._verified) <= 5032


def test_keys_and_tokens_side_by_side():
    identity = Identity(api_keys=(ApiKey(sha256=hashlib.sha256(b"tg_k").hexdigest(), user="k", tenant="t"),))
    identifier = Identifier(identity, (tokens(),))
    assert identifier.identify({"authorization": "Bearer " + token()}) == ALICE
    assert identifier.identify({"authorization": "Bearer tg_k"}).user == "k"
    with pytest.raises(Unauthenticated):
        identifier.identify({"x-api-key": token()})
    assert ApiKeys(identity).authenticate(Credentials(token())) is None


NAMES = st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable() and s == s.strip() and s != "*")


@given(NAMES, NAMES, st.lists(NAMES, max_size=4), st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_claims_are_found_by_name_or_path(user, tenant, roles, path):
    dotted = ".".join(path)
    nested: object = tenant
    for part in reversed(path):
        nested = {part: nested}
    rules = Jwt(issuer="i", audience="a", jwks="", user_claim="u", tenant_claim=dotted, roles_claim="https://x.y/r")
    claims = {"iss": "i", "aud": "a", "exp": NOW + 1, "u": user, "https://x.y/r": roles, **nested}
    subject, until = subject_of(claims, rules, NOW)
    assert subject == Subject(user=user, tenant=tenant, roles=tuple(dict.fromkeys(roles)), method="jwt")
    assert until == NOW + 31


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sub", "tenant", "roles", "exp", "nbf", "iat", "iss", "aud"]), JSON))
def test_whatever_a_claim_is_the_answer_is_a_subject_or_a_refusal(changes):
    try:
        subject, _ = subject_of({**CLAIMS, **changes}, RULES, NOW)
    except ClaimsError:
        return
    for name in (subject.user, subject.tenant, *subject.roles):
        assert name
        assert name.isprintable()
        assert name == name.strip()
    assert subject.tenant != "*"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b'{"keys": [\n\n!', "not JSON"),
        (b"[]", "not a JWK Set"),
        (b'{"keys": {}}', "not a JWK Set"),
        (b'{"keys": []}', "no key in it"),
        (b'{"keys": [{"kty": "oct", "k": "AA"}]}', "secret"),
        (key_set({**jwk("EdDSA", "d"), "d": "AA"}), "secret"),
        (key_set(jwk("RS256", "a"), jwk("RS256", "a", OTHER)), "same `kid`"),
        (key_set(jwk("RS256", 7)), "no text"),
        (key_set({"kty": "RSA", "n": "AA", "e": "AQAB"}), "key 1"),
        (key_set(jwk("RS256", "r", rsa.generate_private_key(public_exponent=65537, key_size=1024))), "2048 bits"),
        (key_set({"kty": "RSA"}), "malformed"),
        (b'{"keys": [], "keys": []}', "not JSON"),
        (key_set(jwk("RS256", "r", use="enc")), "no key in it"),
        (key_set(jwk("RS256", "r", alg="RS512")), "no key in it"),
        (key_set(jwk("RS256", "r", key_ops=["sign"])), "no key in it"),
        (b" " * (600 << 10), "larger"),
    ],
)
def test_key_sets_that_cannot_be_used(data, said):
    with pytest.raises(KeySetError, match=said):
        parse(data)


def test_keys_of_other_kinds_are_left_out():
    curve = ec.generate_private_key(ec.SECP384R1())
    found = parse(key_set(jwk("ES256", "p384", curve), {"kty": "new"}, jwk("RS256", "r")))
    assert [key.id for key in found.keys] == ["r"]


@contextmanager
def issuer(body: bytes):
    """A real HTTP server with a key set; `state` may be changed."""
    state = {"body": body, "status": 200, "asked": 0, "headers": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state["asked"] += 1
            time.sleep(state.get("pause", 0))
            self.send_response(state["status"])
            for name, value in state["headers"].items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(state["body"])))
            self.end_headers()
            self.wfile.write(state["body"])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state["url"] = f"http://user:secret@127.0.0.1:{server.server_port}/keys".replace("user:secret@", "")
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def identified(known: Tokens, made: str) -> Subject | None:
    try:
        return known.authenticate(Credentials(made))
    except KeysNeeded as needed:
        await needed.ready()
    return known.authenticate(Credentials(made))


def test_rotation_outage_and_recovery_of_an_issuer():
    async def run():
        clock = [0.0]
        with issuer(key_set(jwk("RS256", "one"), jwk("ES256", "e"))) as site:
            source = UrlSource(site["url"], clock=lambda: clock[0])
            known = Tokens([(RULES, source)], lambda: NOW)
            # many at once: one question
            answers = await asyncio.gather(*(identified(known, token(kid="one", jti=str(at))) for at in range(20)))
            assert answers == [ALICE] * 20
            assert site["asked"] == 1
            # rotation: unknown, and within the pause nobody is asked
            site["body"] = key_set(jwk("RS256", "two", OTHER), jwk("ES256", "e"))
            for _ in range(50):
                with pytest.raises(Unauthenticated):
                    await identified(known, token(kid="two", key=OTHER))
            assert site["asked"] == 1
            clock[0] += 11
            assert await identified(known, token(kid="two", key=OTHER)) == ALICE
            assert site["asked"] == 2
            # the key that is gone is not taken any more, remembered tokens included
            with pytest.raises(Unauthenticated):
                await identified(known, token(kid="one", jti="1"))
            # an outage, each kind: the last good keys stay
            for trouble in (
                {"status": 500},
                {"body": b"<html>"},
                {"body": b"x" * (600 << 10)},
                {"status": 302, "headers": {"location": site["url"]}},
                {"body": key_set()},
            ):
                kept = {name: site[name] for name in ("status", "body", "headers")}
                site.update(trouble)
                clock[0] += 11
                with pytest.raises(Unauthenticated):
                    await identified(known, token(kid="three"))
                assert await identified(known, token(kid="two", key=OTHER)) == ALICE
                site.update(kept)
            site["pause"] = 10
            clock[0] += 11
            began = time.monotonic()
            with pytest.raises(Unauthenticated):
                await identified(known, token(kid="three"))
            assert time.monotonic() - began < 9.5
            site["pause"] = 0
        clock[0] += 11
        with pytest.raises(Unauthenticated):
            await identified(known, token(kid="three"))
        assert await identified(known, token(kid="two", key=OTHER)) == ALICE

    asyncio.run(run())


def test_waiting_for_keys_is_a_refusal_for_whoever_cannot_wait():
    async def run():
        with issuer(key_set(jwk("RS256", "r"))) as site:
            identifier = Identifier(Identity(), (Tokens([(RULES, UrlSource(site["url"]))], lambda: NOW),))
            with pytest.raises(KeysNeeded) as caught:
                identifier.identify({"authorization": "Bearer " + token()})
            assert caught.value.status == 401
            assert await identifier.identified({"authorization": "Bearer " + token()}) == ALICE
            assert site["asked"] == 1

    asyncio.run(run())
