"""Constraints of a running gateway: counted by every door, or refused before the model is asked."""

import numpy as np
import pytest
from driving import until
from test_monitors import UP, csv_of, over_grpc, over_http, over_json, over_stream, report
from tritonclient.utils import InferenceServerException

from governance import tables
from governance.monitor import profile

ROUTE = UP + (
    "workers: 2\nroutes: {seen: {variants: [{name: v, model: identity_all}], monitor: {profile: seen.profile, quality: "
    "{on_violation: %s, columns: {INPUT_FP64: {min: -1, max: 1, missing: 0}, INPUT_FP32: {unique: 0.5}, "
    "INPUT_INT64: {values: [1, 2, 3]}, INPUT_BYTES: {values: [a, b]}}}}}}\n"
)
GOOD = {"INPUT_FP64": [0.5, -1.0], "INPUT_FP32": [1.0, 2.0], "INPUT_INT64": [1, 3], "INPUT_BYTES": ["a", "b"]}
DOORS = [over_http, over_json, over_grpc, over_stream]


def made(tmp_path):
    rng = np.random.default_rng(1)
    columns = {
        "INPUT_FP64": rng.normal(size=200).round(3).tolist(),
        "INPUT_FP32": rng.integers(0, 40, 200).tolist(),
        "INPUT_INT64": rng.integers(0, 9, 200).tolist(),
        "INPUT_BYTES": rng.choice([*"abc"], 200).tolist(),
    }
    data = csv_of(tmp_path / "train.csv", columns)
    return profile.encode(profile.build(tables.read(data))).decode()


def found(one):
    return {(each["column"], each["constraint"]): each for each in report(one)["quality"]["constraints"]}


def test_what_is_served_is_counted_by_every_door_and_over_workers(gateway, tmp_path):
    one = gateway(ROUTE % "count", files={"seen.profile": made(tmp_path)})
    bad = {"INPUT_FP64": [2.0, 0.0], "INPUT_FP32": [1.0, 1.0], "INPUT_INT64": [1, 4], "INPUT_BYTES": ["a", "c"]}
    for door in DOORS:
        door(one, GOOD)
        door(one, bad)
    until(lambda: report(one)["quality"]["rows"] == 16, 30)
    assert {key: each["broken"] for key, each in found(one).items()} == {
        ("INPUT_FP64", "missing"): 0,
        ("INPUT_FP64", "range"): 4,
        ("INPUT_FP32", "unique"): None,
        ("INPUT_INT64", "set"): 4,
        ("INPUT_BYTES", "set"): 4,
    }
    assert report(one)["quality"]["on_violation"] == "count"
    labels = {"route": "seen", "column": "INPUT_FP64", "constraint": "range"}
    until(lambda: one.metric("tidegate_quality_broken_rows", **labels) == 4, 30)
    assert one.metric("tidegate_quality_violated", **labels) == 1


def test_a_call_that_breaks_a_constraint_is_refused_before_the_model_is_asked(gateway, tmp_path):
    one = gateway(ROUTE % "refuse", files={"seen.profile": made(tmp_path)})
    for door in DOORS:
        door(one, GOOD)
    bad = {**GOOD, "INPUT_FP64": [0.5, 1.5]}
    says = "row 2: 'INPUT_FP64' is outside of -1 to 1 (constraint `range`)"
    for door in (over_http, over_grpc):
        with pytest.raises(InferenceServerException, match=r"row 2: 'INPUT_FP64' is outside of -1 to 1"):
            door(one, bad)
    document = [
        {"name": name, "datatype": name.removeprefix("INPUT_"), "shape": [2], "data": values}
        for name, values in bad.items()
    ]
    answer = one.post("/v2/models/seen/infer", {"inputs": document})
    assert (answer.status, answer.json()) == (400, {"error": says})
    with pytest.raises(AssertionError, match="row 2: 'INPUT_FP64'"):
        over_stream(one, bad)
    left_out = [each for each in document if each["name"] != "INPUT_FP64"]
    answer = one.post("/v2/models/seen/infer", {"inputs": left_out})
    assert (answer.status, answer.json()["error"]) == (
        400,
        "row 1: 'INPUT_FP64' is missing, and constraint `missing` has it in every row",
    )
    until(lambda: report(one)["quality"]["rows"] == 8, 30)
    at = found(one)
    assert (at["INPUT_FP64", "range"]["broken"], at["INPUT_FP64", "range"]["refused"]) == (0, 4)
    assert at["INPUT_FP64", "missing"]["refused"] == 1
    assert report(one)["rows"]["current"] == 8
    # Another choice of constraints needs no restart, and what was counted of drift goes on.
    text = one.config.read_text()
    one.config.write_text(text.replace("on_violation: refuse", "on_violation: count").replace("max: 1,", "max: 2,"))
    # Each of the workers, and who is asked is chance.
    until(lambda: all(report(one)["quality"]["on_violation"] == "count" for _ in range(12)), 60)
    over_http(one, bad)
    until(lambda: report(one)["rows"]["current"] == 10, 30)
    assert found(one)["INPUT_FP64", "range"]["broken"] == 0
