"""Live monitors of a running gateway: what they count is what `drift report` says of the same rows."""

import datetime as dt
import json
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from driving import until
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from governance import tables
from governance.monitor import live, profile
from governance.monitor.report import compare
from governance.monitor.tile import Format
from kernels import drift

UP = "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
ROUTE = UP + "routes: {seen: {variants: [{name: v, model: identity_all}], monitor: {profile: seen.profile}}}\n"
COLUMNS = {"INPUT_FP64": np.float64, "INPUT_FP32": np.float32, "INPUT_INT64": np.int64, "INPUT_BYTES": np.object_}
PAGE = "/gateway/v1/monitors/seen"


def rows_of(seed: int, count: int) -> dict[str, list]:
    """Columns with missing values, infinities, ties and rare categories; what text and tensors can both say."""
    rng = np.random.default_rng(seed)
    fp64 = rng.normal(seed / 10, 1, count).round(3)
    fp64[rng.random(count) < 0.05] = np.nan
    fp64[0] = np.inf
    fp32 = rng.integers(0, 40, count) / 8
    jobs = [f"job{int(n)}" for n in rng.zipf(1.7, count).clip(max=200)]
    jobs = ["" if rng.random() < 0.1 else job for job in jobs]
    return {
        "INPUT_FP64": fp64.tolist(),
        "INPUT_FP32": fp32.tolist(),
        "INPUT_INT64": rng.integers(10**16, 10**16 + 10**6, count).tolist(),
        "INPUT_BYTES": jobs,
    }


def csv_of(path, columns):
    lines = zip(*columns.values(), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def chunks(columns, size):
    count = len(columns["INPUT_FP64"])
    for at in range(0, count, size):
        yield {name: values[at : at + size] for name, values in columns.items()}


def arrays(columns):
    return {
        name: np.array([value.encode() for value in values] if name == "INPUT_BYTES" else values, dtype=COLUMNS[name])
        for name, values in columns.items()
    }


def inputs(module, columns, **options):
    made = []
    for name, array in arrays(columns).items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **options)
        made.append(tensor)
    return made


def over_http(one, columns):
    client = tritonclient.http.InferenceServerClient(one.http)
    client.infer("seen", inputs(tritonclient.http, columns))
    client.close()


def over_json(one, columns):
    document = []
    for name, values in columns.items():
        datatype = name.removeprefix("INPUT_")
        document.append({"name": name, "datatype": datatype, "shape": [len(values)], "data": values})
    assert one.post("/v2/models/seen/infer", {"inputs": document}).status == 200


def over_grpc(one, columns):
    client = tritonclient.grpc.InferenceServerClient(one.grpc)
    client.infer("seen", inputs(tritonclient.grpc, columns))
    client.close()


def over_stream(one, columns):
    message = service_pb2.ModelInferRequest(model_name="seen")
    for name, array in arrays(columns).items():
        tensor = message.inputs.add(name=name, datatype=name.removeprefix("INPUT_"), shape=list(array.shape))
        field = {"INPUT_FP64": "fp64", "INPUT_FP32": "fp32", "INPUT_INT64": "int64", "INPUT_BYTES": "bytes"}[name]
        getattr(tensor.contents, f"{field}_contents").extend(array.tolist())
    with grpc.insecure_channel(one.grpc) as channel:
        (answer,) = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([message]))
    assert not answer.error_message


def made_profile(tmp_path, seed=1, count=400):
    data = csv_of(tmp_path / f"train{seed}.csv", rows_of(seed, count))
    return data, profile.encode(profile.build(tables.read(data))).decode()


def report(one, page=PAGE):
    answer = one.get(page)
    assert answer.status == 200, answer.body
    return answer.json()


def rows(one):
    return report(one)["rows"]["current"]


def test_the_page_is_the_drift_report_of_the_rows_that_were_served(gateway, tmp_path):
    reference, made = made_profile(tmp_path)
    one = gateway("workers: 2\n" + ROUTE, files={"seen.profile": made})
    sent = rows_of(2, 420)
    ways = [over_http, over_json, over_grpc, over_stream]
    with ThreadPoolExecutor(6) as pool:
        calls = []
        for at, chunk in enumerate(chunks(sent, 35)):
            way = ways[at % 4]
            # JSON has neither NaN nor infinity.
            plain = not np.isfinite(chunk["INPUT_FP64"]).all()
            calls.append(pool.submit(over_http if way is over_json and plain else way, one, chunk))
        for call in calls:
            call.result()
    # Refused by the gateway, and by the model server: no rows.
    wrong = {"inputs": [{"name": "INPUT_FP64", "datatype": "FP64", "shape": [1], "data": ["x"]}]}
    assert one.post("/v2/models/seen/infer", wrong).status == 400
    expected = compare(tables.read(reference), tables.read(csv_of(tmp_path / "now.csv", sent)))
    found = report(one)
    assert found["rows"] == expected.rows
    assert (found["calls"], found["unseen"], found["route"]) == (12, 0, "seen")
    assert found["profile"] == json.loads(made.splitlines()[0])["sha256"]
    for column, other in zip(found["columns"], expected.columns, strict=True):
        for name in (
            "name",
            "kind",
            "status",
            "n_reference",
            "n_current",
            "missing_reference",
            "missing_current",
            "bins",
        ):
            assert column[name] == getattr(other, name), (column["name"], name)
        for name in ("psi", "js", "hellinger", "kl", "chi2"):
            assert column["statistics"][name] == other.statistics[name]
        assert column["p_values"]["chi2"] == other.p_values["chi2"]
        assert column["statistics"]["wasserstein"] is column["statistics"]["cvm"] is None
    for column in found["columns"]:
        psi = column["statistics"]["psi"]
        until(lambda: one.metric("tidegate_drift_psi", route="seen", column=column["name"]) == psi, 30)  # noqa: B023
    assert one.metric("tidegate_drift_rows", route="seen") == 420
    # A monitor that is younger than a window: all of it, from the minute on in which it began.
    window = until(lambda: (w := report(one, f"{PAGE}?window=5m"))["of"] == "store" and w, 60)
    assert (window["rows"], window["window"], found["of"]) == (found["rows"], "5m", "machine")
    began = dt.datetime.fromisoformat(found["since"])
    assert dt.datetime.fromisoformat(window["since"]) in (began, began.replace(second=0, microsecond=0))
    for query in ("window=6m", "windw=5m", "window="):
        answer = one.get(f"{PAGE}?{query}")
        assert (answer.status, answer.error) == (400, "the page takes `window` alone, one of 5m, 1h, 1d, 7d, 30d")
    # Every worker answers for all.
    assert {json.dumps(report(one)["columns"]) for _ in range(8)} == {json.dumps(found["columns"])}


def test_counts_outlive_a_killed_worker_a_reload_and_a_restart_and_begin_anew_with_another_profile(gateway, tmp_path):
    _, made = made_profile(tmp_path)
    one = gateway(ROUTE, files={"seen.profile": made})
    chunk = next(chunks(rows_of(2, 40), 40))
    over_http(one, chunk)
    assert rows(one) == 40
    (worker,) = one.get("/gateway/v1/snapshot").json()["workers"]
    pid = json.loads((one.folder / "state/run/snapshot-0").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: json.loads((one.folder / "state/run/snapshot-0").read_bytes())["pid"] != pid, 30)
    one.wait_ready()
    over_http(one, chunk)
    assert rows(one) == 80
    since = report(one)["since"]
    # A reload that changes something else.
    text = one.config.read_text()
    one.config.write_text(text.replace("model: identity_all}", "model: identity_all, weight: 3}"))
    until(lambda: one.get("/gateway/v1/snapshot").json()["hash"] != worker["hash"], 30)
    over_http(one, chunk)
    assert (rows(one), report(one)["since"]) == (120, since)
    # The whole gateway.
    assert one.stop() == 0
    with sqlite3.connect(one.folder / "state/store/tidegate.db") as store:  # what a minute had yet to bring
        written = [bytes(tile) for (tile,) in store.execute("SELECT tile FROM monitor_tile")]
    assert (
        sum(int(Format(live.counted(profile.decode(made.encode(), one.config))).decode(t)[drift.ROWS]) for t in written)
        == 120
    )
    again = gateway(
        one.config.read_text().replace("state_dir: state", f"state_dir: {one.folder}/state").split("\n", 1)[1],
        files={"seen.profile": made},
    )
    assert rows(again) == 120
    assert len(list((one.folder / "state/monitors").glob("*/shard-*"))) == 1
    # Another profile under the same name.
    _, other = made_profile(tmp_path, seed=3)
    (again.folder / "seen.profile").write_text(other)
    until(lambda: report(again)["profile"] == json.loads(other.splitlines()[0])["sha256"], 30)
    assert rows(again) == 0
    over_http(again, chunk)
    assert rows(again) == 40
    assert len(list((one.folder / "state/monitors").iterdir())) == 1
    # A broken one changes nothing, and says why.
    (again.folder / "seen.profile").write_text(other.replace('"n":', '"m":', 1))
    said = until(lambda: [line for line in again.log_lines() if "seen.profile:2: not a line" in line["message"]], 30)
    assert "tidegate.yaml:" in said[0]["message"]
    assert rows(again) == 40


def test_what_lies_elsewhere_is_unseen_and_what_was_left_out_is_missing(gateway, tmp_path):
    _, made = made_profile(tmp_path)
    text, files = with_outputs(tmp_path)
    one = gateway(text, files={"seen.profile": made, **files})
    chunk = next(chunks(rows_of(2, 30), 30))
    over_http(one, {"INPUT_FP32": chunk["INPUT_FP32"]})
    found = report(one)
    assert found["rows"]["current"] == 30
    status = {column["name"]: (column["status"], column["missing_current"]) for column in found["columns"]}
    assert status["INPUT_FP32"] == ("ok", 0)
    assert status["INPUT_BYTES"] == ("absent", 30)
    # Elements that are no rows alike: the model takes them, the profile does not.
    over_http(one, {"INPUT_FP32": chunk["INPUT_FP32"], "INPUT_INT64": chunk["INPUT_INT64"][:7]})
    found = report(one)
    assert (found["rows"]["current"], found["calls"], found["unseen"]) == (30, 1, 1)
    predictions_are_watched(one, tmp_path)


def with_outputs(tmp_path):
    """A second route, whose answers are watched too."""
    rng = np.random.default_rng(6)
    both = {"INPUT_FP64": rng.normal(size=200).tolist(), "OUTPUT_FP64": rng.normal(size=200).tolist()}
    made = profile.encode(profile.build(tables.read(csv_of(tmp_path / "both.csv", both))))
    route = "answered: {variants: [{name: v, model: identity_all}], monitor: {profile: p, outputs: [OUTPUT_FP64]}}"
    return ROUTE.replace("routes: {", f"routes: {{{route}, "), {"p": made}


def predictions_are_watched(one, tmp_path):
    values = np.random.default_rng(7).normal(0.3, size=40)
    document = {"name": "INPUT_FP64", "datatype": "FP64", "shape": [10], "data": values[:10].tolist()}
    path = "/v2/models/answered/infer"
    assert one.post(path, {"inputs": [document]}).status == 200
    # An output that nobody asked for is missing.
    other = [{"name": "OUTPUT_FP32"}]
    assert one.post(path, {"inputs": [document], "outputs": other}).status in (200, 400)
    asked = {"name": "INPUT_FP64", "datatype": "FP64", "shape": [10]}
    with grpc.insecure_channel(one.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for at in (10, 20, 30):
            message = service_pb2.ModelInferRequest(model_name="answered", inputs=[asked])
            message.raw_input_contents.append(values[at : at + 10].tobytes())
            if at == 30:
                assert not next(iter(stub.ModelStreamInfer(iter([message])))).error_message
            else:
                stub.ModelInfer(message)
    found = report(one, "/gateway/v1/monitors/answered")
    now = csv_of(tmp_path / "both-now.csv", {name: values.tolist() for name in ("INPUT_FP64", "OUTPUT_FP64")})
    expected = compare(tables.read(tmp_path / "both.csv"), tables.read(now)).columns[1]
    asked_for, answered = found["columns"]
    assert (asked_for["source"], answered["source"]) == ("input", "output")
    assert answered["bins"] == expected.bins
    assert answered["statistics"]["psi"] == expected.statistics["psi"]
    assert answered["missing_current"] == found["rows"]["current"] - 40


SECURED = (
    ROUTE
    + f"""
identity:
  api_keys:
    - {{sha256: {sha256(b"alice").hexdigest()}, user: alice, tenant: acme}}
    - {{sha256: {sha256(b"bob").hexdigest()}, user: bob, tenant: acme}}
policy: {{file: policy.csv}}
"""
)
POLICY = "p, user:alice, *, route:*, read, allow\np, user:alice, *, model:*, infer, allow\n"


def test_who_may_see_it(gateway, tmp_path):
    _, made = made_profile(tmp_path)
    text = SECURED.replace("routes: {", "routes: {plain: {variants: [{name: v, model: identity_all}]}, ")
    one = gateway(text, files={"seen.profile": made, "policy.csv": POLICY})
    alice, bob = {"x-api-key": "alice"}, {"x-api-key": "bob"}
    assert one.get(PAGE).status == 401
    assert one.get(PAGE, bob).status == 403
    assert one.get(PAGE, alice).status == 200
    assert one.get("/gateway/v1/monitors", alice).json() == {"monitors": ["seen"]}
    assert one.get("/gateway/v1/monitors", bob).json() == {"monitors": []}
    for path, why in (("nope", "there is no route 'nope'"), ("plain", "route 'plain' has no monitor")):
        answer = one.get(f"/gateway/v1/monitors/{path}", alice)
        assert (answer.status, answer.error) == (404, why)


def test_a_wide_tensor_is_a_column_each(gateway, tmp_path):
    rng = np.random.default_rng(4)
    data = csv_of(tmp_path / "a.csv", {f"f{at}": rng.normal(size=100).tolist() for at in range(4)})
    numbered = csv_of(tmp_path / "b.csv", {f"INPUT0_{at}": rng.normal(size=100).tolist() for at in range(4)})
    made = {f"{path.stem}.profile": profile.encode(profile.build(tables.read(path))) for path in (data, numbered)}
    text = (
        UP
        + "routes:\n"
        + "".join(
            f"  {name}: {{variants: [{{name: v, model: batched}}], monitor: {{profile: {name}.profile}}}}\n"
            for name in "ab"
        )
    )
    one = gateway(text, files=made)
    values = rng.normal(size=(8, 4)).astype(np.float32)
    for name, path in (("a", data), ("b", numbered)):
        tensor = tritonclient.http.InferInput("INPUT0", [8, 4], "FP32")
        tensor.set_data_from_numpy(values)
        client = tritonclient.http.InferenceServerClient(one.http)
        client.infer(name, [tensor])
        client.close()
        found = report(one, f"/gateway/v1/monitors/{name}")
        now = dict(zip(tables.read(path).columns, values.T.tolist(), strict=True))
        expected = compare(tables.read(path), tables.read(csv_of(tmp_path / "now.csv", now)), min_rows=2)
        assert [column["bins"]["current"] for column in found["columns"]] == [
            c.bins["current"] for c in expected.columns
        ]


@pytest.mark.parametrize(
    ("profile_text", "says"),
    [
        (None, "seen.profile: cannot be read (No such file or directory): check the path and its rights"),
        ("", "seen.profile:1: empty; make a profile with `tidegate profile build"),
        ("a,b\n1,2\n", "seen.profile:1: not a line of a profile"),
        ("OTHER", "seen.profile was made for route `other`: name the profile of `seen`, or build it without --route"),
    ],
)
def test_a_profile_that_is_none_is_refused_with_file_and_remedy(tmp_path, profile_text, says):
    from gateway.settings.file import load

    if profile_text == "OTHER":
        data = csv_of(tmp_path / "t.csv", {"x": [1, 2]})
        profile_text = profile.encode(profile.build(tables.read(data), route="other")).decode()
    if profile_text is not None:
        (tmp_path / "seen.profile").write_text(profile_text)
    config = tmp_path / "tidegate.yaml"
    config.write_text(ROUTE.replace("$TRITON_HTTP", "127.0.0.1:1").replace("$TRITON_GRPC", "127.0.0.1:2"))
    settings, findings = load(config)
    assert settings is None
    (finding,) = findings
    assert (finding.line, finding.code, finding.severity) == (2, "profile", "error")
    assert "`routes.seen.monitor.profile`" in finding.message
    assert says in finding.message


def test_outputs_that_the_profile_does_not_have_are_refused(tmp_path):
    from gateway.settings.file import load

    text, files = with_outputs(tmp_path)
    (tmp_path / "p").write_bytes(files["p"])
    (tmp_path / "seen.profile").write_bytes(files["p"])
    config = tmp_path / "tidegate.yaml"
    text = text.replace("$TRITON_HTTP", "127.0.0.1:1").replace("$TRITON_GRPC", "127.0.0.1:2")
    config.write_text(text.replace("[OUTPUT_FP64]", "[OUTPUT_FP46, OUTPUT_FP64, OUTPUT_FP64]"))
    _, findings = load(config)
    assert [finding.code for finding in findings] == ["profile", "profile"]
    assert "the profile has no column `OUTPUT_FP46`: did you mean `OUTPUT_FP64`?" in findings[0].message
    assert "`routes.answered.monitor.outputs[2]`: `OUTPUT_FP64` is there already" in findings[1].message


def test_gateways_of_one_store_show_all_of_them_and_what_is_gone_with_a_machine(gateway, tmp_path, postgres_server):
    _, made = made_profile(tmp_path)
    text = f"store: {{url: '{postgres_server.database()}'}}\n" + ROUTE
    one, other = (gateway(text, files={"seen.profile": made}) for _ in range(2))
    chunk = next(chunks(rows_of(2, 40), 40))
    over_http(one, chunk)
    over_http(other, chunk)
    over_http(other, chunk)
    until(lambda: report(other, f"{PAGE}?window=1h")["of"] == "store", 120)
    assert one.stop() == 0  # and writes what it has, as it ends
    found = until(lambda: (w := report(other, f"{PAGE}?window=1h"))["rows"]["current"] == 120 and w, 60)
    assert (found["of"], found["calls"], rows(other)) == ("store", 3, 80)
