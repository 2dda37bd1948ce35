"""The cards of the example models say what training measured and which files they are about."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from governance.cards.card import read
from governance.cards.complete import missing

MODELS = Path(__file__).parents[2] / "model_repository"
NAMES = sorted(path.name for path in MODELS.iterdir() if (path / "config.pbtxt").exists())
SAME = {"share_found": "recall", "share_false": "false_positive_rate"}


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete_and_true(name):
    card = read(MODELS / name / "card.yaml")
    assert missing(card) == []
    assert card.model_details.name == name
    measured = json.loads((MODELS / name / "metrics.json").read_text())["versions"]
    for metric in card.quantitative_analysis.performance_metrics:
        version = metric.slice.removeprefix("version ") if metric.slice.startswith("version ") else "1"
        trained = {SAME.get(key, key): value for key, value in measured[version].items()}
        assert trained[metric.type] == metric.value
    for one in card.model_details.hashes:
        assert sha256((MODELS / name / "1" / "model.onnx").read_bytes()).hexdigest() == one.content
