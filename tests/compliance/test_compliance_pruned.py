"""Evidence of a log whose beginning was pruned: what is left is shown, and what is gone is said."""

import json
import subprocess
import sys

from compliance_fixture import PACK, decisions, log_of, read_json, run, summed
from prune_fixture import POLICY, pruned

from governance.audit.retention import REST, Class, Retention

GONE = f"Entries 0 to 255 were pruned under the retention policy '{POLICY}', as entry 400 states: nothing is shown of them."


def a_site(tmp_path):
    log_of(tmp_path / "state", decisions(400))
    (tmp_path / "pack.yaml").write_text(PACK)
    assert pruned(tmp_path / "state", Retention(POLICY, Class(REST, 1, "none"))).plan.before == 256
    return tmp_path


def verified(out):
    command = [sys.executable, "-m", "gateway", "audit", "verify", "log", "--key", "log/log.vkey", "--format", "json"]
    return json.loads(subprocess.run(command, cwd=out, capture_output=True, check=False).stdout)


def test_a_report(tmp_path):
    site = a_site(tmp_path)
    words = ("--log", site / "state/audit", "--from", "2026-09-01", "--to", "2026-10-01", "--output", site / "out")
    assert run("report", "iso-42001", *words) in {0, 1}
    report = read_json(site / "out/report.json")
    assert summed(site / "out")
    assert (report["log"]["verifies"], report["records"]["in_period"]) == (True, 144)
    assert GONE in report["missing"]


def test_a_dossier_with_what_is_left_of_the_log(tmp_path):
    site = a_site(tmp_path)
    words = ("--log", site / "state/audit", "--aware", "2026-09-22T00:00:00Z", "--output", site / "out", "--whole-log")
    assert run("incident", *words, "--request", "request-300") == 0
    assert summed(site / "out")
    assert GONE in read_json(site / "out/incident.json")["missing"]
    found = verified(site / "out")
    assert (found["ok"], found["pruned"]["before"]) == (True, 256)
