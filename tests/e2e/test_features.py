"""Raw columns in, the model's answers out: forms, refusals, metadata and reloads; alike on HTTP and gRPC."""

import csv
import json
import lzma
import struct
import time

import grpc
import numpy as np
import pytest
from gateway_fixture import start_gateway
from triton_fixture import CHECKOUT
from tritonclient.grpc import service_pb2, service_pb2_grpc

from governance import tables
from governance.monitor import profile
from governance.monitor.report import compare

PLAN = (CHECKOUT / "model_repository/income/features.yaml").read_text()
COLUMNS = json.loads((CHECKOUT / "model_repository/income/columns.json").read_text())["columns"]
NUMBERS = [column["name"] for column in COLUMNS if column["kind"] == "number"]
NAMES = [column["name"] for column in COLUMNS]
SETTINGS = """\
upstreams: {triton: {http: '$HTTP', grpc: '$GRPC'}}
routes:
  income: {features: income.yaml}
  either: {variants: [{name: only, model: income, version: "1"}], features: {plan: income.yaml, accept: [columns, rows, tensors]}}
  plain: {variants: [{name: only, model: income}]}
  misfit: {variants: [{name: bad, model: identity_fp32}, {name: good, model: income, weight: 0}], fallback: [good], features: income.yaml}
  hopeless: {variants: [{name: bad, model: identity_fp32}], features: income.yaml}
"""


def people(count):
    """Rows of the census, as its file has them; `?` is missing."""
    with lzma.open(CHECKOUT / "training/data/adult.csv.xz", "rt") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    return [
        {name: float(row[name]) if name in NUMBERS else None if row[name] == "?" else row[name] for name in NAMES}
        for row in rows
    ]


PEOPLE = people(64)


def encoded(row):
    """As the model wants it: what columns.json says, written down without any plan."""
    return [
        row[column["name"]] if column["kind"] == "number" else float(column["codes"].get(row[column["name"]], 0))
        for column in COLUMNS
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton):
    text = SETTINGS.replace("$HTTP", triton.http).replace("$GRPC", triton.grpc)
    running = start_gateway(tmp_path_factory.mktemp("features"), text, files={"income.yaml": PLAN})
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="module")
def stub(site):
    with grpc.insecure_channel(site.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected(site):
    """The answers to the encoded rows, sent as the model's own tensors."""
    data = [value for row in PEOPLE for value in encoded(row)]
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(PEOPLE), 14], "data": data}]}
    return site.post("/v2/models/plain/infer", body).json()["outputs"]


def as_json(rows):
    def values(name):
        return [("" if row[name] is None else row[name]) if name not in NUMBERS else row[name] for row in rows]

    return [
        {
            "name": name,
            "datatype": "FP64" if name in NUMBERS else "BYTES",
            "shape": [len(rows), 1],
            "data": values(name),
        }
        for name in NAMES
    ]


def raw_of(values, datatype):
    if datatype == "BYTES":
        items = [(value or "").encode() for value in values]
        return b"".join(len(item).to_bytes(4, "little") + item for item in items)
    return np.array(values, {"FP64": "<f8", "FP32": "<f4", "INT32": "<i4"}[datatype]).tobytes()


def binary(rows, number="FP64"):
    """IHCL and body of a binary request."""
    inputs, data = [], b""
    for name in reversed(NAMES):  # in any order
        datatype = number if name in NUMBERS else "BYTES"
        part = raw_of([row[name] for row in rows], datatype)
        inputs.append(
            {"name": name, "datatype": datatype, "shape": [len(rows), 1], "parameters": {"binary_data_size": len(part)}}
        )
        data += part
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return str(len(head)), head + data


def message(rows, *, typed=False, model="income"):
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in NAMES:
        datatype = "FP64" if name in NUMBERS else "BYTES"
        values = [row[name] for row in rows]
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(rows), 1])
        if not typed:
            request.raw_input_contents.append(raw_of(values, datatype))
        elif datatype == "FP64":
            tensor.contents.fp64_contents.extend(values)
        else:
            tensor.contents.bytes_contents.extend((value or "").encode() for value in values)
    return request


SPLIT = {"columns": NAMES, "data": [[row[name] for name in NAMES] for row in PEOPLE], "index": list(range(len(PEOPLE)))}
LEFT_OUT = [{key: value for key, value in row.items() if value is not None} for row in PEOPLE]


@pytest.mark.parametrize("route", ["income", "either"])
@pytest.mark.parametrize(
    "body",
    [{"instances": PEOPLE}, {"instances": LEFT_OUT}, {"dataframe_split": SPLIT}, {"inputs": as_json(PEOPLE)}],
    ids=["instances", "left out", "dataframe_split", "columns"],
)
def test_json_forms_are_answered_as_the_models_own_tensors(site, expected, route, body):
    answer = site.post(f"/v2/models/{route}/infer", {"id": "7", **body})
    assert answer.status == 200, answer.body
    document = answer.json()
    assert document["id"] == "7"
    assert document["model_name"] == route
    if route == "income":
        assert document["outputs"] == expected


@pytest.mark.parametrize("number", ["FP64", "FP32", "INT32"])
def test_binary_columns_are_answered_in_binary(site, expected, number):
    for _ in range(3):  # a head that has been seen is read by heart
        length, body = binary(PEOPLE, number)
        answer = site.request("POST", "/v2/models/income/infer", body, {"inference-header-content-length": length})
        assert answer.status == 200, answer.body
        head = json.loads(answer.body[: int(answer.headers["inference-header-content-length"])])
        at = int(answer.headers["inference-header-content-length"])
        for output, wanted in zip(head["outputs"], expected, strict=True):
            size = output["parameters"]["binary_data_size"]
            form = "<f4" if output["datatype"] == "FP32" else "<i8"
            found = np.frombuffer(answer.body[at : at + size], form)
            np.testing.assert_array_equal(found, np.array(wanted["data"], form))
            at += size


def test_rows_may_be_answered_in_binary(site, expected):
    answer = site.post(
        "/v2/models/income/infer",
        {"instances": PEOPLE[:2], "outputs": [{"name": "probability", "parameters": {"binary_data": True}}]},
    )
    length = int(answer.headers["inference-header-content-length"])
    assert list(struct.unpack("<2f", answer.body[length:])) == pytest.approx(expected[0]["data"][:2], abs=1e-6)


@pytest.mark.parametrize("typed", [False, True])
def test_grpc_takes_columns(stub, expected, typed):
    answer = stub.ModelInfer(message(PEOPLE, typed=typed))
    found = dict(zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True))
    for wanted in expected:
        form = "<f4" if wanted["datatype"] == "FP32" else "<i8"
        np.testing.assert_array_equal(np.frombuffer(found[wanted["name"]], form), np.array(wanted["data"], form))


def test_streams_take_columns(stub, expected):
    (answer,) = stub.ModelStreamInfer(iter([message(PEOPLE)]))
    assert not answer.error_message
    names = [output.name for output in answer.infer_response.outputs]
    found = dict(zip(names, answer.infer_response.raw_output_contents, strict=True))
    np.testing.assert_array_equal(np.frombuffer(found["probability"], "<f4"), np.array(expected[0]["data"], "<f4"))


def test_final_tensors_are_for_routes_that_say_so(site):
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 14], "data": encoded(PEOPLE[0])}]}
    assert site.post("/v2/models/either/infer", body).status == 200
    refused = site.post("/v2/models/income/infer", body)
    assert (refused.status, refused.error) == (
        400,
        "there is no column 'features': columns: " + ", ".join(f"`{name}`" for name in NAMES),
    )


def test_metadata_show_the_columns(site, stub):
    wanted = [{"name": name, "datatype": "FP64" if name in NUMBERS else "BYTES", "shape": [-1, 1]} for name in NAMES]
    for route in ("income", "either"):
        document = site.get(f"/v2/models/{route}").json()
        assert document["name"] == route
        assert document["inputs"] == wanted
        assert [output["name"] for output in document["outputs"]] == ["probability", "label"]
        answer = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=route))
        assert [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in answer.inputs
        ] == wanted
    assert [one["name"] for one in site.get("/v2/models/plain").json()["inputs"]] == ["features"]


def changed(**values):
    return [PEOPLE[0], {**PEOPLE[1], **values}]


BAD_ROWS = {
    "text for a number": ({"instances": changed(age="old")}, "row 2: 'age' must be a number"),
    "true for a number": ({"instances": changed(age=True)}, "row 2: 'age' must be a number"),
    "number for a text": ({"instances": changed(sex=1)}, "row 2: 'sex' must be text"),
    "missing": ({"instances": changed(age=None)}, "row 2: 'age' is missing, which the plan refuses"),
    "unknown": ({"instances": changed(agee=3)}, "row 2: there is no column 'agee': did you mean `age`?"),
    "nested": ({"instances": changed(age=[1])}, "Unable to parse 'instances'"),
    "no list": ({"instances": {"age": 1}}, "Unable to parse 'instances'"),
    "no row": ({"instances": []}, "batch-size must be >= 1"),
    "too many": ({"instances": PEOPLE + PEOPLE[:1]}, "batch-size must be <= 64"),
    "both": ({"instances": PEOPLE, "inputs": []}, "either 'instances' or 'inputs'"),
    "another key": ({"instances": PEOPLE, "params": {}}, "unexpected key 'params'"),
    "ragged": ({"dataframe_split": {"columns": ["age", "sex"], "data": [[1, "Male"], [1]]}}, "row 2 has 1 values, and there are 2 columns"),
    "twice": ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 1]]}}, "the column 'age' stands there twice"),
    "unknown column": ({"dataframe_split": {"columns": ["agge"], "data": [[1]]}}, "there is no column 'agge': did you mean `age`?"),
    "another output": ({"instances": PEOPLE, "outputs": [{"name": "x"}]}, "unexpected inference output 'x'"),
    "reserved": ({"instances": PEOPLE, "parameters": {"triton_x": 1}}, "triton"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused(site, body, words):
    answer = site.post("/v2/models/income/infer", body)
    assert answer.status == 400
    assert words in answer.error


def test_json_that_is_broken_or_says_a_name_twice_is_refused(site):
    for text in (
        '{"instances": [{"age": 1, "age": 2}]}',
        '{"instances": [{"age": 1}',
        '{"instances": [], "instances": []}',
    ):
        answer = site.request("POST", "/v2/models/income/infer", text.encode())
        assert (answer.status, "failed to parse the request JSON buffer" in answer.error) == (400, True)


def test_rows_are_for_routes_with_a_plan(site):
    assert site.post("/v2/models/plain/infer", {"instances": PEOPLE}).status == 400


def tensors(**changes):
    found = {tensor["name"]: tensor for tensor in as_json(PEOPLE[:2])}
    for name, change in changes.items():
        found[name] = {**found.get(name, {}), **change}
    return list(found.values())


def fp64(name, shape, data):
    return {name: {"name": name, "datatype": "FP64", "shape": shape, "data": data}}


BAD_COLUMNS = {
    "datatype": (tensors(age={"datatype": "BYTES", "data": ["1", "2"]}), "input 'age' data-type is 'BYTES', and this column's is a number's"),
    "datatype of a text": (tensors(sex={"datatype": "FP32", "data": [1, 2]}), "input 'sex' data-type is 'FP32', and this column's is 'BYTES'"),
    "flat": (tensors(age={"shape": [2]}), "a column is [n,1], got [2]"),
    "wide": (tensors(age={"shape": [1, 2]}), "a column is [n,1], got [1,2]"),
    "rows": (tensors(age={"shape": [1, 1], "data": [1]}), "has 2 rows, and the first has 1"),
    "unknown": (tensors(**fp64("agee", [2, 1], [1, 2])), "there is no column 'agee': did you mean `age`?"),
    "count": (tensors(age={"data": [1]}), "'age'"),
    "none": ([], "no column was sent"),
    "shared memory": ([{"name": "age", "datatype": "FP64", "shape": [1, 1], "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}], "lies in shared memory"),
    "left out": (tensors()[1:], "row 1: 'age' is missing"),
    "twice": ([*tensors(), tensors()[0]], "input 'age' already exists in request"),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "words"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_bad_columns_are_refused(site, inputs, words):
    answer = site.post("/v2/models/income/infer", {"inputs": inputs})
    assert answer.status == 400
    assert words in answer.error


def test_raw_requests_are_refused(site):
    answer = site.request("POST", "/v2/models/income/infer", b"abcd", {"inference-header-content-length": "0"})
    assert (answer.status, "takes columns" in answer.error) == (400, True)


def test_grpc_refuses_alike(stub):
    request = message(PEOPLE[:2])
    request.inputs[0].datatype = "BYTES"
    request.raw_input_contents[0] = raw_of(["1", "2"], "BYTES")
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "input 'age' data-type is 'BYTES', and this column's is a number's"
    request = message(changed(age=float("inf")))
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request)
    assert refused.value.details() == "row 2: 'age' is infinite, which the plan refuses"


def test_a_plan_that_does_not_fit_is_not_the_clients_fault(site, expected):
    answer = site.post("/v2/models/hopeless/infer", {"instances": PEOPLE})
    assert (answer.status, answer.error) == (503, "the route's feature plan does not fit the model that serves it")
    answer = site.post("/v2/models/misfit/infer", {"instances": PEOPLE})
    assert (answer.status, answer.headers["x-tidegate-variant"]) == (200, "good")
    assert answer.json()["outputs"] == expected


def test_tensors_beyond_the_limit_are_refused_before_they_are_made(gateway):
    running = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        "limits: {body: 64KiB}\nroutes: {income: {features: income.yaml}}\n",
        files={"income.yaml": PLAN.replace("{type: number, missing: refuse}", "number")},
    )
    answer = running.post("/v2/models/income/infer", {"instances": [{}] * 2000})
    assert (answer.status, "send fewer at once" in answer.error) == (413, True)


def test_a_changed_plan_takes_effect_and_a_broken_one_does_not(gateway, expected):
    running = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\nroutes: {income: {features: income.yaml}}\n",
        files={"income.yaml": PLAN},
    )

    def ask(**change):
        return running.post("/v2/models/income/infer", {"instances": [{**PEOPLE[0], **change}]})

    def until(holds):
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, running.log.read_text()
            time.sleep(0.2)

    plan = running.folder / "income.yaml"
    assert ask(sex="Diverse").status == 200
    plan.write_text(PLAN.replace("Male: 2}, unknown: 0,", "Male: 2}, unknown: refuse,"))
    until(lambda: ask(sex="Diverse").status == 400)
    assert ask(sex="Diverse").error == "row 1: 'sex' is none of the plan's categories"
    plan.write_text(PLAN.replace("lookup", "lokup"))
    until(lambda: "did you mean `lookup`?" in running.log.read_text())
    assert ask(sex="Diverse").status == 400
    assert ask().status == 200


def test_a_monitor_sees_what_clients_sent(gateway, tmp_path):
    """The raw columns, whatever the form, and not the tensors that were made of them."""

    def table(name, rows):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, NAMES)
            writer.writeheader()
            writer.writerows(rows)
        return tables.read(tmp_path / name)

    reference = table("reference.csv", people(200)[64:])
    running = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        "routes: {income: {features: income.yaml, monitor: {profile: people.profile}}}\n",
        files={"income.yaml": PLAN, "people.profile": profile.encode(profile.build(reference))},
    )
    split = {"columns": NAMES[::-1], "data": [[row[name] for name in NAMES[::-1]] for row in PEOPLE[20:32]]}
    for body in ({"instances": LEFT_OUT[:20]}, {"dataframe_split": split}):
        assert running.post("/v2/models/income/infer", body).status == 200
    length, body = binary(PEOPLE[32:50])
    headers = {"inference-header-content-length": length}
    assert running.request("POST", "/v2/models/income/infer", body, headers).status == 200
    with grpc.insecure_channel(running.grpc) as channel:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message(PEOPLE[50:]))
    assert running.post("/v2/models/income/infer", {"instances": changed(age="x")}).status == 400
    expected = compare(reference, table("sent.csv", PEOPLE))
    found = running.get("/gateway/v1/monitors/income").json()
    assert (found["rows"], found["calls"], found["unseen"]) == (expected.rows, 4, 0)
    for column, other in zip(found["columns"], expected.columns, strict=True):
        for name in ("name", "kind", "status", "n_current", "missing_current", "bins"):
            assert column[name] == getattr(other, name), (column["name"], name)
        assert column["statistics"]["psi"] == other.statistics["psi"]
