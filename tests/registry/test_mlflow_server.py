"""A real MLflow server: its versions become drafts with evidence, are approved here, and MLflow is told so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from registry_site import Site
from triton_fixture import free_ports
from venv_fixture import environment, server

from governance.mlflow.rest import Tracking
from governance.registry.digests import tree

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
SEED = Path(__file__).parent / "mlflow_seed.py"
REQUIREMENTS = """\
schema_version: tidegate.requirements/1
classes:
  high: {approvals: [{role: role:validator}], card: any, valid_days: 365, metrics: [{type: roc_auc, min: 0.91}]}
"""


@pytest.fixture
def mlflow(tmp_path):
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    tools = environment("mlflow")
    command = [tools / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        f"{tmp_path}/files",
    ]
    with server(command, ready=f"{uri}/health", log=tmp_path / "mlflow.log", seconds=500, env=QUIET, cwd=tmp_path):
        seeded = subprocess.run([tools / "python", SEED, uri], capture_output=True, text=True, check=False)
        assert seeded.returncode == 0, seeded.stderr[-3000:]
        yield uri


@pytest.mark.slow
def test_versions_come_with_their_evidence_and_their_state_goes_back(mlflow, tmp_path, monkeypatch, capsys):
    """60 s."""
    site = Site(tmp_path / "site", monkeypatch, capsys)
    (site.folder / "requirements.yaml").write_text(REQUIREMENTS)
    tracking = Tracking(mlflow, {})
    imported = site.folder / "imported"

    def take(*words: str, by: str = "ann") -> tuple[int, list[tuple[str, str, str, bool]], str]:
        status, found, err = site.of_registry("import", *words, "--uri", mlflow, by=by)
        rows = [(one["model"], one["version"], one["state"], one["imported"]) for one in found.get("versions", [])]
        return status, rows, err

    (site.folder / "loans.csv.dvc").write_text("outs: [{md5: a304, path: loans.csv}]\n")
    assert take("--model", "income", by="bob")[:2] == (1, [("income", "1", None, False), ("income", "2", None, False)])
    first = take("--model", "income", "--alias", "champion", "--dvc", str(site.folder / "loans.csv.dvc"))
    assert first[:2] == (0, [("income", "2", "draft", True)])
    status, rows, _ = take()
    assert (status, sorted(rows)) == (
        0, [("income", "1", "draft", True), ("income", "2", "draft", True), ("modern's", "1", "draft", True)],
    )  # fmt: skip
    assert all(one[3] is False for one in take()[1])  # nothing has changed
    assert take("--model", "income", "--only")[0] == 2
    lineage = json.loads((imported / "income/1/lineage.json").read_bytes())
    assert [(one["name"], one["role"]) for one in lineage["datasets"]] == [("Loans", "training")]
    assert len(lineage["datasets"][0]["digest"]) == 8
    assert lineage["code"]["commit"] == "c0ffee"
    assert lineage["parameters"] == {"depth": "4"}
    evaluation = json.loads((imported / "modern's/1/evaluation.json").read_bytes())
    assert evaluation["performance_metrics"] == [{"type": "f1", "value": 0.5, "dataset": "Held out"}]
    evaluation = json.loads((imported / "income/1/evaluation.json").read_bytes())
    assert evaluation["performance_metrics"] == [{"type": "roc_auc", "value": 0.91, "dataset": ""}]
    assert (imported / "income/1/files/sub ü/w.bin").read_bytes() == bytes(range(256)) * 5000
    shown = site.run("show", version="2")[1]
    assert shown["digests"]["files"] == tree(imported / "income/2/files")
    assert sorted(shown["digests"]["evidence"]) == ["evaluation", "lineage", "mlflow"]

    site.run("submit", by="ann")
    site.run("approve", by="bob")
    assert site.run("promote", by="dee")[1]["state"] == "live"
    tracking.set_tag("income", "2", "team", "another")
    status, rows, _ = take("--model", "income")
    assert (status, rows) == (0, [("income", "1", "draft", False), ("income", "2", "live", False)])
    assert site.run("show", version="2")[1]["changed"] == []

    status, pushed, _ = site.of_registry("push", "--uri", mlflow, "--alias", "live")
    assert (status, pushed["aliases"]) == (0, [{"model": "income", "alias": "live", "version": "2"}])
    tags = {one["key"]: one["value"] for one in tracking.version("income", "2")["tags"]}
    assert (tags["tidegate.state"], tags["tidegate.serves"], tags["tidegate.approved_by"]) == (
        "live",
        "true",
        "user:bob",
    )
    assert (tags["tidegate.risk"], tags["team"]) == ("high", "another")
    assert tags["tidegate.binding"] == shown["digests"]["binding"] or len(tags["tidegate.binding"]) == 64
    assert "live" in tracking.version("income", "2")["aliases"]
    again = site.of_registry("push", "--uri", mlflow, "--alias", "live")[1]
    assert (again["aliases"], {tuple(one["changed"]) for one in again["versions"]}) == ([], {()})
    site.run("retire", "--reason", "over", by="dee")
    pushed = site.of_registry("push", "--uri", mlflow, "--alias", "live")[1]
    assert pushed["aliases"] == [{"model": "income", "alias": "live", "version": None}]
    tags = {one["key"]: one["value"] for one in tracking.version("income", "2")["tags"]}
    assert (tags["tidegate.state"], tags["tidegate.serves"]) == ("retired", "false")
    # Evidence that is no longer what was bound does not say which version to write to.
    (imported / "income/1/mlflow.json").write_text(json.dumps({"registry": mlflow, "model": "income", "version": "2"}))
    versions = site.of_registry("push", "--uri", mlflow)[1]["versions"]
    assert [(one["model"], one["version"]) for one in versions] == [("income", "2"), ("modern's", "1")]
    for words, says in (
        (("--model", "nobody"), "not found"),
        (("--model", "income", "--version", "9"), "not found"),
        (("--model", "income", "--alias", "nobody"), "has no alias"),
        (("--version", "1"), "add --model"),
        (("--model", "income", "--alias", "a", "--version", "1"), "both say which version"),
    ):
        status, found, err = site.of_registry("import", *words, "--uri", mlflow, by="ann")
        assert status == 2, words
        assert says in err + json.dumps(found), words
