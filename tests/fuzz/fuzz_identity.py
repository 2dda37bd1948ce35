"""What callers say of themselves and of others: tokens, key sets, forwarding headers, trace context."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import clients, tracecontext
from gateway.errors import Unauthenticated
from gateway.identity import jwks
from gateway.identity.claims import ClaimsError, subject_of
from gateway.identity.credentials import Credentials
from gateway.identity.jwt import Tokens
from gateway.identity.sources import KeySource
from gateway.settings import Jwt
from governance.types import Subject

_NOW = 1_800_000_000.0
_RULES = Jwt(issuer="https://i", audience="a", jwks="none", roles_claim="realm.roles")
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_PROXIES = ("10.0.0.0/8", "::1/128", "2001:db8::/32")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _set() -> bytes:
    x = _b64(_KEY.public_key().public_bytes_raw())
    return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k", "use": "sig"}]}).encode()


_TOKENS = Tokens([(_RULES, KeySource(jwks.parse(_set())))], clock=lambda: _NOW)


def _accepted(token: str) -> Subject | None:
    try:
        return _TOKENS.authenticate(Credentials(token))
    except Unauthenticated:
        return None


def token(data: bytes) -> None:
    """A token as it came; nobody but the key's holder makes one, so that none is accepted."""
    text = data.decode("latin-1")
    assert _accepted(text) is None or text in _GOOD


def signed_token(data: bytes) -> None:
    """Header and claims, parted by a NUL, with a good signature: what is accepted names a user and a tenant."""
    header, _, claims = data.partition(b"\0")
    start = f"{_b64(header)}.{_b64(claims)}"
    subject = _accepted(f"{start}.{_b64(_KEY.sign(start.encode()))}")
    if subject is not None:
        assert json.loads(header)["alg"] == "EdDSA"
        assert subject.user.strip() == subject.user != ""
        assert subject.tenant not in ("", "*")
        assert json.loads(claims)["iss"] == _RULES.issuer


def token_claims(data: bytes) -> None:
    """The claims alone."""
    try:
        claims = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(claims, dict):
        with contextlib.suppress(ClaimsError):
            subject, expires = subject_of(claims, _RULES, _NOW)
            assert subject.user
            assert expires > _NOW


def key_set(data: bytes) -> None:
    """A JWK Set: keys of the three algorithms, or the line of the fault."""
    try:
        keys = jwks.parse(data)
    except jwks.KeySetError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1 + data.count(b"\r")
        return
    assert keys.keys
    assert all(algorithm in jwks.ALGORITHMS for _, algorithm, _ in keys.material)


def forwarded(data: bytes) -> None:
    """Peer, `x-forwarded-for` and `forwarded`, parted by line ends; an address or the peer comes out."""
    peer, _, rest = data.decode("latin-1").partition("\n")
    listed, _, other = rest.partition("\n")
    for headers in ({"x-forwarded-for": listed}, {"forwarded": other}, {"x-forwarded-for": listed, "forwarded": other}):
        found = clients.client_address(peer, headers, _PROXIES)
        if found != peer:
            ipaddress.ip_address(found)
        believed = clients.trusted(peer, _PROXIES)
        if not believed:
            assert found == clients.client_address(peer, {}, _PROXIES), "an untrusted peer spoke for another"
        kept = dict(headers)
        clients.drop_untrusted(kept, peer, _PROXIES)
        assert kept == (headers if believed else {})


def trace_context(data: bytes) -> None:
    """`traceparent` and `tracestate`, parted by a line end; what is taken is written again and read as the same."""
    parent, _, state = data.partition(b"\n")
    context = tracecontext.parse(parent.decode("latin-1"), state.decode("latin-1"))
    if context is None:
        return
    assert 0 < context.trace_id < 1 << 128
    assert 0 < context.span_id < 1 << 64
    assert len(context.state) <= 512
    written = tracecontext.format_parent(context.trace_id, context.span_id, context.flags)
    assert tracecontext.parse(written, context.state) == context


TARGETS = {one.__name__: one for one in (token, signed_token, token_claims, key_set, forwarded, trace_context)}

_CLAIMS = json.dumps(
    {"iss": "https://i", "aud": ["a"], "exp": _NOW + 60, "nbf": 0, "sub": "u", "tenant": "t", "realm": {"roles": ["r"]}}
).encode()
_HEADER = b'{"alg":"EdDSA","kid":"k","typ":"JWT"}'
_START = f"{_b64(_HEADER)}.{_b64(_CLAIMS)}"
_TOKEN = f"{_START}.{_b64(_KEY.sign(_START.encode()))}"
_GOOD = {_TOKEN}


def seeds() -> dict[str, list[bytes]]:
    """What is accepted, and what nearly is."""
    other = b'{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}'
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return {
        "token": [_TOKEN.encode(), b"..", b"a.b.c"],
        "signed_token": [_HEADER + b"\0" + _CLAIMS, b'{"alg":"none"}\0' + _CLAIMS],
        "token_claims": [_CLAIMS, _CLAIMS.replace(b"60", b"1e400")],
        "key_set": [_set(), other, b'{"keys":[{"kty":"oct","k":"AA"}]}', b'{"keys":\n[}'],
        "forwarded": [
            b'10.0.0.1\n1.2.3.4, 10.0.0.2\nfor=1.2.3.4;proto=http, for="[2001:db8::1]:80"',
            b"ipv6:[::1]:50\n[2001:db8::2]:1, ::ffff:10.0.0.1\nfor=unknown",
            b"8.8.8.8\n10.0.0.1\nfor=_hidden",
            b"\n\n",
        ],
        "trace_context": [parent + b"\na=b,c@d=e", b"cc-" + parent[3:] + b"-what\n", parent + b"\n" + b"a" * 600],
    }
