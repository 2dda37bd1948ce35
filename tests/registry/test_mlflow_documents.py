"""What MLflow and DVC say, as evidence: answers of real servers cut to size, and answers that are none."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.cards.card import parse
from governance.errors import RegistryInputError
from governance.mlflow.documents import Found, as_it_stands, card, encode, evaluation, lineage, model_id
from governance.mlflow.dvc import datasets
from governance.mlflow.importing import folder_of
from governance.mlflow.rest import Tracking

HERE = Path()
RUN = {
    "info": {"run_id": "c58f", "experiment_id": "0", "status": "FINISHED"},
    "data": {
        "metrics": [
            {"key": "roc_auc", "value": 0.91, "step": 2},
            {"key": "f1", "value": 0.5},
            {"key": "loss", "value": "NaN"},
        ],
        "params": [{"key": "eta", "value": "0.1"}, {"key": "depth: x", "value": "5 # ${HOME}"}],
        "tags": [
            {"key": "mlflow.source.git.commit", "value": "c0ffee"},
            {"key": "mlflow.log-model.history", "value": "[]"},
        ],
    },
    "inputs": {
        "dataset_inputs": [
            {
                "tags": [{"key": "mlflow.data.context", "value": "training"}],
                "dataset": {
                    "name": "Loans",
                    "digest": "9ae00944",
                    "source_type": "s3",
                    "source": '{"uri": "s3://a/b"}',
                },
            }
        ]
    },
}
VERSION = {
    "name": "income", "version": "2", "run_id": "c58f", "source": "mlflow-artifacts:/0/c58f/artifacts/model",
    "tags": [{"key": "team", "value": "credit"}, {"key": "tidegate.state", "value": "live"}, {"key": "tidegate.risk", "value": "high"}],
}  # fmt: skip
LOGGED = {"data": {"metrics": [{"key": "f1", "value": 0.6, "dataset_name": "Held out"}]}, "info": {}}
FOUND = Found("https://mlflow.example", VERSION, ("champion",), RUN)


def test_metrics_are_those_that_the_gate_reads():
    found = evaluation(FOUND)
    assert found["performance_metrics"] == [
        {"type": "roc_auc", "value": 0.91, "dataset": ""},
        {"type": "f1", "value": 0.5, "dataset": ""},
    ]
    assert found["not_finite"] == ["loss"]


def test_a_logged_model_says_it_better_than_its_run():
    version = {**VERSION, "source": "models:/m-3d02"}
    assert model_id(version) == "m-3d02"
    found = evaluation(msgspec.structs.replace(FOUND, version=version, logged_model=LOGGED))
    assert found["performance_metrics"] == [
        {"type": "f1", "value": 0.6, "dataset": "Held out"},
        {"type": "roc_auc", "value": 0.91, "dataset": ""},
    ]


def test_metrics_of_another_model_of_the_run_are_not_its_own():
    run = {**RUN, "data": {"metrics": [{"key": "auc", "value": 1.0, "model_id": "m-other"}]}}
    assert evaluation(msgspec.structs.replace(FOUND, run=run))["performance_metrics"] == []


def test_lineage_names_data_code_and_parameters():
    dvc = [{"name": "loans.csv", "digest": "a304", "algorithm": "md5", "role": "output", "from": "loans.csv.dvc"}]
    found = lineage(FOUND, dvc)
    assert [(one["name"], one["digest"], one["role"]) for one in found["datasets"]] == [
        ("Loans", "9ae00944", "training"),
        ("loans.csv", "a304", "output"),
    ]
    assert found["code"]["commit"] == "c0ffee"
    assert found["parameters"] == {"depth: x": "5 # ${HOME}", "eta": "0.1"}


def test_what_the_registry_wrote_is_no_evidence():
    found = as_it_stands(FOUND)
    assert found["tags"] == {"team": "credit"}
    assert found["aliases"] == ["champion"]
    assert "mlflow.log-model.history" not in found["run_tags"]


def test_the_beginning_of_a_card_is_a_card():
    made = parse(card(FOUND, "income"), "card.yaml", HERE)
    assert made.risk.rating == "high"
    assert made.model_parameters.hyperparameters["depth: x"] == "5 # ${HOME}"
    assert made.model_parameters.datasets[0].name == "Loans"
    assert made.quantitative_analysis.performance_metrics[0].value == 0.91
    odd = {"name": "x", "version": "1", "description": "a\x7f\x85b\u2028c\ufeff\t: #", "tags": []}
    run = {"data": {"params": [{"key": "true", "value": "\x9f"}, {"key": "null", "value": ""}]}}
    made = parse(card(Found("https://m", odd, (), run), "x"), "card.yaml", HERE)
    assert made.model_details.overview == odd["description"]
    assert made.model_parameters.hyperparameters == {"true": "\x9f", "null": ""}
    nothing = Found("https://m", {"name": "x", "version": "1", "tags": [{"key": "tidegate.risk", "value": "?"}]})
    made = parse(card(nothing, "x"), "card.yaml", HERE)
    assert made.risk.rating is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["key", "value", "data", "metrics", "params", "tags", "inputs", "dataset_inputs", "dataset", "info", "name"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
_objects = st.dictionaries(
    st.sampled_from(["data", "info", "inputs", "tags", "name", "version", "source"]), _json, max_size=5
)


@given(_objects, st.none() | _objects, st.none() | _objects)
def test_answers_of_any_form_give_documents(version, run, logged):
    found = Found("https://m", version, (), run, logged)
    for document in (evaluation(found), lineage(found, ()), as_it_stands(found)):
        json.loads(encode(document))
    parse(card(found, "m"), "card.yaml", HERE)


def test_files_of_dvc(tmp_path):
    one = tmp_path / "loans.csv.dvc"
    one.write_text("outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 14445097\n  hash: md5\n  path: loans.csv\n")
    assert datasets(one) == [
        {
            "name": "loans.csv", "digest": "a304afb96060aad90176268345e10355", "algorithm": "md5", "role": "output",
            "size": 14445097, "from": "loans.csv.dvc",
        }
    ]  # fmt: skip
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\nstages:\n  train:\n    cmd: python train.py\n    deps:\n    - path: data\n      md5: 61b3.dir\n"
        "      nfiles: 2\n    - path: train.py\n    outs:\n    - path: model\n      hash: md5\n      md5: b1d2\n"
    )
    assert [(each["name"], each["digest"], each["role"], each["stage"]) for each in datasets(lock)] == [
        ("data", "61b3.dir", "input", "train"),
        ("model", "b1d2", "output", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no file of DVC"),
        (b"[1, 2]", "no file of DVC"),
        (b"a: [", "no file of DVC"),
        (b"\xff\xfe\x00", "no file of DVC"),
        (b"outs: 3\n", "no list"),
        (b"outs: [{md5: 3, path: x}]\n", "path or digest in text"),
        (b"outs: [{md5: a}]\n", "path or digest in text"),
        (b"outs: [x]\n", "says nothing of data"),
        (b"schema: '2.0'\nstages: [1]\n", "says nothing of data"),
        (b"stages: {train: {cmd: x}}\n", "says nothing of data"),
        (b"!!python/object/apply:os.system [id]\n", "no file of DVC"),
    ],
)
def test_files_that_are_none_of_dvc(tmp_path, text, says):
    path = tmp_path / "x.dvc"
    path.write_bytes(text)
    with pytest.raises(RegistryInputError, match=says):
        datasets(path)


@pytest.mark.parametrize(
    ("uri", "env", "says"),
    [
        ("mlflow.example", {}, "write http"),
        ("ftp://mlflow.example", {}, "write http"),
        ("sqlite:///x.db", {}, "write http"),
        ("https://u:s3cret@mlflow.example", {}, "credentials come from"),
        ("https://mlflow.example/?x=1", {}, "write http"),
        ("https://mlflow.example:x", {}, "is no URL"),
        ("http://mlflow.example", {"MLFLOW_TRACKING_TOKEN": "s3cret"}, "do not travel over plain http"),
        ("https://mlflow.example", {"MLFLOW_TRACKING_TOKEN": "s3cret\r\nx: y"}, "what no header can"),
    ],
)
def test_uris_that_are_refused(uri, env, says):
    with pytest.raises(RegistryInputError, match=says) as error:
        Tracking(uri, env)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\0", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(RegistryInputError, match="no name that a folder can have"):
        folder_of(tmp_path, name, "1")
    with pytest.raises(RegistryInputError, match="no name that a folder can have"):
        folder_of(tmp_path, "m", name)
