"""Two gateways that cosign each other's audit logs: what one of them rewrites, the other one finds."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256

import pytest
from driving import until
from gateway_fixture import start_gateway
from test_audit import audit, records, verified
from triton_fixture import free_ports

KEY = "auditor-key"
SETTINGS = """
listen: {{http: '127.0.0.1:{http}', grpc: null}}
state_dir: state
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
identity: {{api_keys: [{{sha256: {digest}, user: auditor, tenant: audit}}]}}
policy: {{file: policy.csv}}
audit:
  origin: bank.example/{name}
{more}
"""
PEERS = """\
  witnesses: [{{url: 'http://127.0.0.1:{port}/audit/witness', key: '{key}'}}]
  witness: {{logs: ['{log}']}}
"""
POLICY = "p, user:auditor, *, audit, read, allow\n"


class Pair:
    """Two gateways, each a witness of the other."""

    def __init__(self, tmp_path, triton, workers) -> None:
        self.folders = [tmp_path / "one", tmp_path / "two"]
        self.ports = free_ports(2)
        self.triton = triton
        self.workers = workers
        self.running = {}
        self.keys = []
        for number, folder in enumerate(self.folders):
            folder.mkdir()
            (folder / "tidegate.yaml").write_text(self.text(number))
            (folder / "policy.csv").write_text(POLICY)
            status, out, err = audit("keys", "--config", folder / "tidegate.yaml", "--format", "json")
            assert status == 0, err
            self.keys.append(json.loads(out))

    def text(self, number, more=""):
        words = {"http": self.ports[number], "name": f"gateway-{number}", "more": more}
        return SETTINGS.format(**words, triton=self.triton, digest=sha256(KEY.encode()).hexdigest())

    def start(self, number):
        other = 1 - number
        peers = PEERS.format(port=self.ports[other], key=self.keys[other]["witness"], log=self.keys[other]["log"][0])
        files, args = {"policy.csv": POLICY}, ("--workers", self.workers)
        made = start_gateway(self.folders[number], self.text(number, peers), files=files, args=args, wait="")
        self.running[number] = made
        made.http = f"127.0.0.1:{self.ports[number]}"
        made.wait_ready()
        return made


@pytest.fixture
def pair(request, tmp_path, triton):
    made = Pair(tmp_path, triton, request.param)
    yield made
    for one in made.running.values():
        one.stop()


def ask(one, count):
    for _ in range(count):
        assert one.post("/v2/models/identity_fp32/infer", {}).status == 401


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["1", "2"], indirect=True)
def test_a_rewritten_history_is_found_by_the_peer(pair):
    names = [key["log"][0].split("+")[0] for key in pair.keys]
    assert names == ["bank.example/gateway-0", "bank.example/gateway-1"]
    one, two = pair.start(0), pair.start(1)
    witness = one.folder / "peer.vkey"
    witness.write_text(pair.keys[1]["witness"])
    log = one.folder / "state" / "audit"
    ask(one, 3)

    def judged():
        words = ("verify", log, "--key", log / "log.vkey", "--witness", witness, "--format", "json")
        return json.loads(audit(*words)[1])

    until(lambda: judged()["witnessed"] == 5, 60)
    assert judged()["ok"]
    served = one.get("/audit/checkpoint", {"x-api-key": KEY}).body
    assert served.count("— ".encode()) == 2, "the log's signature and its witness's"
    key_id = pair.keys[1]["witness"].split("+")[1]
    assert one.get(f"/audit/witnessed/{key_id}", {"x-api-key": KEY}).body == served
    until((two.folder / "state/audit/witnessed").exists, 30)
    assert one.stop() == 0
    verified(one)

    # Whoever has the host, and so the key, writes another history.
    private = log.parent / "audit-private"
    shutil.rmtree(log / "tile")
    shutil.rmtree(private / "wal")
    (log / "checkpoint").unlink()
    (private / "head").unlink()
    one = pair.start(0)
    ask(one, 20)
    found = until(lambda: [each for each in records(two) if each["action"] == "witness"], 60)[0]
    assert (found["kind"], found["object"], found["outcome"], found["status"]) == ("control", "audit", "refused", "422")
    details = found["details"]
    assert (details["origin"], details["cosigned"], details["shown"] > 5) == (names[0], 5, True)
    assert any(line["message"] == "a log does not continue what was seen of it" for line in two.log_lines())
    until(lambda: "has cosigned another history" in one.log.read_text(), 30)
    assert one.stop() == 0
    assert two.stop() == 0
    assert verified(one) > 5, "by itself it holds"
    assert {finding["code"] for finding in judged()["findings"]} == {"forked"}
    kept = next((two.folder / "state/audit-private/witness").glob("*.contradicts-*"))
    (seen,) = (path for path in kept.parent.iterdir() if not path.suffix)
    status, out, _ = audit("verify", log, "--key", log / "log.vkey", "--remembered", seen)
    assert (status, "[forked]" in out) == (1, True)


@pytest.mark.slow
def test_where_a_witness_is_not_there_is_none(gateway):
    one = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n")
    assert one.request("POST", "/audit/witness/add-checkpoint", b"old 0\n").status == 404
