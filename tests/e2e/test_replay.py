"""The log of a real gateway, decided again under another policy: what a gateway under that policy then answers."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from driving import ask, channel, fp32, message
from test_identity_jwt import jwk, key_set
from test_jwt import fresh

from gateway.cli import main

KEYS = {name: f"{name}-key" for name in ("alice", "bob", "olga")}
SETTINGS = """
upstreams: {{triton: {{http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}}}
identity:
  api_keys: [{keys}]
  jwt: [{{issuer: https://issuer, audience: tidegate, jwks: keys.json}}]
policy: {{file: policy.csv}}
audit: {{erasure: {erasure}}}
""".replace(
    "{keys}",
    ", ".join(
        f"{{{{sha256: {sha256(key.encode()).hexdigest()}, user: {name}, tenant: acme}}}}" for name, key in KEYS.items()
    ),
)
OLD = """\
p, role:scorer, acme, model:*, infer, allow
p, role:guest, acme, model:*, infer, deny
p, user:olga, *, server, configure, allow
g, user:alice, role:scorer, acme
"""
NEW = """\
p, role:guest, acme, model:*, infer, allow
p, role:scorer, acme, model:*, read, allow
p, user:bob, acme, model:identity_fp32, infer, allow
p, user:bob, *, server, configure, allow
"""


def asked(site):
    """The same requests of every kind; by id whether the policy allowed each, None: it was not asked."""
    roles = {
        "guest": fresh(roles=["guest"]),
        "scorer": fresh(roles=["scorer"]),
        "both": fresh(roles=["guest", "scorer"]),
    }
    credentials = {name: {"x-api-key": key} for name, key in KEYS.items()}
    credentials |= {name: {"authorization": f"Bearer {shown}"} for name, shown in roles.items()}
    verdicts = {}
    with channel(site.grpc) as made:
        for name, credential in credentials.items():
            for model in ("identity_fp32", "nope"):
                headers = credential | {"x-request-id": f"{name}-{model}"}
                status = site.post(f"/v2/models/{model}/infer", fp32(), headers).status
                verdicts[headers["x-request-id"]] = status != 403
            headers = credential | {"x-request-id": f"{name}-grpc"}
            verdicts[f"{name}-grpc"] = ask(made, message("identity_fp32", fp32()), headers).code != "PERMISSION_DENIED"
            status = site.get("/v2/logging", credential | {"x-request-id": f"{name}-logging"}).status
            verdicts[f"{name}-logging"] = status != 403
        assert site.post("/v2/models/identity_fp32/infer", fp32()).status == 401
        assert ask(made, message("identity_fp32", fp32())).code == "UNAUTHENTICATED"
    bad = {"x-api-key": KEYS["alice"], "x-request-id": "bad"}
    verdicts["bad"] = site.post("/v2/models/identity_fp32/infer", {"inputs": 1}, bad).status != 403
    return verdicts


@pytest.mark.parametrize("erasure", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_replay_says_what_the_next_gateway_answers(gateway, capsys, erasure):
    text = SETTINGS.format(erasure=str(erasure).lower())
    files = {"keys.json": key_set(jwk("RS256", "r")), "policy.csv": OLD}
    one = gateway(text, files=files)
    was = asked(one)
    assert one.stop() == 0
    other = gateway(text.replace("erasure: true", "erasure: false"), files=files | {"policy.csv": NEW})
    now = asked(other)
    assert other.stop() == 0
    (one.folder / "new.csv").write_text(NEW)

    def replayed(*more):
        log = str(one.folder / "state" / "audit")
        words = ["--policy", str(one.folder / "new.csv"), "--log", log, "--format", "json", *more]
        assert main(["policy", "replay", *words]) == 0
        return json.loads(capsys.readouterr().out)

    result = replayed(*(["--config", str(one.config)] if erasure else []))
    assert result["replayed"] == len(was)
    got = {change["id"]: (change["was"], change["now"]) for change in result["changed"]}
    assert got == {name: (was[name], now[name]) for name in was if was[name] != now[name]}
    assert len(got) > 8
    lines = {change["id"]: change["line"] for change in result["changed"]}
    assert (lines["guest-grpc"], lines["bob-identity_fp32"], lines["bob-logging"], lines["olga-logging"]) == (
        1,
        3,
        4,
        None,
    )
    if erasure:
        assert replayed()["replayed"] == 0
