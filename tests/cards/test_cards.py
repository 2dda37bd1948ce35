"""Model cards: completeness and every form, from the command line."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.cards import annex_iv, cyclonedx, hugging_face, page, spdx
from governance.cards.card import (
    Card,
    Considerations,
    Dataset,
    EthicalConsideration,
    Format,
    Interval,
    License,
    Metric,
    ModelDetails,
    ModelParameters,
    Owner,
    QuantitativeAnalysis,
    read,
)
from governance.cards.complete import REQUIRED, missing

WHOLE = Path(__file__).parent / "complete_card.yaml"


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "card", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def card_of(tmp_path, text):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    return read(path)


def test_a_complete_card():
    status, out, _ = command("check", WHOLE, "--format", "json")
    assert (status, json.loads(out)) == (0, {"complete": True, "missing": []})
    card = read(WHOLE)
    assert (card.model_details.version, card.model_details.released) == ("1.10", "2026-03-01")
    assert card.model_parameters.hyperparameters == {"rounds": "160", "value": "0.1"}


def test_an_empty_card_misses_everything(tmp_path):
    (tmp_path / "card.yaml").write_text("schema_version: tidegate.card/1\n")
    status, out, _ = command("check", tmp_path / "card.yaml", "--format", "json")
    assert status == 1
    assert json.loads(out) == {
        "complete": False,
        "missing": [
            "model_details.name",
            "model_details.version",
            "model_details.overview",
            "model_details.owners",
            "model_details.licenses",
            "model_parameters.approach",
            "model_parameters.task",
            "model_parameters.model_architecture",
            "model_parameters.datasets",
            "model_parameters.inputs",
            "model_parameters.outputs",
            "quantitative_analysis.performance_metrics",
            "considerations.users",
            "considerations.use_cases",
            "considerations.limitations",
            "considerations.ethical_considerations",
            "risk.rating",
        ],
    }
    for form in ("hf", "cyclonedx", "spdx", "html", "annex-iv"):
        assert command("export", tmp_path / "card.yaml", "--to", form)[0] == 0


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (
            "model_details:\n  owners: [{contact: x}, {name: ' '}, {name: a}]\n",
            ["model_details.owners[0].name", "model_details.owners[1].name"],
        ),
        ("model_details:\n  name:\n  version: ''\n", ["model_details.name", "model_details.version"]),
        ("model_parameters:\n", ["model_parameters.task"]),
        (
            "quantitative_analysis: {performance_metrics: [{type: accuracy}]}\n",
            ["quantitative_analysis.performance_metrics[0].value"],
        ),
        (
            "considerations: {users: [a, '  '], limitations: []}\n",
            ["considerations.users[1]", "considerations.limitations"],
        ),
        ("risk: {rating: null}\n", ["risk.rating"]),
        (
            "model_details: {owners: [null, {contact: x}], licenses: [~]}\nconsiderations: {users: [null, x]}\n",
            [
                "model_details.owners[0].name",
                "model_details.owners[1].name",
                "model_details.licenses[0].identifier",
                "considerations.users[0]",
            ],
        ),
    ],
)
def test_blank_is_missing(tmp_path, text, paths):
    found = missing(card_of(tmp_path, "schema_version: tidegate.card/1\n" + text))
    assert set(paths) <= set(found)


def test_zero_is_a_value(tmp_path):
    text = "quantitative_analysis: {performance_metrics: [{type: fpr, value: 0}]}\n"
    assert not [path for path in missing(card_of(tmp_path, text)) if path.startswith("quantitative")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model_detals: {}\n", "did you mean `model_details`?"),
        ("model_details: {nam: x}\n", "did you mean `name`?"),
        ("schema_version: tidegate.card/2\n", "`schema_version` cannot be that"),
        ("risk: {rating: huge}\n", "`risk.rating` cannot be that"),
        ("model_parameters: {approach: supervized}\n", "supervised"),
        ("quantitative_analysis: {performance_metrics: [{value: high}]}\n", "must be a number"),
        (
            "quantitative_analysis: {performance_metrics: [{dataset: nope}]}\n",
            "`nope` is none of `model_parameters.datasets`",
        ),
        ("model_details: {released: yesterday}\n", "card.yaml:1:27: error: `model_details.released`"),
        ("model_details: {released: 2026-02-30}\n", "is no date"),
        ("model_details: {licenses: [{identifier: Apache 2}]}\n", "did you mean `Apache-2.0`?"),
        ("model_details: {licenses: [{identifier: LicenseRef-}]}\n", "is no SPDX identifier"),
        ("model_parameters: {task: tabular-clasification}\n", "did you mean `tabular-classification`?"),
        ("model_parameters: {task: credit scoring}\n", "is no task of the Hugging Face Hub"),
        ("model_details: [\n", "card.yaml:"),
        ("- a\n", "must be a mapping"),
        ("a: 1\na: 2\n", "card.yaml:2"),
    ],
)
def test_what_is_no_card_is_one_line_with_its_place(tmp_path, text, says):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    for arguments in (("check", path), ("export", path, "--to", "hf")):
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert says in err
        assert err.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path):
    status, _, err = command("check", tmp_path / "card.yaml")
    assert status == 2
    assert "cannot be read" in err
    status, _, err = command("export", WHOLE, "--to", "hf", "--format", "json")
    assert status == 2
    assert "no hf as json" in err


# -- forms ---------------------------------------------------------------------------------------------------


def test_the_readme_for_the_hub():
    text = hugging_face.write(read(WHOLE))
    head, body = text.removeprefix("---\n").split("---\n", 1)
    metadata = yaml.safe_load(head)
    assert metadata == {
        "language": ["en"],
        "license": "apache-2.0",
        "library_name": "sklearn",
        "tags": ["finance", "tabular"],
        "datasets": ["bank/loans", "bank/newer"],
        "metrics": ["accuracy", "roc_auc"],
        "pipeline_tag": "tabular-classification",
        "model-index": [
            {
                "name": "credit",
                "results": [
                    {
                        "task": {"type": "tabular-classification"},
                        "dataset": {"name": "Loans", "type": "bank/loans"},
                        "metrics": [{"type": "accuracy", "value": 0.87}, {"type": "roc_auc", "value": 1.0}],
                    },
                    {
                        "task": {"type": "tabular-classification"},
                        "dataset": {"name": "Newer", "type": "bank/newer"},
                        "metrics": [{"type": "accuracy", "value": 0.8, "name": "accuracy (sex=F)"}],
                    },
                ],
            }
        ],
    }
    assert "no \\<script\\>" in body
    assert "| accuracy | 0.87 | 0.85 to 0.89 |" in body


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        ("[{identifier: MIT}]", {"license": "mit"}),
        ("[{identifier: LicenseRef-Bank}]", {"license": "other", "license_name": "bank"}),
        ("[{identifier: MIT}, {identifier: Apache-2.0}]", {"license": "other", "license_name": "mit and apache-2.0"}),
    ],
)
def test_licences_of_the_hub(tmp_path, licenses, expected):
    head = hugging_face.write(card_of(tmp_path, f"model_details: {{licenses: {licenses}}}\n")).split("---\n")[1]
    assert yaml.safe_load(head) == expected


def test_the_ml_bom():
    found = cyclonedx.write(read(WHOLE))
    (component,) = found["components"]
    assert (found["specVersion"], component["type"]) == ("1.7", "machine-learning-model")
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0] == {
        "type": "accuracy",
        "value": "0.87",
        "confidenceInterval": {"lowerBound": "0.85", "upperBound": "0.89"},
    }
    assert metrics[2]["value"] == "1"
    assert component["modelCard"]["considerations"]["technicalLimitations"] == list(
        read(WHOLE).considerations.limitations
    )
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]


def test_the_spdx_document():
    found = spdx.write(read(WHOLE))
    by_type = {one["type"]: one for one in found["@graph"]}
    model = by_type["ai_AIPackage"]
    assert (model["ai_safetyRiskAssessment"], model["ai_useSensitivePersonalInformation"]) == ("high", "yes")
    assert model["releaseTime"] == "2026-03-01T00:00:00Z"
    assert {"type": "DictionaryEntry", "key": "accuracy (sex=F)", "value": "0.8"} in model["ai_metric"]
    ids = [one["spdxId"] for one in found["@graph"] if "spdxId" in one]
    assert len(ids) == len(set(ids))
    assert spdx.write(read(WHOLE)) == found


def test_annex_iv_names_what_is_missing(tmp_path):
    points = annex_iv.points(read(WHOLE))
    assert [point["point"] for point in points] == list(range(1, 10))
    assert not [path for point in points for path in point["missing"]]
    path = tmp_path / "card.yaml"
    path.write_text("considerations: {users: [a]}\nmodel_details: {owners: [{name: a}]}\n")
    status, out, _ = command("export", path, "--to", "annex-iv", "--format", "json")
    assert status == 0
    assert [point["missing"] for point in json.loads(out)["points"]] == [
        ["model_details.overview", "considerations.use_cases"],
        [
            "model_parameters.approach",
            "model_parameters.model_architecture",
            "model_parameters.datasets",
            "compliance.human_oversight",
        ],
        ["considerations.limitations", "compliance.functioning_and_control"],
        ["quantitative_analysis.performance_metrics", "compliance.metrics_appropriateness"],
        ["compliance.risk_management"],
        ["compliance.changes"],
        ["compliance.standards"],
        ["compliance.declaration_of_conformity"],
        ["compliance.post_market_monitoring"],
    ]
    status, out, _ = command("export", path, "--to", "annex-iv")
    assert [int(number) for number in re.findall(r"^## (\d)\. ", out, re.MULTILINE)] == list(range(1, 10))
    assert "missing: `compliance.standards`" in out


class Page(HTMLParser):
    def __init__(self, text) -> None:
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_escapes():
    text = page.write(read(WHOLE))
    found = Page(text)
    assert found.open == []
    tags = [tag for tag, _ in found.tags]
    assert "script" not in tags
    assert not re.search(r"\b(src|href)=", text)
    assert dict(found.tags)["html"]["lang"] == "en"
    svg = next(attributes for tag, attributes in found.tags if tag == "svg")
    assert svg["role"] == "img"
    assert "accuracy" in svg["aria-label"]
    assert tags.count("rect") == 3
    assert "caption" in tags
    assert any("<script>alert(1)</script>" in word for word in found.words)


texts = st.text(max_size=12)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
many = st.lists(texts, max_size=2).map(tuple)


def listed(kind, **fields):
    return st.lists(st.builds(kind, **fields), max_size=2).map(tuple)


cards = st.builds(
    Card,
    model_details=st.builds(
        ModelDetails,
        name=texts,
        overview=texts,
        owners=listed(Owner, name=texts, contact=texts),
        licenses=listed(License, identifier=texts | st.just("MIT")),
        released=texts,
        language=many,
        tags=many,
    ),
    model_parameters=st.builds(
        ModelParameters,
        approach=st.sampled_from([None, "supervised"]),
        task=texts,
        hyperparameters=st.dictionaries(texts, texts, max_size=2),
        datasets=listed(Dataset, name=texts, type=texts, sensitive_data=many),
        inputs=listed(Format, name=texts, format=texts),
    ),
    quantitative_analysis=st.builds(
        QuantitativeAnalysis,
        performance_metrics=listed(
            Metric,
            type=texts,
            value=numbers,
            slice=texts,
            confidence_interval=st.none() | st.builds(Interval, lower_bound=numbers, upper_bound=numbers),
        ),
    ),
    considerations=st.builds(
        Considerations,
        users=many,
        limitations=many,
        ethical_considerations=listed(EthicalConsideration, name=texts, mitigation_strategy=texts),
    ),
)


@given(cards)
@settings(max_examples=300, deadline=None)
def test_every_form_takes_every_card(card):
    head = hugging_face.write(card).split("---\n", 2)[1]
    assert isinstance(yaml.safe_load(head), dict)
    assert json.loads(json.dumps(cyclonedx.write(card)))["components"]
    assert json.loads(json.dumps(spdx.write(card)))["@graph"]
    assert Page(page.write(card)).open == []
    assert annex_iv.write(card)
    assert all(
        path.split("[")[0] in {required.split("[")[0].removesuffix("[]") for required in REQUIRED}
        for path in missing(card)
    )
