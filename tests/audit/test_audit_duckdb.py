"""The queries of docs/audit.md, run by DuckDB on an exported log, against the same counted by hand."""

import collections
import json
import subprocess
from pathlib import Path

import pytest
from audit_fixture import a_record, record_all
from venv_fixture import CHECKOUT, environment

from gateway.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RUN = """
import json, sys, duckdb
print(json.dumps([duckdb.sql(query).fetchall() for query in sys.argv[1:]], default=str))
"""


def queries() -> list[str]:
    """Those of the page, in its order."""
    (block,) = (part.partition("```")[0] for part in (CHECKOUT / "docs/audit.md").read_text().split("```sql\n")[1:])
    return [query for query in block.split(";") if query.strip()]


def test_the_queries_of_the_page_give_what_is_in_the_log(tmp_path):
    records = []
    for number in range(300):
        refused = number % 3 == 0
        record = a_record(number, latency_us=number)
        record.outcome, record.rule = ("refused", number % 2 or None) if refused else ("served", 7)
        record.model, record.variant, record.version = f"m{number % 2}", "a", "1"
        records.append(record)
    record_all(tmp_path / "state", records)
    assert main(["audit", "export", str(tmp_path / "state/audit"), "--to", str(tmp_path / "decisions.parquet")]) == 0
    python: Path = environment("oracles") / "python"
    done = subprocess.run([python, "-c", RUN, *queries()], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refusals, versions = json.loads(done.stdout)
    by_rule = collections.Counter(record.rule for record in records if record.outcome == "refused")
    found = collections.Counter()
    for _day, _policy, rule, count in refusals:  # of two days, where midnight came between
        found[rule] += count
    assert found == by_rule
    assert {(model, variant, version, count) for model, variant, version, count, _ in versions} == {
        ("m0", "a", "1", 150),
        ("m1", "a", "1", 150),
    }
    assert all(290 < latency < 300 for *_, latency in versions)
