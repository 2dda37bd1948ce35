"""The audit log of a running gateway: every decision once, nothing lost, verified from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from http.client import HTTPException

import grpc
import pytest
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
limits: {{body: 512KiB}}
audit: {{mode: MODE, erasure: ERASURE}}
"""
POLICY = "p, role:scorer, acme, *, infer, allow\np, role:ops, *, *, load, allow\ng, user:alice, role:scorer, acme\ng, user:alice, role:ops, *\np, user:bob, acme, *, load, deny\n"
BODY = {"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
PATH = "/v2/models/identity_fp32/infer"


def audit(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "audit", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def folder_of(one):
    return one.folder / "state" / "audit"


def records(one):
    status, out, err = audit("show", folder_of(one))
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def verified(one):
    status, out, err = audit("verify", folder_of(one), "--key", folder_of(one) / "log.vkey", "--format", "json")
    assert status == 0, out + err
    return json.loads(out)["size"]


def started(gateway, mode="async", *, erasure=False, **options):
    text = SETTINGS.replace("MODE", mode).replace("ERASURE", str(erasure).lower())
    return gateway(text, files={"policy.csv": POLICY}, **options)


@pytest.mark.parametrize("mode", ["async", "strict"])
def test_every_decision_has_one_record(gateway, mode):
    one = started(gateway, mode)
    key = {"x-api-key": ALICE}
    asked = [
        (one.post(PATH, BODY, key | {"x-request-id": "served"}).status, 200, "served", "served"),
        (one.post(PATH, BODY, {"x-request-id": "nobody"}).status, 401, "nobody", "refused"),
        (one.post(PATH, BODY, {"x-api-key": BOB, "x-request-id": "bob"}).status, 403, "bob", "refused"),
        (one.post("/v2/models/nope/infer", BODY, key | {"x-request-id": "nope"}).status, 404, "nope", "refused"),
        (one.post(PATH, {"inputs": []}, key | {"x-request-id": "wrong"}).status, 400, "wrong", "refused"),
        (
            one.post("/v2/repository/models/identity_fp32/load", {}, {"x-api-key": BOB, "x-request-id": "load"}).status,
            403,
            "load",
            "refused",
        ),
    ]
    channel = grpc.insecure_channel(one.grpc)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    message = service_pb2.ModelInferRequest(model_name="identity_fp32")
    tensor = message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    stub.ModelInfer(message, metadata=(("x-api-key", ALICE), ("x-request-id", "grpc")))
    asked.append((200, 200, "grpc", "served"))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(message, metadata=(("x-request-id", "grpc-nobody"),))
    streamed = list(
        stub.ModelStreamInfer(iter([message, message]), metadata=(("x-api-key", ALICE), ("x-request-id", "stream")))
    )
    assert [bool(answer.error_message) for answer in streamed] == [False, False]
    with pytest.raises(grpc.RpcError):
        list(stub.ModelStreamInfer(iter([message]), metadata=(("x-api-key", "no key"), ("x-request-id", "no-stream"))))
    large = " " * (1 << 20)
    asked.append((one.post(PATH, large, key | {"x-request-id": "large"}).status, 413, "large", "refused"))
    with pytest.raises(grpc.RpcError):
        message.raw_input_contents.append(large.encode())
        stub.ModelInfer(message, metadata=(("x-api-key", ALICE), ("x-request-id", "grpc-large")))
    channel.close()
    assert [got for got, *_ in asked] == [expected for _, expected, *_ in asked]
    assert one.stop() == 0
    found = records(one)
    assert verified(one) == len(found)
    assert [record["kind"] for record in found[:2]] == ["policy", "settings"]
    by_id = {}
    for record in found:
        by_id.setdefault(record["id"], []).append(record)
    for _, status, name, outcome in asked:
        (record,) = by_id[name]
        assert record["outcome"] == outcome
        assert record["status"] == ("OK" if name == "grpc" else str(status))
    (refused,) = by_id["grpc-nobody"]
    assert (refused["status"], refused["subject"]) == ("UNAUTHENTICATED", None)
    for name, status in (("no-stream", "UNAUTHENTICATED"), ("grpc-large", "RESOURCE_EXHAUSTED")):
        (refused,) = by_id[name]
        assert (refused["kind"], refused["action"], refused["status"]) == ("inference", "infer", status)
        assert (refused["outcome"], refused["model"], refused["object"]) == ("refused", None, "server")
    assert by_id["large"][0]["object"] == "model:identity_fp32"
    assert len(by_id["stream"]) == 2
    (served,) = by_id["served"]
    assert (served["subject"], served["tenant"], served["model"], served["version"]) == (
        "user:alice",
        "acme",
        "identity_fp32",
        "1",
    )
    assert served["rule"] == 1
    assert len(served["input_digest"]) == len(served["output_digest"]) == 64
    (load,) = by_id["load"]
    assert (load["kind"], load["action"], load["object"], load["outcome"]) == (
        "control",
        "load",
        "model:identity_fp32",
        "refused",
    )
    # Who asked, and the rule that decided, stand in refusals too.
    assert (load["subject"], load["tenant"], load["rule"]) == ("user:bob", "acme", 5)
    (bob,) = by_id["bob"]
    assert (bob["subject"], bob["rule"]) == ("user:bob", None)
    assert served["latency_us"] > 0


def test_equal_bodies_have_equal_digests_and_names_can_be_sealed(gateway):
    one = started(gateway, erasure=True)
    for _ in range(2):
        assert one.post(PATH, BODY, {"x-api-key": ALICE}).status == 200
    assert one.post(PATH, BODY, {"x-api-key": ALICE, "accept-encoding": "gzip"}).status == 200
    assert one.stop() == 0
    served = [record for record in records(one) if record["kind"] == "inference"]
    assert len({record["input_digest"] for record in served}) == 1
    assert len({record["subject"] for record in served}) == 1
    assert served[0]["subject"].startswith("person:")
    assert not any(b"alice" in path.read_bytes() for path in folder_of(one).rglob("*") if path.is_file())


@pytest.mark.parametrize("mode", ["async", "strict"])
def test_workers_and_a_killed_one_lose_nothing_that_was_answered_in_a_strict_log(gateway, mode):
    one = started(gateway, mode, args=("--workers", "2"))
    answered, stop = [], threading.Event()

    def client(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            rid = f"{name}-{number}"
            try:
                if one.post(PATH, BODY, {"x-api-key": ALICE, "x-request-id": rid}).status == 200:
                    answered.append(rid)
            except (OSError, HTTPException):
                continue  # its worker was killed

    threads = [threading.Thread(target=client, args=(name,), daemon=True) for name in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(answered) > 40, 60)
    worker = int(
        subprocess.run(
            ["pgrep", "-P", str(one.process.pid)], check=True, capture_output=True, text=True
        ).stdout.split()[0]
    )
    os.kill(worker, signal.SIGKILL)
    before = len(answered)
    until(lambda: len(answered) > before + 40, 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert one.stop() == 0
    recorded = [record["id"] for record in records(one) if record["kind"] == "inference"]
    assert verified(one) == len(records(one))
    assert len(recorded) == len(set(recorded))
    lost = set(answered) - set(recorded)
    assert len(lost) <= (0 if mode == "strict" else 50)
