"""`digits`: which digit is in an 8 x 8 picture? A small neural network with labels.

The labels are what Triton's classification extension answers with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from training import data
from training.paths import OPSET, SEED

TOLERANCE = {"accuracy": 0.012}
"""Four pictures of 360."""
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def train(model: Path) -> dict[str, Any]:
    """Write labels.txt and 1/model.onnx under `model`; return the accuracy on hands it has not seen."""
    split = data.digits()
    pictures, answers = _moved(split.X_train, split.y_train)
    flat = pictures.reshape(-1, 64)
    # One common scale and not one a pixel: border pixels are blank in training and must not be blown up.
    scale = MinMaxScaler().fit(np.stack([np.zeros(64), np.full(64, 16.0)]).astype(np.float32))
    network = MLPClassifier((96,), alpha=1e-3, max_iter=300, random_state=SEED).fit(scale.transform(flat), answers)
    graph = to_onnx(make_pipeline(scale, network), flat[:1], target_opset=OPSET, options={"zipmap": False})
    path = model / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())
    (model / "labels.txt").write_text("\n".join(LABELS) + "\n")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"X": split.X_test.reshape(-1, 64)})
    accuracy = float((np.asarray(scores).argmax(1) == split.y_test).mean())
    return {"versions": {"1": {"method": "neural network, 96 hidden units", "accuracy": round(accuracy, 5)}}}


def _moved(pictures: data.Floats, answers: data.Integers) -> tuple[data.Floats, data.Integers]:
    """Each picture, and it moved by one pixel in four directions: other hands centre otherwise."""
    moves = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    return np.concatenate([np.roll(pictures, move, (1, 2)) for move in moves]), np.tile(answers, len(moves))
