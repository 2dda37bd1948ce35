"""Exported cards read by those who define the forms: CycloneDX's schema, the SPDX model, the Hugging Face Hub."""

import json
import subprocess
from pathlib import Path

import pytest
from venv_fixture import environment

from governance.cards import cyclonedx, hugging_face, spdx
from governance.cards.card import read

CARDS = [
    Path(__file__).parent / "complete_card.yaml",
    *sorted(Path(__file__).parents[2].glob("model_repository/*/card.yaml")),
]
READ = """
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from spdx_python_model.bindings import v3_0_1 as model

given = json.load(sys.stdin)
fault = JsonStrictValidator(SchemaVersion.V1_7).validate_str(given["cyclonedx"])
objects = model.SHACLObjectSet()
model.JSONLDDeserializer().deserialize_data(json.loads(given["spdx"]), objects)
(package,) = objects.foreach_type("ai_AIPackage")
card = ModelCard(given["hf"])
print(json.dumps({
    "cyclonedx": None if fault is None else str(fault),
    "spdx": [package.name, len(package.ai_metric), str(package.ai_safetyRiskAssessment).rsplit("/", 1)[-1]],
    "hf": [card.data.license, card.data.pipeline_tag, [[one.metric_type, one.metric_value] for one in card.data.eval_results or ()]],
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_others_read_what_is_written(path):
    card = read(path)
    given = {
        "cyclonedx": json.dumps(cyclonedx.write(card)),
        "spdx": json.dumps(spdx.write(card)),
        "hf": hugging_face.write(card),
    }
    done = subprocess.run(
        [environment("oracles") / "python", "-c", READ],
        check=False,
        input=json.dumps(given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    metrics = card.quantitative_analysis.performance_metrics
    assert found["cyclonedx"] is None
    assert found["spdx"] == [card.model_details.name, len(metrics), card.risk.rating]
    assert found["hf"][:2] == ["apache-2.0", card.model_parameters.task]
    assert sorted(map(tuple, found["hf"][2])) == sorted((one.type, one.value) for one in metrics)
