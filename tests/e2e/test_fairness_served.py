"""On whom a running gateway decides what: both protocols, streams, workers, restarts, and who may see it."""

import argparse
import json
from hashlib import sha256

import grpc
from driving import until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.commands import fairness as command
from governance.audit.checked import checked_records
from governance.audit.verify import read_keys

ALICE, OFFICER = "alice-key", "officer-key"
SETTINGS = f"""
upstreams: {{triton: {{http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}}}
routes:
  loan:
    variants:
      - {{name: champion, model: identity_fp32, weight: 1}}
      - {{name: challenger, model: identity_fp32, weight: 0}}
    shadows: [{{name: candidate, model: identity_fp32, queue: 1000}}]
    match: [{{headers: {{x-arm: challenger}}, variant: challenger}}]
    fairness:
      attributes:
        - {{name: sex, parameter: sex, values: [F, M]}}
        - {{name: region, header: x-region, values: [north, south]}}
      decision: {{output: OUTPUT0, index: 0, at_least: 0.5}}
      min_group: 10
      alert: {{min_group: 18}}
identity:
  api_keys:
    - {{sha256: {sha256(ALICE.encode()).hexdigest()}, user: alice, tenant: acme}}
    - {{sha256: {sha256(OFFICER.encode()).hexdigest()}, user: officer, tenant: acme}}
policy: {{file: policy.csv}}
"""
POLICY = """\
p, user:alice, acme, model:loan, infer, allow
p, user:alice, *, route:loan, read, allow
p, user:officer, *, route:loan, export, allow
"""
PATH = "/v2/models/loan/infer"
PAGE = "/gateway/v1/fairness/loan"


def body(score, sex, rows=1):
    data = [score, 0.0] * rows
    parameters = {} if sex is None else {"sex": sex}
    tensor = {"name": "INPUT0", "shape": [rows, 2], "datatype": "FP32", "data": data}
    return {"parameters": parameters, "inputs": [tensor]}


def page(one, query=""):
    answer = one.get(PAGE + query, {"x-api-key": OFFICER})
    assert answer.status == 200, answer.body
    return answer.json()


def counts(report):
    found = {tuple(group["group"].values()): (group["n"], group["selected"]) for group in report["groups"]}
    return {**found, "unknown": (report["unknown"]["n"], report["unknown"]["selected"])}


def test_decisions_by_group(gateway):
    one = gateway(SETTINGS, files={"policy.csv": POLICY}, args=("--workers", "2"))
    key = {"x-api-key": ALICE}
    for _ in range(6):
        assert one.post(PATH, body(0.9, "F"), key | {"x-region": "north"}).status == 200
        assert one.post(PATH, body(0.1, "F"), key | {"x-region": "north"}).status == 200
        assert one.post(PATH, body(0.9, "M", rows=3), key | {"x-region": "north"}).status == 200
        assert one.post(PATH, body(0.9, "F"), key | {"x-region": "south", "x-arm": "challenger"}).status == 200
        assert one.post(PATH, body(0.9, None), key | {"x-region": "south"}).status == 200
    # What is refused is no decision.
    assert one.post(PATH, {"inputs": []}, key | {"x-region": "north"}).status == 400
    assert one.post(PATH, body(0.9, "F"), {"x-region": "north"}).status == 401
    message = service_pb2.ModelInferRequest(model_name="loan")
    message.parameters["sex"].string_param = "M"
    tensor = message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([0.1, 0.9])
    metadata = (("x-api-key", ALICE), ("x-region", "south"))
    with grpc.insecure_channel(one.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(message, metadata=metadata)
        assert len(list(stub.ModelStreamInfer(iter([message, message]), metadata=metadata))) == 2
    expected = {
        ("F", "north"): (12, 6),
        ("F", "south"): (6, 6),
        ("M", "north"): (18, 18),
        ("M", "south"): (3, 0),
        "unknown": (6, 6),
    }
    until(lambda: counts(page(one)["all"]) == expected, 10)
    found = page(one)
    assert (found["calls"], found["uncounted"], found["attributes"]) == (33, 0, ["sex", "region"])
    assert counts(found["variants"]["challenger"]) == {
        ("F", "north"): (0, 0), ("F", "south"): (6, 6), ("M", "north"): (0, 0), ("M", "south"): (0, 0), "unknown": (0, 0)
    }  # fmt: skip
    rates = {tuple(group["group"].values()): group["metrics"]["selection_rate"] for group in found["all"]["groups"]}
    assert (rates["F", "north"]["value"], rates["M", "north"]["value"]) == (0.5, 1.0)
    assert rates["M", "south"]["status"] == "insufficient"
    assert found["all"]["differences"]["demographic_parity"] == 0.5
    assert found["all"]["bounds"]["groups"][0] == {
        "group": {"sex": "F", "region": "north"}, "low": 0.5, "high": 12 / 18
    }  # fmt: skip
    assert counts(page(one, "?minutes=60")["all"]) == expected
    # Reading the route is not enough, and nobody's counts are on the open pages.
    assert one.get(PAGE, key).status == 403
    assert one.get(PAGE).status == 401
    assert one.get("/gateway/v1/routes/loan", key).status == 200
    assert one.get("/gateway/v1/fairness/income", {"x-api-key": OFFICER}).status == 403
    assert one.get(PAGE + "?minutes=0", {"x-api-key": OFFICER}).status == 400
    assert b"north" not in one.get("/metrics").body
    until(lambda: one.metric("tidegate_fairness_rows_total", route="loan", known="true") == 39, 10)
    assert one.metric("tidegate_fairness_rows_total", route="loan", known="false") == 6
    assert one.metric("tidegate_fairness_uncounted_total", route="loan") == 0
    folder = one.folder / "state/fairness"
    modes = {oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*"))}
    assert modes == {"0o700", "0o600"}
    # Every M of the north is selected and half of the F are not: of so few that may be chance.
    champion = found["variants"]["champion"]
    assert (champion["model"], champion["version"]) == ("identity_fp32", None)
    # The shadow decides the same on the same people, but for streams, whose copies are of the call.
    until(lambda: counts(page(one)["shadows"]["candidate"])["M", "north"] == (18, 18), 10)
    assert counts(page(one)["shadows"]["candidate"])["unknown"] == (6, 6)
    assert (found["alert"]["raised"], found["alert"]["now"]["status"]) == (None, "insufficient")
    # Of many it is none; who is concerned is said on the page alone.
    assert one.post(PATH, body(0.1, "F", rows=300), key | {"x-region": "north"}).status == 200
    assert one.post(PATH, body(0.9, "M", rows=300), key | {"x-region": "north"}).status == 200
    until(lambda: page(one)["alert"]["raised"] is not None, 40)
    alert = page(one)["alert"]["now"]
    assert (alert["status"], alert["lowest"]) == (
        "below", {"group": {"sex": "F", "region": "north"}, "n": 312, "selected": 6}
    )  # fmt: skip
    until(lambda: one.metric("tidegate_fairness_alert", route="loan") == 1, 10)
    expected[("F", "north")], expected[("M", "north")] = (312, 6), (318, 318)
    # A reload that keeps the declaration keeps the counts; another declaration begins anew.
    one.config.write_text(one.config.read_text().replace("identity:", "passthrough: true\nidentity:"))
    before = json.dumps(page(one)["since"])
    until(lambda: one.get("/v2/models/identity_fp32", {"x-api-key": ALICE}).status != 404, 20)
    assert counts(page(one)["all"]) == expected
    assert json.dumps(page(one)["since"]) == before
    one.config.write_text(one.config.read_text().replace("at_least: 0.5", "at_least: 0.6"))
    until(lambda: counts(page(one)["all"])["unknown"] == (0, 0), 20)
    assert one.stop() == 0


LATER = SETTINGS.replace("name: sex, parameter: sex", "name: sex, joined: true").replace(
    "      alert: {min_group: 18}\n", ""
)
RIGHTS = POLICY + "p, user:alice, *, fairness:loan, join, allow\n"
ATTRIBUTES = PAGE + "/attributes"


def join(one, *words):
    """The command's exit status."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["fairness", "join", "--url", f"http://{one.http}", "--route", "loan", *words])
    return args.run(args)


def test_attributes_that_are_told_later(gateway, monkeypatch, capsys):
    one = gateway(LATER, files={"policy.csv": RIGHTS}, args=("--workers", "2"))
    key = {"x-api-key": ALICE, "x-region": "south"}
    for at in range(8):
        assert one.post(PATH, body(0.9 if at % 2 else 0.1, "M"), key | {"x-request-id": f"id-{at}"}).status == 200
    assert counts(page(one)["all"])["unknown"] == (8, 4)
    told = {"requests": [{"id": f"id-{at}", "values": {"sex": "F" if at < 6 else "M"}} for at in range(7)]}
    told["requests"] += [{"id": "nobody", "values": {"sex": "F"}}, {"id": "id-7", "values": {"sex": "divers"}}]
    expected = {"joined": 7, "again": 0, "late": 0, "unmatched": 1, "undeclared": 1}
    answer = one.post(ATTRIBUTES, told, {"x-api-key": ALICE, "x-request-id": "told-1"})
    assert (answer.status, answer.json()) == (200, expected)
    found = counts(page(one)["all"])
    assert (found["F", "south"], found["M", "south"], found["unknown"]) == ((6, 3), (1, 0), (1, 1))
    table = one.folder / "people.csv"
    table.write_text("request,sex,more\nid-7,M,x\nid-1,F,x\n,F,\nnobody,,\n")
    words = ("--data", str(table), "--id", "request", "--attribute", "sex")
    monkeypatch.setenv("TIDEGATE_API_KEY", ALICE)
    assert join(one, *words, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "joined": 1, "again": 1, "late": 0, "unmatched": 0, "undeclared": 1
    }  # fmt: skip
    assert counts(page(one)["all"])["M", "south"] == (2, 1)
    assert join(one, *words[:-1], "age") == 2
    monkeypatch.setenv("TIDEGATE_API_KEY", OFFICER)
    assert join(one, *words) == 1
    assert "does not allow" in capsys.readouterr().err
    # Whoever may see the counts may not tell, nor the other way round; the sender of a body is told what is wrong.
    assert one.post(ATTRIBUTES, told, {"x-api-key": OFFICER}).status == 403
    assert one.get(PAGE, {"x-api-key": ALICE}).status == 403
    assert one.post(ATTRIBUTES, {"requests": [{"id": 1}]}, {"x-api-key": ALICE}).status == 400
    until(lambda: one.metric("tidegate_fairness_joins_total", route="loan", result="joined") == 8, 10)
    assert one.stop() == 0
    log = one.folder / "state/audit"
    (record,) = [each for each in checked_records(log, read_keys(log / "log.vkey")) if each["id"] == "told-1"]
    assert (record["action"], record["object"], record["subject"], record["allowed"], record["details"]) == (
        "join", "fairness:loan", "user:alice", True, expected
    )  # fmt: skip
