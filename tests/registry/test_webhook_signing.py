"""Signatures of webhooks: the vector of Standard Webhooks' own libraries, both schemes, and secrets that are none."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from governance.errors import WebhookError
from governance.webhooks.signing import headers, new_secret, signers

SHARED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Of the test of Standard Webhooks' Python library, as the id, the time and the signature below."""


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_vector_of_the_reference_library():
    made = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', signers(SHARED, "x"))
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("pair", [False, True])
def test_an_ed25519_signature_verifies(pair):
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    secret = "whsk_" + coded(private.private_bytes_raw() + (public if pair else b""))
    made = headers("m", 1, b"body", signers(secret, "x"))["webhook-signature"]
    assert made.startswith("v1a,")
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(made[4:]), b"m.1.body")


def test_secrets_that_follow_each_other_sign_side_by_side():
    new, _ = new_secret(ed25519=False)
    pair, public = new_secret(ed25519=True)
    made = headers("m", 1, b"", signers(f"# since May\n{new}\n\n{SHARED}\n{pair}\n", "x"))["webhook-signature"]
    assert [one.split(",")[0] for one in made.split()] == ["v1", "v1", "v1a"]
    assert made.split()[1] == headers("m", 1, b"", signers(SHARED, "x"))["webhook-signature"]
    assert public.startswith("whpk_")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no secret"),
        ("# nothing\n", "holds no secret"),
        ("whsec_", "secret 1 is none"),
        ("whsec_" + coded(b"x" * 23), "secret 1 is none"),
        ("whsec_" + coded(b"x" * 65), "secret 1 is none"),
        ("whsec_c2VjcmV0!", "is not base64"),
        ("whsec_c2VjcmV", "is not base64"),
        (coded(b"x" * 32), "is none"),
        ("whpk_" + coded(b"x" * 32), "is none"),
        ("whsk_" + coded(b"x" * 31), "is none"),
        ("whsk_" + coded(b"x" * 64), "another one's public key"),
        (f"{SHARED} whsec_ü", "secret 2 is not base64"),
        (f"{SHARED} " * 9, "more than 8"),
    ],
)
def test_secrets_that_are_refused(text, says):
    with pytest.raises(WebhookError) as error:
        signers(text, "hooks/pager")
    assert says in str(error.value)
    assert str(error.value).startswith("hooks/pager: ")
    assert len(text) < 8 or text[6:] not in str(error.value)


@given(st.text(max_size=200))
def test_any_text_is_signers_or_an_error(text):
    try:
        found = signers(text, "x")
    except WebhookError:
        return
    assert headers("m", 1, b"", found)["webhook-signature"].startswith("v1")
