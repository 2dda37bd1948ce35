"""A folder with settings, a policy, a model with card and evidence; and the commands run in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from gateway import cli

CARD = Path(__file__).parent.parent / "cards" / "complete_card.yaml"
PEOPLE = ("ann", "bob", "cem", "dee", "eve")
KEYS = {name: f"tg_{name}" for name in PEOPLE}
POLICY = """\
p, role:developer, *, registry:*, edit, allow
p, role:validator, *, registry:*, approve, allow
p, role:officer, *, registry:*, approve, allow
p, role:operator, *, registry:*, promote, allow
p, user:eve, public, model:*, infer, allow
g, user:ann, role:developer, *
g, user:bob, role:validator, *
g, user:cem, role:officer, *
g, user:dee, role:operator, *
"""
REQUIREMENTS = """\
schema_version: tidegate.requirements/1
classes:
  high:
    approvals: [{role: role:validator}, {role: role:officer}]
    valid_days: 365
    review_days: 180
    metrics: [{type: accuracy, dataset: Loans, min: 0.85}]
    fairness: [{measure: ratio, metric: demographic_parity, min: 0.8}]
    scan: {fails_on: warning}
"""
FAIRNESS = {"ratios": {"demographic_parity": 0.91}, "differences": {"equal_opportunity": 0.02}}
SARIF = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "scanner"}}, "results": []}]}


class Site:
    """The folder. `run` is `tidegate registry ...` by one of the people; it gives status and JSON."""

    def __init__(self, folder: Path, monkeypatch, capsys, store_url: str = "", extra: str = "") -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.config = folder / "tidegate.yaml"
        (folder / "income" / "2").mkdir(parents=True)
        (folder / "income" / "2" / "model.py").write_text("weights = 1\n")
        shutil.copy(CARD, folder / "card.yaml")
        (folder / "policy.csv").write_text(POLICY)
        (folder / "requirements.yaml").write_text(REQUIREMENTS)
        (folder / "fairness.json").write_text(json.dumps(FAIRNESS))
        (folder / "scan.sarif").write_text(json.dumps(SARIF))
        keys = "".join(
            f"    - {{sha256: {hashlib.sha256(key.encode()).hexdigest()}, user: {name}, tenant: public}}\n"
            for name, key in KEYS.items()
        )
        store = f"store: {{url: '{store_url}'}}\n" if store_url else ""
        self.config.write_text(
            f"upstreams: {{triton: {{http: 127.0.0.1:9}}}}\nidentity:\n  api_keys:\n{keys}"
            f"policy: {{file: policy.csv}}\nregistry: {{requirements: requirements.yaml}}\n{store}{extra}"
        )

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, step: str, *words: str, by: str | None = None, version: str = "2") -> tuple[int, dict, str]:
        self._monkeypatch.setenv("TIDEGATE_API_KEY", KEYS[by] if by else "")
        named = [] if step == "list" else ["income", version]
        self._capsys.readouterr()
        status = cli.main(["registry", step, "--config", str(self.config), "--format", "json", *named, *words])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return status, json.loads(out) if out else {}, err

    def of_registry(self, verb: str, *words: str, by: str | None = None) -> tuple[int, dict, str]:
        """`tidegate registry import|push mlflow`."""
        self._monkeypatch.setenv("TIDEGATE_API_KEY", KEYS[by] if by else "")
        self._capsys.readouterr()
        try:
            status = cli.main(["registry", verb, "mlflow", "--config", str(self.config), "--format", "json", *words])
        except SystemExit as ended:  # bad usage
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return status, json.loads(out) if out else {}, err

    def register(self, by: str = "ann", version: str = "2") -> tuple[int, dict, str]:
        f = self.folder
        return self.run(
            "register", "--files", str(f / "income/2"), "--card", str(f / "card.yaml"),
            "--evidence", f"fairness={f / 'fairness.json'}", "--evidence", f"scan={f / 'scan.sarif'}",
            by=by, version=version,
        )  # fmt: skip

    def to_review(self) -> None:
        status, _, err = self.register()
        assert status == 0, err
        status, _, err = self.run("submit", by="ann")
        assert status == 0, err

    def to_approved(self) -> None:
        self.to_review()
        assert self.run("approve", by="bob")[0] == 0
        assert self.run("approve", by="cem")[0] == 0

    def to_live(self) -> None:
        self.to_approved()
        assert self.run("promote", by="dee")[0] == 0

    def records(self) -> list[dict]:
        """The audit log, in order."""
        self._capsys.readouterr()
        assert cli.main(["audit", "show", str(self.state / "audit")]) == 0
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]
