"""Bundles of evidence: whole, checkable without a gateway, and honest about what is missing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compliance_fixture import (
    PACK,
    accessible,
    decisions,
    entry,
    log_of,
    proved,
    read_json,
    run,
    summed,
    verify_proof,
)

CHECKOUT = Path(__file__).parents[2]
CARD = CHECKOUT / "model_repository/income/card.yaml"
PERIOD = ("--from", "2026-09-01", "--to", "2026-10-01")
POLICY = "p, role:scorer, acme, *, infer, allow\ng, user:alice, role:scorer, acme\n"


@pytest.fixture
def site(tmp_path):
    log_of(tmp_path / "state", decisions(300))
    (tmp_path / "pack.yaml").write_text(PACK)
    (tmp_path / "card.yaml").write_text("model_details: {name: income}\n")
    return tmp_path


def words(site, **more):
    """Of a report that can be made; None leaves a word out."""
    chosen = {
        "--log": site / "state/audit",
        "--output": site / "out",
        "--from": "2026-09-01",
        "--to": "2026-10-01",
        **more,
    }
    pack = chosen.pop("pack", site / "pack.yaml")
    return ["report", pack, *(word for name, value in chosen.items() if value is not None for word in (name, value))]


def made(site, **more):
    """A report's exit status and its bundle."""
    status = run(*words(site, **more))
    return status, site / str(more.get("--output", "out"))


def test_a_bundle_is_checked_in_an_empty_folder_by_other_processes(site, tmp_path_factory):
    status, out = made(site, **{"--card": site / "card.yaml"})
    assert status == 0
    key = (site / "state/audit/log.vkey").read_text()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "bundle"
    shutil.move(out, elsewhere)
    shutil.rmtree(site / "state")
    assert summed(elsewhere)
    report = read_json(elsewhere / "report.json")
    indices = [one["index"] for one in report["cited"]]
    # Three of all and five of the failures; of the first some may be among the latter.
    assert 5 <= len(indices) == len(set(indices)) <= 8
    assert all(proved(elsewhere, index, key) for index in indices)
    assert [verify_proof(elsewhere, index) for index in indices[:2]] == [0, 0]
    changed = elsewhere / f"records/{indices[0]}.json"
    changed.write_bytes(changed.read_bytes().replace(b"acme", b"emca"))
    assert not summed(elsewhere)
    assert verify_proof(elsewhere, indices[0]) == 1
    assert not proved(elsewhere, indices[0], key)


def test_what_a_report_says(site):
    status, out = made(site, **{"--card": site / "card.yaml"})
    report = read_json(out / "report.json")
    assert status == 0
    assert (report["records"]["in_period"], report["log"]["size"], report["log"]["verifies"]) == (300, 300, True)
    assert report["queries"]["decisions"]["counts"] == [
        {"model": "income", "outcome": "served", "records": 240},
        {"model": "income", "outcome": "failed", "records": 60},
    ]
    assert report["queries"]["decisions"]["left_out"] == 297
    (duty,) = report["duties"]
    assert duty["queries"] == {"decisions": 300, "failures": 60}
    assert [check["status"] for check in duty["checks"]] == ["holds", "holds", "holds"]
    assert report["summary"] == {"holds": 3, "fails": 0, "not_shown": 0}
    assert any("own folder" in line for line in report["missing"])
    assert any("older checkpoint" in line for line in report["missing"])
    assert any("begins at 2026-09-21T14:13:20Z" in line for line in report["missing"])
    left = 300 - len(report["cited"])
    assert f"{left} records of the period are counted, and not in this folder." in report["missing"]
    assert report["given"] == [
        {
            "file": "given/card-1.yaml",
            "source": str(site / "card.yaml"),
            "sha256": subprocess.run(
                ["sha256sum", site / "card.yaml"], capture_output=True, text=True, check=True
            ).stdout.split()[0],
        }
    ]
    assert (out / "given/pack.yaml").read_text() == PACK
    assert (out / "log/checkpoint").read_bytes() == (site / "state/audit/checkpoint").read_bytes()
    assert oct(out.stat().st_mode & 0o777) == "0o700"
    assert sorted(path.name for path in site.iterdir()) == ["card.yaml", "out", "pack.yaml", "state"]


def test_the_same_log_gives_the_same_evidence(site):
    for name in ("one", "two"):
        assert made(site, **{"--card": site / "card.yaml", "--output": site / name})[0] == 0
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (site / "one", site / "two")
    )
    differing = {str(path) for path in one if one[path] != two[path]}
    assert one.keys() == two.keys()
    assert differing <= {"report.json", "index.html", "SHA256SUMS"}  # they say when they were made


def test_the_page_is_for_everybody_and_escapes(site):
    log_of(site / "other", [entry(0, model="<script>alert(1)</script>", id='"><img src=x onerror=1>')])
    (site / "card.yaml").write_text("model_details: {overview: nameless}\n")
    status, out = made(site, **{"--log": site / "other/audit", "--card": site / "card.yaml"})
    page = accessible((out / "index.html").read_text())
    assert status == 1
    assert "<script>alert(1)</script>" in page.words
    assert "FAILS" in page.words
    hrefs = [href for href in page.attributes("href") if not href.startswith(("#", "https://"))]
    assert hrefs
    assert all((out / href).is_file() for href in hrefs)


def test_every_pack_that_ships_makes_a_bundle(site, capsys):
    for pack in ("eu-ai-act", "gdpr", "sr-26-2", "nist-ai-rmf", "iso-42001", "nyc-ll-144", "reg-b"):
        status, out = made(site, pack=pack, **{"--output": site / pack, "--format": "json"})
        said = json.loads(capsys.readouterr().out)
        report = read_json(out / "report.json")
        # The GDPR's pack asks for sealed names, which this log does not have.
        assert status == (1 if pack == "gdpr" else 0)
        assert said["ok"] is (status == 0)
        assert {duty["id"] for duty in said["duties"]} == {duty["id"] for duty in report["duties"]}
        page = accessible((out / "index.html").read_text())
        assert all(line in " ".join(page.words) for duty in report["duties"] for line in duty["cannot_show"])
        assert "compliant" not in (out / "index.html").read_text().lower()
        assert summed(out)


def test_checks_of_what_is_handed_in(site):
    (site / "policy.csv").write_text(POLICY)
    (site / "fairness.csv").write_text("y,p,g\n" + "".join(f"{n % 2},{n % 3 % 2},{'ab'[n % 2]}\n" for n in range(200)))
    made_by = [sys.executable, "-m", "gateway", "fairness", "report", "--data", "fairness.csv", "--label", "y"]
    done = subprocess.run([*made_by, "--prediction", "p", "--group", "g"], cwd=site, capture_output=True, check=True)
    (site / "fairness.json").write_bytes(done.stdout)
    given = {"--policy": site / "policy.csv", "--fairness": site / "fairness.json", "--card": CARD}
    status, out = made(site, pack="nist-ai-rmf", **given)
    checks = {
        (duty["id"], check["kind"]): check["status"]
        for duty in read_json(out / "report.json")["duties"]
        for check in duty["checks"]
    }
    assert status == 1  # the policy that is handed in is another than the one in force
    assert checks["govern-2-1", "policy-lint"] == "holds"
    assert checks["govern-2-1", "policy-in-force"] == "fails"
    assert checks["measure-2-11", "fairness"] == "holds"
    assert (out / "given/policy.csv").read_text() == POLICY


def test_a_policy_that_was_in_force_is_found_by_its_hash(tmp_path):
    from governance.policy import policy_digest

    (tmp_path / "policy.csv").write_text(POLICY)
    digest = policy_digest(POLICY.encode(), None)
    log_of(tmp_path / "state", [entry(n).replace(b"ab" * 32, digest.encode()) for n in range(3)])
    status, out = made(tmp_path, pack="iso-42001", **{"--policy": tmp_path / "policy.csv"})
    assert status == 0
    (policy,) = read_json(out / "report.json")["policies"]
    assert (policy["policy"], policy["records"]) == (digest, 3)


def test_nobody_may_approve_their_own_change(site):
    (site / "policy.csv").write_text(
        POLICY + "p, user:alice, *, policy, edit, allow\np, user:alice, *, policy, approve, allow\n"
    )
    status, out = made(site, pack="sr-26-2", **{"--policy": site / "policy.csv"})
    (duty,) = [duty for duty in read_json(out / "report.json")["duties"] if duty["id"] == "validation"]
    assert status == 1
    assert duty["checks"][0]["status"] == "fails"
    assert "may both" in duty["checks"][0]["why"]


def test_a_policy_with_a_model_of_its_own_is_not_judged_by_its_words(site):
    from governance.policy.definition import builtin

    (site / "policy.csv").write_text(POLICY)
    (site / "model.conf").write_text(Path(CHECKOUT / "governance/policy/builtin_model.conf").read_text())
    assert builtin()
    _, out = made(site, pack="sr-26-2", **{"--policy": site / "policy.csv", "--model": site / "model.conf"})
    (duty,) = [duty for duty in read_json(out / "report.json")["duties"] if duty["id"] == "validation"]
    assert duty["checks"][0]["status"] == "not shown"


def test_records_that_lack_a_field_are_cited(site):
    log_of(site / "other", [entry(n, **({"model": None} if n in (7, 9) else {})) for n in range(40)])
    status, out = made(site, **{"--log": site / "other/audit", "--card": site / "card.yaml"})
    report = read_json(out / "report.json")
    failing = [check for check in report["duties"][0]["checks"] if check["status"] == "fails"]
    assert status == 1
    assert [(check["kind"], check["records"]) for check in failing] == [("filled", [7, 9])]
    assert {7, 9} <= {one["index"] for one in report["cited"]}


def test_a_log_that_was_changed_fails_and_the_bundle_says_where(site):
    bundle = site / "state/audit/tile/entries/001.p/44"
    bundle.write_bytes(bundle.read_bytes().replace(b"request-270", b"request-999"))
    status, out = made(site, **{"--card": site / "card.yaml"})
    report = read_json(out / "report.json")
    assert status == 1
    assert not report["log"]["verifies"]
    assert "entry 270" in report["log"]["findings"][0]
    assert "entry 270" in (out / "index.html").read_text()
    assert summed(out)
    key = (site / "state/audit/log.vkey").read_text()
    assert all(proved(out, one["index"], key) for one in report["cited"] if one["proof"])


def test_a_changed_record_that_is_cited_has_no_proof(tmp_path):
    log_of(tmp_path / "state", decisions(4))
    (tmp_path / "pack.yaml").write_text(PACK.replace("cite: 3", "cite: 10"))
    bundle = tmp_path / "state/audit/tile/entries/000.p/4"
    bundle.write_bytes(bundle.read_bytes().replace(b"request-2", b"request-7"))
    status, out = made(tmp_path)
    report = read_json(out / "report.json")
    assert status == 1
    assert [one["index"] for one in report["cited"] if one["proof"] is None] == [2]
    assert any(line.startswith("Record 2: no proof") for line in report["missing"])
    assert "no proof" in accessible((out / "index.html").read_text()).words


def test_a_history_that_was_rewritten_fails_against_a_remembered_checkpoint(site):
    shutil.copy(site / "state/audit/checkpoint", site / "remembered")
    shutil.copytree(site / "state", site / "again")
    shutil.rmtree(site / "again/audit")
    for path in (site / "again/audit-private").glob("head"):
        path.unlink()
    log_of(site / "again", [entry(n, tenant="other") for n in range(300)])
    again = {"--log": site / "again/audit", "--key": site / "state/audit/log.vkey", "--card": site / "card.yaml"}
    assert made(site, **again, **{"--output": site / "blind"})[0] == 0
    status, out = made(site, **again, **{"--remembered": site / "remembered"})
    report = read_json(out / "report.json")
    assert status == 1
    assert "forked" in report["log"]["findings"][0]
    assert report["log"]["own_key"] is False
    assert not any("own folder" in line or "older checkpoint" in line for line in report["missing"])


def test_nothing_in_the_period_is_not_shown_and_never_passes(site):
    status, out = made(site, pack="eu-ai-act", **{"--from": "2020-01-01", "--to": "2020-02-01"})
    report = read_json(out / "report.json")
    assert status == 1  # there are no decisions where the pack says that there are
    kinds = {check["kind"]: check["status"] for duty in report["duties"] for check in duty["checks"]}
    assert (kinds["some"], kinds["filled"], kinds["log-verifies"]) == ("fails", "not shown", "holds")
    assert report["cited"] == []
    accessible((out / "index.html").read_text())


def test_an_empty_log(tmp_path):
    from audit_fixture import sequencer

    sequencer(tmp_path / "state").release()
    status, out = made(tmp_path, pack="iso-42001")
    assert status == 1
    assert read_json(out / "report.json")["log"]["size"] == 0
    assert summed(out)


BAD = [
    ({"pack": "eu-ai"}, "did you mean `eu-ai-act`?"),
    ({"pack": "none/there.yaml"}, "none/there.yaml:1:1: error: cannot be read (No such file"),
    ({"--log": "nowhere"}, "nowhere/log.vkey: cannot be read"),
    ({"--key": "pack.yaml"}, "pack.yaml:1: not a verifier key"),
    ({"--remembered": "pack.yaml"}, "pack.yaml: not a checkpoint"),
    ({"--remembered": "nowhere"}, "nowhere: cannot be read"),
    ({"--card": "pack.yaml"}, "pack.yaml:1:17: error: `schema_version` cannot be that"),
    ({"--card": "nowhere"}, "nowhere:1: cannot be read"),
    ({"--policy": "nowhere"}, "nowhere:1:1: error: cannot be read"),
    ({"--policy": "card.yaml", "--model": "nowhere"}, "nowhere:1:1: error: cannot be read"),
    ({"--fairness": "pack.yaml"}, "pack.yaml:1: no fairness report"),
    ({"--fairness": "empty.json"}, "empty.json:1: no fairness report (neither"),
    ({"--output": "pack.yaml"}, "pack.yaml: is there already"),
    ({"--output": "state"}, "state: is there already"),
    ({"--output": "pack.yaml/below"}, "check the path"),
    ({"--from": "2026-10-01"}, "--from 2026-10-01T00:00:00Z is not before --to"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "said"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_judged_is_said_in_one_line(site, capsys, monkeypatch, more, said):
    monkeypatch.chdir(site)
    (site / "empty.json").write_text("{}")
    before = sorted(path.name for path in site.iterdir())
    assert run(*words(site, **more)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert sorted(path.name for path in site.iterdir()) == before  # nothing half-made is left


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"--from": "yesterday"}, "write a day"),
        ({"--to": "2026-10-01T00:00:00"}, "has no zone"),
        ({"--log": None}, "--log"),
        ({"--output": None}, "--output"),
    ],
)
def test_bad_usage(site, capsys, more, said):
    with pytest.raises(SystemExit) as ended:
        run(*words(site, **more))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_bundle_of_entries_cannot_be_judged(site, capsys):
    (site / "state/audit/tile/entries/000").unlink()
    assert made(site)[0] == 2
    assert "tile/entries/000" in capsys.readouterr().err
    assert not (site / "out").exists()


def test_list_and_show(capsys, tmp_path):
    assert run("list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert run("list", "--format", "json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["packs"]}
    assert listed["eu-ai-act"]["dated"] == "2024-07-12"
    for name in listed:
        assert run("show", name) == 0
        text = capsys.readouterr().out
        assert text.count("\n  cannot show: ") >= listed[name]["duties"]
        assert run("show", name, "--format", "json") == 0
        assert len(json.loads(capsys.readouterr().out)["duties"]) == listed[name]["duties"]
    assert re.search(r"clock: serious incident, 15 days \(Article 73\(2\)\)", _shown(capsys, "eu-ai-act"))
    (tmp_path / "own.yaml").write_text(PACK)
    assert "first: Rule 1. Decisions are recorded" in _shown(capsys, tmp_path / "own.yaml")


def _shown(capsys, pack):
    assert run("show", pack) == 0
    return capsys.readouterr().out
