"""Evidence from the log of a running gateway: decisions over HTTP and gRPC, a refusal, a change, and an incident."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import grpc
from driving import until
from tritonclient.grpc import service_pb2, service_pb2_grpc

ALICE, BOB = "alice-key", "bob-key"
SETTINGS = f"""
upstreams: {{triton: {{http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}}}
identity:
  api_keys:
    - {{sha256: {sha256(ALICE.encode()).hexdigest()}, user: alice, tenant: acme}}
    - {{sha256: {sha256(BOB.encode()).hexdigest()}, user: bob, tenant: acme}}
policy: {{file: policy.csv}}
audit: {{mode: async, erasure: true}}
"""
POLICY = "p, role:scorer, acme, *, infer, allow\ng, user:alice, role:scorer, acme\n"
BODY = {"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
PATH = "/v2/models/identity_fp32/infer"


def tidegate(*words, cwd=None):
    command = [sys.executable, "-m", "gateway", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_evidence_and_a_dossier_beside_a_running_gateway(gateway, tmp_path):
    one = gateway(SETTINGS, files={"policy.csv": POLICY})
    log = one.folder / "state/audit"
    for number in range(3):
        assert one.post(PATH, BODY, {"x-api-key": ALICE, "x-request-id": f"http-{number}"}).status == 200
    assert one.post(PATH, BODY, {"x-api-key": BOB, "x-request-id": "bob"}).status == 403
    message = service_pb2.ModelInferRequest(model_name="identity_fp32")
    tensor = message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    with grpc.insecure_channel(one.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(message, metadata=(("x-api-key", ALICE), ("x-request-id", "grpc")))
        metadata = (("x-api-key", ALICE), ("x-request-id", "stream"))
        assert len(list(stub.ModelStreamInfer(iter([message, message]), metadata=metadata))) == 2
    until(lambda: int((log / "checkpoint").read_text().split("\n")[1]) >= 9, 20)
    now = datetime.now(UTC)
    begin, end = ((now + timedelta(hours=hours)).isoformat() for hours in (-1, 1))
    out = tmp_path / "evidence"
    words = ("compliance", "report", "eu-ai-act", "--log", log, "--key", log / "log.vkey", "--from", begin, "--to", end)
    status, said, err = tidegate(*words, "--policy", one.folder / "policy.csv", "--output", out, "--format", "json")
    assert status == 0, said + err
    report = json.loads((out / "report.json").read_text())
    checks = {
        (duty["id"], check["kind"]): (check["status"], check["why"])
        for duty in report["duties"]
        for check in duty["checks"]
    }
    # What the pack says of every answered request is so of unary calls, streams and both protocols.
    assert checks["art-12", "filled"][0] == "holds", checks["art-12", "filled"]
    assert checks["art-12", "log-verifies"][0] == checks["art-15", "policy-lint"][0] == "holds"
    assert report["queries"]["answered"]["records"] == 6
    assert report["queries"]["refusals"]["records"] == 1
    assert report["queries"]["in-force"]["records"] == 2
    status, said, err = tidegate(
        *("compliance", "incident", "--log", log, "--request", "bob", "--request", "grpc"),
        *(
            "--aware",
            now.isoformat(),
            "--config",
            one.config,
            "--reason",
            "incident 7",
            "--output",
            tmp_path / "incident",
        ),
    )
    assert status == 0, said + err
    dossier = json.loads((tmp_path / "incident/incident.json").read_text())
    assert len(dossier["hold"]["new"]) == 2
    holds = [cited for cited in dossier["cited"] if cited["record"]["action"] == "hold"]
    assert sorted(cited["record"]["object"] for cited in holds) == dossier["hold"]["new"]
    # The gateway serves on, and its log goes on from where the holds were written.
    assert one.post(PATH, BODY, {"x-api-key": ALICE}).status == 200
    assert one.stop() == 0
    for bundle, cited in ((out, report["cited"]), (tmp_path / "incident", holds)):
        index = cited[-1]["index"]
        proof, entry = f"records/{index}.tlog-proof", f"records/{index}.json"
        assert tidegate("audit", "verify-proof", proof, "--key", "log/log.vkey", "--entry", entry, cwd=bundle)[0] == 0
    remembered = ("--remembered", out / "log/checkpoint", "--remembered", tmp_path / "incident/log/checkpoint")
    assert tidegate("audit", "verify", log, "--key", log / "log.vkey", *remembered)[0] == 0
