"""Change control on a running gateway: drafts wait, agreed policies take effect on every worker, emergencies end."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from driving import until
from gateway_fixture import start_gateway

KEYS = {name: f"tg_{name}" for name in ("carol", "dave", "gus", "eve")}
POLICY = """\
p, role:editor, *, policy, edit, allow
p, role:approver, *, policy, approve, allow
p, user:eve, *, server, read, allow
g, user:carol, role:editor, *
g, user:dave, role:approver, *
g, user:gus, role:break-glass, *
"""
MODEL = """\
[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, obj, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && r.act == p.act
"""


def settings(policy: str) -> str:
    keys = "".join(
        f"    - {{sha256: {hashlib.sha256(key.encode()).hexdigest()}, user: {name}, tenant: acme}}\n"
        for name, key in KEYS.items()
    )
    return (
        "upstreams: {triton: {http: 127.0.0.1:9, grpc: 127.0.0.1:11}}\nworkers: 2\nlog: {access: false}\n"
        f"policy: {{{policy}}}\nidentity:\n  api_keys:\n{keys}"
    )


@pytest.fixture
def site(tmp_path):
    text = settings("file: policy.csv, approvals: 1")
    gateway = start_gateway(tmp_path / "site", text, files={"policy.csv": POLICY}, wait="live")
    yield gateway
    gateway.stop()


def policies(gateway) -> set[str]:
    """Hashes of the policy in force; each worker answers some of these."""
    found = [gateway.get("/gateway/v1/snapshot", headers={"x-api-key": KEYS["eve"]}) for _ in range(12)]
    return {answer.json()["policy"] for answer in found}


def step(gateway, who: str, *words: str) -> None:
    command = [sys.executable, "-m", "gateway", "policy", words[0], "--config", str(gateway.config), *words[1:]]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TIDEGATE_API_KEY": KEYS[who]})


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_change_takes_effect_when_it_is_agreed_to_and_an_emergency_ends(site):
    file = site.folder / "policy.csv"
    draft, third = POLICY + "# a draft\n", POLICY + "# an incident\n"
    assert policies(site) == {sha(POLICY)}
    file.write_text(draft)
    step(site, "carol", "propose")
    until(lambda: "is a draft" in site.log.read_text(), 15, "the gateway has seen the draft")
    assert policies(site) == {sha(POLICY)}
    step(site, "dave", "approve", sha(draft))
    until(lambda: policies(site) == {sha(draft)}, 15, "every worker has the approved policy")
    file.write_text(third)
    step(site, "gus", "emergency", "--hours", "0.006", "--reason", "incident")
    until(lambda: policies(site) == {sha(third)}, 15, "every worker has the emergency policy")
    until(lambda: policies(site) == {sha(draft)}, 45, "the emergency has ended by itself")


def test_a_model_of_ones_own_decides(tmp_path):
    policy = "p, watcher, server, read\ng, user:eve, watcher\n"
    text = settings("file: policy.csv, model: model.conf")
    files = {"policy.csv": policy, "model.conf": MODEL}
    gateway = start_gateway(tmp_path / "own", text, files=files, wait="live")
    try:
        assert policies(gateway) == {hashlib.sha256(MODEL.encode() + b"\0" + policy.encode()).hexdigest()}
        assert gateway.get("/gateway/v1/snapshot", headers={"x-api-key": KEYS["carol"]}).status == 403
    finally:
        gateway.stop()
