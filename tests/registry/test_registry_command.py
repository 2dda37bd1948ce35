"""`tidegate registry` from draft to retired: what it prints, who may, what voids, and what the audit log says of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess

import pytest
from registry_site import CARD, KEYS, POLICY, REQUIREMENTS, SARIF, Site

from gateway import cli
from governance.audit.verify import read_keys, verify
from governance.cards import card as cards
from governance.registry.digests import file_digest, tree
from governance.registry.gates import judge
from governance.registry.requirements import LineageGate, RiskClass
from governance.store.reading import reader


@pytest.fixture
def site(tmp_path, monkeypatch, capsys) -> Site:
    return Site(tmp_path, monkeypatch, capsys)


def test_the_life_of_a_version_on_both_databases(tmp_path, monkeypatch, capsys, store_url):
    site = Site(tmp_path, monkeypatch, capsys, store_url)
    status, draft, err = site.register()
    assert err == ""
    assert (status, draft["state"], draft["serves"]) == (0, "draft", False)
    status, review, _ = site.run("submit", by="ann")
    assert (status, review["state"], review["missing"]) == (0, "in review", ["role:validator", "role:officer"])
    assert [gate["gate"] for gate in review["gates"]] == ["card", "metric", "fairness", "scan"]
    status, half, _ = site.run("approve", "--reason", "report 17", by="bob")
    assert (half["state"], half["missing"]) == ("in review", ["role:officer"])
    status, approved, _ = site.run("approve", by="cem")
    assert (approved["state"], approved["serves"], approved["missing"]) == ("approved", True, [])
    until = dt.datetime.fromisoformat(approved["expires"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=364) < until <= dt.timedelta(days=365)
    assert site.run("promote", by="dee")[1]["state"] == "live"
    sunset = ("--sunset", "2099-03-31", "--link", "https://models.example/income")
    status, old, _ = site.run("deprecate", "--reason", "3 is better", *sunset, by="dee")
    assert (old["state"], old["sunset"], old["link"]) == (
        "deprecated", "2099-03-31T00:00:00Z", "https://models.example/income",
    )  # fmt: skip
    assert site.run("retire", "--reason", "gone", by="dee")[1]["state"] == "retired"
    status, shown, _ = site.run("show")
    steps = ["registered", "submitted", "approved", "approved", "promoted", "deprecated", "retired"]
    assert [step["step"] for step in shown["history"]] == steps
    assert [(one["by"], one["roles"], one["reason"]) for one in shown["approvals"]] == [
        ("user:bob", ["role:validator"], "report 17"),
        ("user:cem", ["role:officer"], ""),
    ]
    assert shown["changed"] == []
    status, listed, _ = site.run("list")
    assert [(one["model"], one["version"], one["state"]) for one in listed["versions"]] == [("income", "2", "retired")]
    records = [record for record in site.records() if record["kind"] in ("registry", "approval")]
    assert [record["details"]["step"] for record in records] == steps
    assert [record["kind"] for record in records] == [
        "registry", "registry", "approval", "approval", "registry", "registry", "registry",
    ]  # fmt: skip
    assert [record["action"] for record in records] == ["edit", "edit", *["approve"] * 2, *["promote"] * 3]
    assert {(record["object"], record["model"], record["version"], record["outcome"]) for record in records} == {
        ("registry:income", "income", "2", "served")
    }
    assert [record["subject"] for record in records][2:5] == ["user:bob", "user:cem", "user:dee"]
    assert {record["policy"] for record in records} == {hashlib.sha256(POLICY.encode()).hexdigest()}
    assert records[1]["details"]["gates"][2]["measured"] == "0.91"
    assert len({record["id"] for record in records}) == len(records)
    log = site.state / "audit"
    assert verify(log, read_keys(log / "log.vkey"), []).ok


def test_digests_can_be_found_with_sha256sum(site):
    folder = site.folder / "income/2"
    (folder / "a b").mkdir()
    (folder / "a b" / "ü.bin").write_bytes(bytes(range(256)) * 9000)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"x")
    script = (
        "find . -name __pycache__ -prune -o -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    )
    printed = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    _, found, _ = site.register()
    assert found["digests"]["files"] == printed.split()[0] == tree(folder)
    assert found["digests"]["card"] == hashlib.sha256((site.folder / "card.yaml").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("step", "by", "words", "says"),
    [
        ("submit", "bob", (), "does not allow user:bob to `edit` on `registry:income`"),
        ("approve", "ann", (), "does not allow user:ann to `approve`"),
        ("approve", "dee", (), "does not allow user:dee to `approve`"),
        ("promote", "dee", (), "it is in review"),
        ("promote", "bob", (), "does not allow user:bob to `promote`"),
        ("reject", "bob", ("--reason", " "), "a reason is needed"),
        ("deprecate", "dee", ("--reason", "x"), "it is in review"),
    ],
)
def test_what_is_not_allowed_is_said_and_recorded(site, step, by, words, says):
    site.to_review()
    before = site.run("show")[1]
    status, found, err = site.run(step, *words, by=by)
    assert (status, found["ok"]) == (1, False)
    assert says in found["why"]
    assert says in err
    assert site.run("show")[1] == before
    last = site.records()[-1]
    assert (last["outcome"], last["subject"], last["object"]) == ("refused", f"user:{by}", "registry:income")
    assert says in last["details"]["why"]


def test_nobody_approves_twice(site):
    site.to_review()
    site.run("approve", by="bob")
    assert "has approved it already" in site.run("approve", by="bob")[1]["why"]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("income/2/model.py", "files"),
        ("card.yaml", "card"),
        ("fairness.json", "evidence fairness"),
        ("requirements.yaml", "requirements"),
        ("policy.csv", "policy"),
    ],
)
def test_any_change_voids_the_approvals(site, file, part):
    site.to_approved()
    with (site.folder / file).open("a") as stream:
        stream.write("\n")
    assert site.run("show")[1]["changed"] == [part]
    status, found, _ = site.run("promote", by="dee")
    assert status == 1
    assert f"changed since it was submitted: {part}; its approvals are void" in found["why"]
    now = site.run("show")[1]
    assert (now["state"], now["approvals"], now["serves"]) == ("draft", [], False)
    assert [record["details"]["step"] for record in site.records()][-2:] == ["voided", "promoted"]
    status, found, _ = site.run("submit", by="ann")
    if part in ("requirements", "policy"):
        assert status == 0  # the files are those that were registered
    else:
        assert "not what was registered" in found["why"]
        assert site.register()[0] == 0
        assert site.run("submit", by="ann")[0] == 0


def test_an_added_or_renamed_file_is_a_change(site):
    site.to_review()
    (site.folder / "income/2/model.py").rename(site.folder / "income/2/model2.py")
    assert site.run("show")[1]["changed"] == ["files"]
    (site.folder / "income/2/model2.py").rename(site.folder / "income/2/model.py")
    assert site.run("show")[1]["changed"] == []
    (site.folder / "income/2/more").write_text("")
    assert site.run("show")[1]["changed"] == ["files"]
    assert "approvals are void" in site.run("approve", by="bob")[1]["why"]


def of_route(*versions, ratio=0.79):
    """A route's report, as the control API answers it: the last version is a shadow."""
    report = {"ratios": {"demographic_parity": ratio}, "differences": {"equal_opportunity": 0.01}}
    found = [{**report, "model": "income", "version": version} for version in versions]
    variants = {f"v{at}": one for at, one in enumerate(found[:-1])}
    return {"route": "loan", "all": {"ratios": {}}, "variants": variants, "shadows": {"s": found[-1]}}


@pytest.mark.parametrize(
    ("file", "content", "gate", "measured"),
    [
        ("fairness.json", of_route("1", None, ratio=0.9), "fairness", "this version is no variant or shadow"),
        ("fairness.json", of_route("1", "2", "2"), "fairness", "0.79, 0.79"),
        ("fairness.json", of_route("2", ratio=None), "fairness", "not given"),
        ("fairness.json", {"variants": {"a": {}}}, "fairness", "not of the form"),
        ("fairness.json", {"ratios": {"demographic_parity": 0.79}}, "fairness", "0.79"),
        ("fairness.json", {"ratios": {"demographic_parity": None}}, "fairness", "not given"),
        ("fairness.json", {"ratios": {"demographic_parity": True}}, "fairness", "True"),
        ("fairness.json", {}, "fairness", "not of the form"),
        ("fairness.json", [], "fairness", "no JSON object"),
        ("scan.sarif", {"version": "2.1.0", "runs": []}, "scan", "no SARIF 2.1.0 log"),
        ("scan.sarif", {"version": "2.1.0", "runs": [{}]}, "scan", "no results"),
        ("scan.sarif", {"version": "2.1.0", "runs": [{"results": [{"message": {}}]}]}, "scan", "1 findings"),
        ("scan.sarif", {**SARIF, "runs": [{"results": [], "invocations": [{"executionSuccessful": False}]}]}, "scan", "did not succeed"),
    ],
)  # fmt: skip
def test_a_gate_that_does_not_hold_keeps_it_a_draft(site, file, content, gate, measured):
    (site.folder / file).write_text(json.dumps(content))
    site.register()
    status, found, _ = site.run("submit", by="ann")
    assert (status, found["why"]) == (1, f"gates that do not hold: {gate}")
    assert site.run("show")[1]["state"] == "draft"


def test_the_report_of_a_route_is_evidence_of_its_variants_and_shadows(site):
    report = of_route("1", "2", ratio=0.9)
    report["variants"]["v0"]["ratios"] = {}
    (site.folder / "fairness.json").write_text(json.dumps(report))
    site.register()
    assert site.run("submit", by="ann")[0] == 0
    assert site.run("show")[1]["state"] == "in review"


def test_the_card_has_to_be_complete_and_its_metrics_good(site):
    card = site.folder / "card.yaml"
    text = card.read_text()
    card.write_text(text.replace("value: 0.87", "value: 0.849"))
    site.register()
    assert "do not hold: metric" in site.run("submit", by="ann")[1]["why"]
    card.write_text(text.replace("    - {type: roc_auc, value: 1, dataset: Loans}\n", "    - {type: roc_auc}\n"))
    site.register()
    assert "do not hold: card" in site.run("submit", by="ann")[1]["why"]
    card.write_text(text.replace("rating: high", "rating: low"))
    site.register()
    assert "say nothing of models whose risk is low" in site.run("submit", by="ann")[1]["why"]


def test_warnings_of_a_scan_that_a_person_accepted_are_none(site):
    finding = {"level": "error", "suppressions": [{"kind": "external", "status": "accepted"}]}
    (site.folder / "scan.sarif").write_text(json.dumps({**SARIF, "runs": [{"results": [finding]}]}))
    site.register()
    assert site.run("submit", by="ann")[0] == 0


@pytest.mark.parametrize(("compared", "differences", "holds"), [(999, 0, False), (1000, 10, True), (1000, 11, False)])
def test_agreement_of_a_shadow_is_read_from_the_routes_page(site, compared, differences, holds):
    (site.folder / "requirements.yaml").write_text(
        "schema_version: tidegate.requirements/1\n"
        "classes: {high: {approvals: [], shadow: {min_compared: 1000, max_differing: 0.01}}}\n"
    )
    output = {"name": "y", "compared": compared, "differences": differences}
    page = {"shadows": [{"model": "income", "version": "2", "outputs": [output]}, {"model": "x", "version": None}]}
    (site.folder / "shadow.json").write_text(json.dumps(page))
    f = site.folder
    site.run(
        "register", "--files", str(f / "income/2"), "--card", str(f / "card.yaml"),
        "--evidence", f"shadow={f / 'shadow.json'}", by="ann",
    )  # fmt: skip
    status, found, _ = site.run("submit", by="ann")
    assert (status == 0, found.get("state")) == (holds, "approved" if holds else None)  # nobody is asked


LOCK = "schema: '2.0'\nstages:\n  train:\n    deps: [{path: loans.csv, md5: aa, size: 1}, {path: more.csv, md5: bb}]\n"
_OF_DVC = [{"name": "loans.csv", "digest": "aa", "algorithm": "md5"}]
_OF_BOTH = [*_OF_DVC, {"name": "loans", "digest": "11", "algorithm": "mlflow"}]


@pytest.mark.parametrize(
    ("datasets", "lock", "measured"),
    [
        (_OF_BOTH, LOCK, ["2 data sets, each with its digest", "1 compared, none changed; 1 of MLflow's not compared"]),
        (_OF_BOTH, LOCK.replace("aa", "cc"), [None, "changed: loans.csv"]),
        (_OF_BOTH, LOCK.replace("loans.csv", "debts.csv"), [None, "not in the evidence `data`: loans.csv"]),
        (_OF_BOTH, "no: lock", [None, "the file: says nothing of data: name a `*.dvc` file or a `dvc.lock`"]),
        (_OF_BOTH, "[", [None, "the file: no file of DVC: name a `*.dvc` file or a `dvc.lock`"]),
        (_OF_BOTH, None, [None, "there is no evidence `data`: register it with --evidence data=FILE"]),
        (_OF_BOTH[1:] * 2, LOCK, [None, "0 compared, none changed; 1 of MLflow's not compared"]),
        (_OF_DVC, LOCK, ["1 data sets, each with its digest", None]),
        ([*_OF_DVC, {**_OF_DVC[0], "digest": "dd"}], LOCK, ["with several digests: loans.csv", "changed: loans.csv"]),
        ([*_OF_DVC, {"name": "x", "digest": None}], LOCK, ["without a digest: x", "not in the evidence `data`: x"]),
        ([], LOCK, ["0 data sets, each with its digest", "0 compared, none changed"]),
        *((broken, LOCK, ["the file is not of the form that this gate reads"] * 2) for broken in ([{}], {}, [3], "x")),
        ([{"name": "x", "digest": 3}], LOCK, ["the file is not of the form that this gate reads"] * 2),
    ],
)
def test_the_data_has_to_be_known_and_unchanged(datasets, lock, measured, tmp_path):
    """Each line of `measured` is of a gate that does not hold, save in the first case and where it says None."""
    wanted = RiskClass(approvals=(), card="any", lineage=LineageGate(min_datasets=2, unchanged=True))
    (tmp_path / "lineage.json").write_text(json.dumps({"datasets": datasets}))
    files = {"lineage": tmp_path / "lineage.json", "data": tmp_path / "dvc.lock"}
    if lock is None:
        del files["data"]
    else:
        files["data"].write_text(lock)
    found = judge(wanted, "income", "2", cards.read(CARD), "", files)
    assert [one.gate for one in found] == ["lineage", "lineage"]
    for one, said in zip(found, measured, strict=True):
        if said is None:
            assert one.ok
            continue
        assert one.measured == said
        assert one.ok is (datasets == _OF_BOTH and lock == LOCK)
        assert one.evidence == ("" if lock is None else file_digest(files["lineage" if one is found[0] else "data"]))


def test_a_lineage_is_bound_and_asked_for(site):
    """Through the commands: without it nothing is submitted; with it a change of the data voids what was agreed."""
    requirements = site.folder / "requirements.yaml"
    requirements.write_text(requirements.read_text() + "    lineage: {unchanged: true}\n")
    site.register()
    assert site.run("submit", by="ann")[1]["why"] == "gates that do not hold: lineage, lineage"
    f = site.folder
    (f / "lineage.json").write_text(json.dumps({"datasets": _OF_DVC}))
    (f / "dvc.lock").write_text(LOCK)
    pairs = ("fairness=fairness.json", "scan=scan.sarif", "lineage=lineage.json", "data=dvc.lock")
    named = [word for pair in pairs for word in ("--evidence", pair.replace("=", f"={f}/"))]
    words = ("--files", str(f / "income/2"), "--card", str(f / "card.yaml"), *named)
    assert site.run("register", *words, by="ann")[0] == 0
    assert site.run("submit", by="ann")[0] == 0
    (f / "dvc.lock").write_text(LOCK.replace("bb", "ee"))
    status, found, _ = site.run("approve", by="bob")
    assert status == 1
    assert "evidence data" in found["why"]


def test_an_evaluation_takes_the_place_of_the_cards_metrics(site):
    evaluation = {"performance_metrics": [{"type": "accuracy", "value": 0.86, "dataset": "Loans"}]}
    (site.folder / "evaluation.json").write_text(json.dumps(evaluation))
    f = site.folder
    words = ["register", "--files", str(f / "income/2"), "--card", str(f / "card.yaml")]
    for name, file in (("fairness", "fairness.json"), ("scan", "scan.sarif"), ("evaluation", "evaluation.json")):
        words += ["--evidence", f"{name}={f / file}"]
    assert site.run(*words, by="ann")[0] == 0
    gate = site.run("submit", by="ann")[1]["gates"][1]
    assert gate["measured"] == "0.86"
    assert gate["evidence"] == hashlib.sha256((f / "evaluation.json").read_bytes()).hexdigest()


def test_who_is_proved_by_a_key(site):
    assert "holds no API key" in site.run("submit")[2]
    status, _, err = site.run("submit", "--as", "user:ann", by="bob")
    assert (status, "is the key of user:bob and not of user:ann" in err) == (2, True)
    assert site.run("submit", "--as", "ann", by="ann")[0] == 2
    site.register()
    assert site.run("submit", "--as", "user:ann", by="ann")[0] == 0
    assert site.records()[-1]["details"]["proof"] == "api_key"


def test_where_nobody_has_to_prove_anything_the_name_is_believed(site, capsys):
    text = site.config.read_text()
    start, end = text.index("identity:"), text.index("policy:")
    site.config.write_text(text[:start] + text[end:])
    assert "--as user:NAME" in site.run("list", "--model", "x")[2] or site.run("submit")[0] == 2
    f = site.folder
    words = ("register", "--files", str(f / "income/2"), "--card", str(f / "card.yaml"))
    assert site.run(*words, "--as", "user:eve")[0] == 1  # by the policy
    assert site.run(*words, "--as", "user:ann")[1]["history"][0]["proof"] == "local"


def test_the_state_at_a_time(site):
    site.to_live()
    times = [step["time"] for step in site.run("show")[1]["history"]]
    states = [site.run("show", "--at", time)[1]["state"] for time in times]
    assert states == ["draft", "in review", "in review", "approved", "live"]
    assert [one["state"] for one in site.run("list", "--at", times[3])[1]["versions"]] == ["approved"]
    assert site.run("list", "--at", "2020-01-01")[1] == {"versions": []}
    assert site.run("show", "--at", "2020-01-01")[0] == 2


def test_what_cannot_be_judged_is_two_and_one_line(site):
    f = site.folder
    assert site.run("register", "--files", str(f / "none"), "--card", str(f / "card.yaml"), by="ann")[0] == 2
    (f / "income/2/link").symlink_to("/etc/passwd")
    status, _, err = site.register()
    assert (status, "a link or device" in err) == (2, True)
    (f / "income/2/link").unlink()
    (f / "card.yaml").write_text("model_detials: {}\n")
    site.register()
    status, _, err = site.run("submit", by="ann")
    assert (status, "model_detials" in err) == (2, True)
    (f / "requirements.yaml").write_text(REQUIREMENTS.replace("min: 0.8}", "minimum: 0.8}"))
    assert "requirements.yaml:8:" in site.run("submit", by="ann")[2]
    (f / "requirements.yaml").write_text(REQUIREMENTS)
    (site.state / "store" / "tidegate.db").write_bytes(b"x" * 5000)
    status, _, err = site.run("list")
    assert (status, err.count("\n"), "not a database" in err) == (2, 1, True)
    with pytest.raises(SystemExit) as ended:
        cli.main(["registry", "deprecate", "--config", "x", "m", "1", "--reason", "r", "--sunset", "soon"])
    assert ended.value.code == 2


def test_with_erasure_no_name_is_in_the_log(tmp_path, monkeypatch, capsys):
    site = Site(tmp_path, monkeypatch, capsys, extra="audit: {erasure: true}\n")
    site.to_approved()
    records = site.records()
    people = [record["subject"] for record in records]
    assert all(person.startswith("person:") for person in people)
    assert people[0] == people[1] != people[2]  # ann, ann, bob
    assert not any(f"user:{name}" in json.dumps(records) for name in KEYS)


def test_without_a_log_steps_wait_for_one(tmp_path, monkeypatch, capsys):
    site = Site(tmp_path, monkeypatch, capsys, extra="audit: {mode: off}\n")
    site.to_review()
    assert not (site.state / "audit").exists()
    site.config.write_text(site.config.read_text().replace("audit: {mode: off}", "audit: {mode: strict}"))
    site.run("approve", by="bob")
    assert [record["details"]["step"] for record in site.records()] == ["registered", "submitted", "approved"]
    assert reader("", site.state).latest() == (3, 3)


def test_text_is_for_people(site, capsys):
    site.to_approved()
    capsys.readouterr()
    assert cli.main(["registry", "show", "--config", str(site.config), "income", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("income 2: approved; approved until ")
    assert "gate fairness: demographic_parity ratio at least 0.8: 0.91" in out
    assert cli.main(["registry", "list", "--config", str(site.config)]) == 0
    assert capsys.readouterr().out.startswith("income 2: approved; approved until ")
