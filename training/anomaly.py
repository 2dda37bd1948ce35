"""`anomaly`: how unusual is this month's sea temperature, given the months before it?

Learned from 1950 to 1980: the norm of each calendar month, its spread, and how much of last month's deviation
stays (an autoregression of order 1). A step takes the new value and the sequence's state and gives

    deviation = (value - norm[month]) / spread[month]
    surprise  = (deviation - rho * last deviation) / sigma      how unexpected the step was
    level     = 0.75 * last level + 0.25 * deviation            how far off the last months were together

with `score` = max(|surprise| / 3, |level| / threshold): an anomaly from 1 on. The state is [deviation, level,
seen before]. Exported as one ONNX graph, state in, state out, many sequences in one batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from training import data
from training.paths import OPSET

TOLERANCE = {"share_found": 0.02, "share_false": 0.02, "roc_auc": 0.005}
_SMOOTHING = 0.25
_SURPRISE_LIMIT = 3.0
_FALSE_ALARMS = 0.02  # of the months it learned from, level alone


def train(model: Path) -> dict[str, Any]:
    """Write 1/model.onnx under `model`; return what it finds of the El Niño events after 1980."""
    years, months, values = data.sea_temperatures()
    learn = years <= data.LEARN_UNTIL
    path = model / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(_fit(months[learn], values[learn])), path)
    score = replay(path, months, values)[~learn]
    wanted = data.el_nino(years, months)[~learn]
    found = score >= 1
    order = np.argsort(np.argsort(score))
    positives = int(wanted.sum())
    auc = (order[wanted].sum() - positives * (positives - 1) / 2) / (positives * (len(order) - positives))
    return {
        "versions": {
            "1": {
                "method": "seasonal norm and first-order autoregression",
                "share_found": round(float(found[wanted].mean()), 5),
                "share_false": round(float(found[~wanted].mean()), 5),
                "roc_auc": round(float(auc), 5),
            }
        }
    }


def replay(path: Path, months: data.Integers, values: data.Floats) -> data.Floats:
    """The score of every step of one sequence from its start."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    state = np.zeros((1, 3), np.float32)
    scores = []
    for month, value in zip(months, values, strict=True):
        feeds = {
            "value": np.array([[value]], np.float32),
            "month": np.array([[month]], np.int64),
            "state": state,
        }
        score, state = session.run(["score", "next_state"], feeds)
        scores.append(score[0, 0])
    return np.array(scores, np.float32)


def _fit(months: data.Integers, values: data.Floats) -> dict[str, data.Floats]:
    norm = np.array([values.mean(), *(values[months == m].mean() for m in range(1, 13))])
    spread = np.array([values.std(), *(values[months == m].std(ddof=1) for m in range(1, 13))])
    deviation = (values - norm[months]) / spread[months]
    rho = float((deviation[1:] * deviation[:-1]).sum() / (deviation[:-1] ** 2).sum())
    sigma = float((deviation[1:] - rho * deviation[:-1]).std())
    level = np.zeros(len(deviation))
    for i, step in enumerate(deviation):
        level[i] = _SMOOTHING * step + ((1 - _SMOOTHING) * level[i - 1] if i else 0.0)
    threshold = float(np.quantile(np.abs(level), 1 - _FALSE_ALARMS))
    floats = {"norm": norm, "spread": spread, "rho": rho, "sigma": sigma, "threshold": threshold}
    return {name: np.asarray(value, np.float32) for name, value in floats.items()}


def _graph(learned: dict[str, data.Floats]) -> onnx.ModelProto:
    constants = {
        **learned,
        "keep": np.float32(1 - _SMOOTHING),
        "smooth": np.float32(_SMOOTHING),
        "limit": np.float32(_SURPRISE_LIMIT),
        "sizes": np.array([1, 1, 1], np.int64),
        "one": np.float32(1),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["norm", "month"], ["month_norm"]),
        node("Gather", ["spread", "month"], ["month_spread"]),
        node("Sub", ["value", "month_norm"], ["off"]),
        node("Div", ["off", "month_spread"], ["deviation"]),
        node("Split", ["state", "sizes"], ["last_deviation", "last_level", "seen"], axis=1),
        node("Mul", ["last_deviation", "rho"], ["expected"]),
        node("Sub", ["deviation", "expected"], ["unexpected"]),
        node("Div", ["unexpected", "sigma"], ["z"]),
        node("Mul", ["z", "seen"], ["surprise"]),  # the first step has nothing to be compared with
        node("Abs", ["surprise"], ["surprise_size"]),
        node("Div", ["surprise_size", "limit"], ["surprise_score"]),
        node("Mul", ["last_level", "keep"], ["kept"]),
        node("Mul", ["deviation", "smooth"], ["added"]),
        node("Add", ["kept", "added"], ["level"]),
        node("Abs", ["level"], ["level_size"]),
        node("Div", ["level_size", "threshold"], ["level_score"]),
        node("Max", ["surprise_score", "level_score"], ["score"]),
        node("Mul", ["seen", "seen"], ["seen_squared"]),
        node("Sub", ["one", "seen_squared"], ["rest"]),
        node("Add", ["seen_squared", "rest"], ["seen_now"]),  # ones in the batch's shape
        node("Concat", ["deviation", "level", "seen_now"], ["next_state"], axis=1),
    ]
    info, floats, integers = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "anomaly",
        [info("value", floats, ["n", 1]), info("month", integers, ["n", 1]), info("state", floats, ["n", 3])],
        [info("score", floats, ["n", 1]), info("next_state", floats, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model
