"""`writer`: continues a text in the manner of Moby Dick. A neural language model over pieces of words.

The pieces are learned by byte-pair merging over words and stored as one list; text is cut into pieces by
longest match. The network (Bengio and others, 2003) embeds the last CONTEXT pieces, one hidden layer, one
score a piece; trained in numpy with Adam. Exported as `context` [n, CONTEXT] INT64 -> `scores` [n, pieces]
FP32.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from training import data
from training.paths import OPSET

TOLERANCE = {"bits_per_character": 0.03}
CONTEXT, EMBED, HIDDEN = 12, 48, 320
MERGES = 448
PASSES, BATCH, RATE = 6, 256, 2e-3
START = ""
"""Piece 0: the empty one, before the beginning of a text; never generated."""


def train(model: Path) -> dict[str, Any]:
    """Write 1/pieces.json and 1/model.onnx under `model`; return bits per character of the text held out."""
    learn, held_out = data.novel()
    pieces = learn_pieces(learn)
    weights = _fit(_windows(encode(learn, pieces)), len(pieces))
    folder = model / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pieces.json").write_text(json.dumps(pieces, ensure_ascii=False) + "\n")
    onnx.save(_graph(weights), folder / "model.onnx")
    context, following = _windows(encode(held_out, pieces))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    lost = 0.0
    for i in range(0, len(following), 4096):
        (scores,) = session.run(["scores"], {"context": context[i : i + 4096]})
        lost += float(_surprise(np.asarray(scores), following[i : i + 4096]).sum())
    bits = lost / np.log(2) / sum(len(pieces[i]) for i in following)
    return {
        "versions": {
            "1": {
                "method": f"neural language model, {len(pieces)} pieces, context of {CONTEXT}",
                "bits_per_character": round(float(bits), 5),
            }
        }
    }


def learn_pieces(text: str) -> list[str]:
    """START, every character, and MERGES pieces made by joining the most frequent neighbours within words."""
    words = Counter(re.findall(r" ?[^\W\d_]+|\s|.", text))
    cut = {word: list(word) for word in words}
    characters = sorted(set(text))
    merged: list[str] = []
    for _ in range(MERGES):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in cut.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # ties by name: the same list every time
        for word, parts in cut.items():
            if best[0] in parts:
                cut[word] = _join(parts, best)
        merged.append(best[0] + best[1])
    return [START, *characters, *merged]


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def encode(text: str, pieces: list[str]) -> data.Integers:
    """Text as indexes of pieces, longest match first; a character that is no piece is left out."""
    index = {piece: i for i, piece in enumerate(pieces)}
    pattern = "|".join(re.escape(piece) for piece in sorted(pieces[1:], key=len, reverse=True))
    return np.array([index[piece] for piece in re.findall(pattern, text)], np.int64)


def _windows(ids: data.Integers) -> tuple[data.Integers, data.Integers]:
    padded = np.concatenate([np.zeros(CONTEXT, np.int64), ids])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT)[:-1], ids


def _surprise(scores: np.ndarray, following: data.Integers) -> np.ndarray:
    top = scores.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(scores - top).sum(1)) + top[:, 0] - scores[np.arange(len(following)), following])


def _fit(windows: tuple[data.Integers, data.Integers], count: int) -> dict[str, data.Floats]:
    random = data.generator()
    shapes = {
        "embed": (count, EMBED),
        "w1": (CONTEXT * EMBED, HIDDEN),
        "b1": (HIDDEN,),
        "w2": (HIDDEN, count),
        "b2": (count,),
    }
    scale = {"embed": 0.1, "w1": (CONTEXT * EMBED) ** -0.5, "b1": 0.0, "w2": HIDDEN**-0.5, "b2": 0.0}
    weights = {k: (random.standard_normal(s) * scale[k]).astype(np.float32) for k, s in shapes.items()}
    first = {k: np.zeros_like(w) for k, w in weights.items()}
    second = {k: np.zeros_like(w) for k, w in weights.items()}
    context, following = windows
    steps = PASSES * (len(following) // BATCH)
    step = 0
    for turn in range(PASSES):
        order = random.permutation(len(following))
        lost = 0.0
        for i in range(len(following) // BATCH):
            chosen = order[i * BATCH : (i + 1) * BATCH]
            gradient, loss = _gradient(weights, context[chosen], following[chosen])
            lost += loss
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, g in gradient.items():
                first[k] += 0.1 * (g - first[k])
                second[k] += 0.001 * (g * g - second[k])
                unbiased = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
                weights[k] -= np.float32(rate) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        print(f"writer: pass {turn + 1} of {PASSES}, {lost / (i + 1):.3f} nats a piece", flush=True)
    return weights


def _gradient(
    weights: dict[str, data.Floats], context: data.Integers, following: data.Integers
) -> tuple[dict[str, data.Floats], float]:
    """Gradient of the mean cross entropy of a batch, and its value."""
    rows = np.arange(len(following))
    inputs = weights["embed"][context].reshape(len(rows), -1)
    hidden = np.maximum(inputs @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    scores -= scores.max(1, keepdims=True)
    share = np.exp(scores)
    share /= share.sum(1, keepdims=True)
    loss = float(-np.log(share[rows, following] + 1e-30).mean())
    share[rows, following] -= 1
    share /= len(rows)
    back = (share @ weights["w2"].T) * (hidden > 0)
    embed = np.zeros_like(weights["embed"])
    np.add.at(embed, context.reshape(-1), (back @ weights["w1"].T).reshape(-1, EMBED))
    gradient = {
        "embed": embed,
        "w1": inputs.T @ back,
        "b1": back.sum(0),
        "w2": hidden.T @ share,
        "b2": share.sum(0),
    }
    return gradient, loss


def _graph(weights: dict[str, data.Floats]) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "context"], ["embedded"]),
        node("Flatten", ["embedded"], ["inputs"]),
        node("Gemm", ["inputs", "w1", "b1"], ["sum"]),
        node("Relu", ["sum"], ["hidden"]),
        node("Gemm", ["hidden", "w2", "b2"], ["scores"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "writer",
        [info("context", TensorProto.INT64, ["n", CONTEXT])],
        [info("scores", TensorProto.FLOAT, ["n", len(weights["b2"])])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model
