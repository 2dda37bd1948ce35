"""Where things are, and the few numbers every training shares."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MODEL_REPOSITORY = CHECKOUT / "model_repository"
DATA = CHECKOUT / "training" / "data"

SEED = 20251
"""One seed for all: the same data, the same order, the same start."""
OPSET = 17
"""ONNX operator set; onnxruntime 1.13 and newer, so every container of the last years, reads it."""
