"""The models of model_repository/ on a real Triton: metrics as committed, zeros answered, labels, state,
streams."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from triton_fixture import MODEL_REPOSITORY, RunningTriton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from training import data
from training.compare import compare

NAMES = sorted(path.parent.name for path in MODEL_REPOSITORY.glob("*/config.pbtxt"))
METRICS = {name: json.loads((MODEL_REPOSITORY / name / "metrics.json").read_text())["versions"] for name in NAMES}


@pytest.fixture(scope="module")
def client(triton: RunningTriton):
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        yield client


def tensor(name: str, value: np.ndarray, datatype: str) -> grpcclient.InferInput:
    each = grpcclient.InferInput(name, list(value.shape), datatype)
    each.set_data_from_numpy(value)
    return each


@pytest.mark.parametrize("version", sorted(METRICS["income"]))
def test_income_serves_its_metrics(client, version: str):
    """All 16,281 held-out rows through the server give the accuracy and log loss of metrics.json."""
    split = data.income()
    probability, label = [], []
    for i in range(0, len(split.y_test), 64):
        answer = client.infer("income", [tensor("features", split.X_test[i : i + 64], "FP32")], version)
        probability.append(answer.as_numpy("probability"))
        label.append(answer.as_numpy("label"))
    p, said = np.concatenate(probability)[:, 0], np.concatenate(label)[:, 0]
    assert said.dtype == np.int64
    assert np.array_equal(said, p >= 0.5)
    assert (said == split.y_test).mean() == pytest.approx(METRICS["income"][version]["accuracy"], abs=1e-3)
    p = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    log_loss = -np.where(split.y_test == 1, np.log(p), np.log1p(-p)).mean()
    assert log_loss == pytest.approx(METRICS["income"][version]["log_loss"], abs=1e-3)


def test_income_versions_differ_on_purpose(client):
    """Version 3 withholds columns: another sex or origin changes versions 1 and 2 and never version 3."""
    row = data.income().X_test[:1]
    columns = [c["name"] for c in json.loads(data.INCOME_COLUMNS.read_text())["columns"]]
    other = row.copy()
    for name in ("sex", "race", "native_country"):
        other[0, columns.index(name)] = 3 - row[0, columns.index(name)] if name == "sex" else 1
    for version, same in (("1", False), ("2", False), ("3", True)):
        answers = [
            client.infer("income", [tensor("features", x, "FP32")], version).as_numpy("probability")
            for x in (row, other)
        ]
        assert np.array_equal(answers[0], answers[1]) is same


def test_income_columns_are_the_data_s():
    assert json.loads(data.INCOME_COLUMNS.read_text()) == data.income_vocabulary()


def test_digits_serves_its_accuracy_and_labels(client):
    split = data.digits()
    scores = np.concatenate(
        [
            client.infer("digits", [tensor("image", split.X_test[i : i + 32], "FP32")]).as_numpy("scores")
            for i in range(0, len(split.y_test), 32)
        ]
    )
    assert (scores.argmax(1) == split.y_test).mean() == pytest.approx(METRICS["digits"]["1"]["accuracy"], abs=3e-3)
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    sure = int(scores.max(1).argmax())
    image = tensor("image", split.X_test[sure : sure + 1], "FP32")
    wanted = grpcclient.InferRequestedOutput("scores", class_count=2)
    top = client.infer("digits", [image], outputs=[wanted]).as_numpy("scores")
    value, index, label = top[0, 0].decode().split(":")
    names = (MODEL_REPOSITORY / "digits" / "labels.txt").read_text().split()
    assert int(index) == scores[sure].argmax()
    assert label == names[int(index)]
    assert float(value) == pytest.approx(scores[sure].max(), abs=1e-5)


def test_anomaly_replays_history_and_finds_el_nino(client):
    """One sequence of 61 years, with a second one between its steps, gives the shares of metrics.json."""
    years, months, values = data.sea_temperatures()
    scores = []
    for i, (month, value) in enumerate(zip(months, values, strict=True)):
        inputs = [
            tensor("value", np.array([[value]], np.float32), "FP32"),
            tensor("month", np.array([[month]], np.int32), "INT32"),
        ]
        flags = {"sequence_start": i == 0, "sequence_end": i == len(months) - 1}
        answer = client.infer("anomaly", inputs, sequence_id=101, **flags)
        scores.append(answer.as_numpy("score")[0, 0])
        assert answer.as_numpy("anomaly")[0, 0] == (scores[-1] >= 1)
        if i % 100 == 0:  # another station, always 40 degrees: its state is its own
            hot = [tensor("value", np.array([[40]], np.float32), "FP32")]
            client.infer("anomaly", hot, sequence_id=102, sequence_start=i == 0, sequence_end=i == 700)
    late = years > data.LEARN_UNTIL
    found, wanted = np.array(scores)[late] >= 1, data.el_nino(years, months)[late]
    metrics = METRICS["anomaly"]["1"]
    assert found[wanted].mean() == pytest.approx(metrics["share_found"], abs=1e-3)
    assert found[~wanted].mean() == pytest.approx(metrics["share_false"], abs=1e-3)


def test_anomaly_says_what_is_wrong(client):
    value = tensor("value", np.zeros((1, 1), np.float32), "FP32")
    with pytest.raises(InferenceServerException, match="must specify a non-zero or non-empty correlation ID"):
        client.infer("anomaly", [value])
    month = tensor("month", np.array([[13]], np.int32), "INT32")
    with pytest.raises(InferenceServerException, match="month is 13: give 1 to 12"):
        client.infer("anomaly", [value, month], sequence_id=103, sequence_start=True, sequence_end=True)
    two = tensor("value", np.zeros((2, 1), np.float32), "FP32")
    with pytest.raises(InferenceServerException, match="must specify batch-size 1"):
        client.infer("anomaly", [two], sequence_id=104, sequence_start=True, sequence_end=True)


def write(client, **options) -> list[str]:
    """The texts of the writer's responses to one request."""
    answers: queue.Queue = queue.Queue()
    types = {
        "text_input": "BYTES",
        "max_tokens": "INT32",
        "temperature": "FP32",
        "seed": "UINT64",
        "stream": "BOOL",
    }
    inputs = []
    for name, value in options.items():
        encoded = value.encode() if isinstance(value, str) else value
        inputs.append(tensor(name, np.array([encoded], triton_to_np_dtype(types[name])), types[name]))
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer("writer", inputs, enable_empty_final_response=True)
        texts = []
        while True:
            result, error = answers.get(timeout=30)
            if error is not None:
                raise error
            texts.append(result.as_numpy("text_output")[0].decode())
            if result.get_response().parameters["triton_final_response"].bool_param:
                return texts
    finally:
        client.stop_stream()


def test_writer_streams_pieces_that_make_up_the_whole_text(client):
    asked = {"text_input": "Call me", "max_tokens": 24, "seed": 5}
    (whole,) = write(client, **asked)
    pieces = write(client, stream=True, **asked)
    assert len(pieces) == 24
    assert "".join(pieces) == whole
    assert write(client, text_input="Call me", max_tokens=24, seed=6) != [whole]
    greedy = {"text_input": "Call me", "max_tokens": 8, "temperature": 0.0}
    assert write(client, **greedy) == write(client, **greedy)


def test_writer_s_edges(client):
    assert write(client, text_input="", max_tokens=0, stream=True) == [""]
    assert len(write(client, text_input="\u00e9\u4e16 " * 2000, max_tokens=3, stream=True)) == 3
    for option, value in (
        ("max_tokens", -1),
        ("max_tokens", 513),
        ("temperature", -0.5),
        ("temperature", 1e-30),
    ):
        with pytest.raises(InferenceServerException, match=f"{option} is"):
            write(client, text_input="x", **{option: value})


def test_writer_serves_generate_and_generate_stream(triton: RunningTriton):
    whole = post(triton, "generate", {"text_input": "The sea", "max_tokens": 6, "seed": 1})
    text = json.loads(whole)["text_output"]
    asked = {"text_input": "The sea", "max_tokens": 6, "seed": 1, "stream": True}
    events = [json.loads(part[6:]) for part in post(triton, "generate_stream", asked).split("\n\n") if part]
    assert "".join(event["text_output"] for event in events) == text
    assert len(events) == 6


def post(triton: RunningTriton, verb: str, body: dict) -> str:
    request = urllib.request.Request(
        f"http://{triton.http}/v2/models/writer/{verb}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{error.code}: {error.read().decode()}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optional", [True, False], ids=["all-inputs", "required-inputs"])
def test_every_model_answers_zeros_and_empty_strings(client, name: str, optional: bool):
    """Unknown dimensions as 1; sequences with an id and start, decoupled models through a stream."""
    metadata = client.get_model_metadata(name)
    config = client.get_model_config(name).config
    left_out = set() if optional else {each.name for each in config.input if each.optional}
    inputs = []
    for each in metadata.inputs:
        if each.name not in left_out:
            shape = [1 if size == -1 else size for size in each.shape]
            kind = triton_to_np_dtype(each.datatype)
            zeros = np.full(shape, b"", object) if each.datatype == "BYTES" else np.zeros(shape, kind)
            inputs.append(tensor(each.name, zeros, each.datatype))
    answers: queue.Queue = queue.Queue()
    sequence = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(name, inputs, **(sequence if config.HasField("sequence_batching") else {}))
    result, error = answers.get(timeout=30)
    client.stop_stream()
    assert error is None
    assert {each.name for each in result.get_response().outputs} == {each.name for each in metadata.outputs}


@pytest.mark.parametrize("name", NAMES)
def test_readme_states_the_committed_metrics(name: str):
    readme = (MODEL_REPOSITORY / name / "README.md").read_text()
    for metrics in METRICS[name].values():
        for metric, value in metrics.items():
            assert metric == "method" or f"{value:.3f}" in readme


def test_only_models_are_folders_of_the_repository():
    """Triton ends at start-up when a folder is no model."""
    folders = {path.name for path in MODEL_REPOSITORY.iterdir() if path.is_dir()}
    assert folders == set(NAMES)


def test_metrics_beyond_their_tolerance_are_named():
    committed = {"versions": {"1": {"accuracy": 0.9}, "2": {"accuracy": 0.8}}}
    found = {"versions": {"1": {"accuracy": 0.902}}}
    assert compare("income", committed, found, {"accuracy": 0.003}) == [
        "income version 2: accuracy is None, committed 0.8, tolerance 0.003"
    ]
