"""`tidegate audit`: results, exit status, and what is said when something cannot be judged."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from audit_fixture import a_log, a_record, record_all
from prune_fixture import an_old_log

from gateway.cli import main

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def state(tmp_path):
    record_all(tmp_path / "state", [a_record(number, latency_us=number) for number in range(5)], erasure=True)
    (tmp_path / "tidegate.yaml").write_text("state_dir: state\nupstreams:\n  triton: {http: 127.0.0.1:8000}\n")
    return tmp_path


def run(capfdbinary, *words):
    status = main(["audit", *map(str, words)])
    out, err = capfdbinary.readouterr()
    return status, out, err.decode()


def test_verify(state, capfdbinary):
    log, key = state / "state/audit", state / "state/audit/log.vkey"
    status, out, err = run(capfdbinary, "verify", log, "--key", key, "--format", "json")
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert {**result, "root": len(base64.b64decode(result["root"]))} == {
        "ok": True,
        "size": 5,
        "root": 32,
        "findings": [],
    }
    bundle = log / "tile/entries/000.p/5"
    bundle.write_bytes(bundle.read_bytes().replace(b"request-3", b"request-9"))
    status, out, _ = run(capfdbinary, "verify", log, "--key", key, "--format", "json")
    assert status == 1
    (finding,) = json.loads(out)["findings"]
    assert (finding["file"], finding["index"], finding["code"]) == ("tile/entries/000.p/5", 3, "entry")
    status, out, _ = run(capfdbinary, "verify", log, "--key", key)
    assert (status, out.count(b"\n")) == (1, 2)


def test_remembered_checkpoints(state, capfdbinary):
    log, key = state / "state/audit", state / "state/audit/log.vkey"
    remembered = state / "remembered"
    shutil.copy(log / "checkpoint", remembered)
    words = ("verify", log, "--key", key, "--remembered", remembered, "--remembered", remembered)
    assert run(capfdbinary, *words)[0] == 0
    a_log(state / "other", [b"x"])
    status, out, _ = run(
        capfdbinary,
        "verify",
        state / "other/audit",
        "--key",
        state / "other/audit/log.vkey",
        *words[4:],
        "--format",
        "json",
    )
    assert status == 1
    assert "rolled-back" in {finding["code"] for finding in json.loads(out)["findings"]}


def test_a_checkpoint_that_is_gone_is_a_finding(state, capfdbinary):
    (state / "state/audit/checkpoint").unlink()
    status, out, _ = run(
        capfdbinary, "verify", state / "state/audit", "--key", state / "state/audit/log.vkey", "--format", "json"
    )
    assert status == 1
    assert json.loads(out)["size"] is json.loads(out)["root"] is None


def test_a_proof_and_its_entry_leave_the_machine(state, capfdbinary):
    log, key = state / "state/audit", state / "state/audit/log.vkey"
    proof, entry = state / "p.tlog-proof", state / "entry.json"
    status, out, _ = run(capfdbinary, "proof", log, "--index", 3)
    assert (status, out.splitlines()[:2]) == (0, [b"c2sp.org/tlog-proof@v1", b"index 3"])
    proof.write_bytes(out)
    status, out, _ = run(capfdbinary, "show", log, "--from", 3, "--to", 3, "--raw")
    entry.write_bytes(out)
    words = ("verify-proof", proof, "--key", key, "--entry", entry, "--format", "json")
    status, out, _ = run(capfdbinary, *words)
    assert (status, json.loads(out)) == (0, {"ok": True, "index": 3, "size": 5, "findings": []})
    entry.write_bytes(entry.read_bytes().replace(b"acme", b"ACME"))
    status, out, _ = run(capfdbinary, *words)
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "inclusion")
    proof.write_bytes(b"nonsense")
    status, out, _ = run(capfdbinary, *words)
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "proof")


def test_show(state, capfdbinary):
    log = state / "state/audit"
    status, out, _ = run(capfdbinary, "show", log, "--from", 1, "--to", 3)
    shown = [json.loads(line) for line in out.splitlines()]
    assert (status, [one["index"] for one in shown]) == (0, [1, 2, 3])
    assert next(iter(shown[0])) == "index"
    status, out, _ = run(capfdbinary, "show", log, "--request", "request-4")
    assert [json.loads(line)["index"] for line in out.splitlines()] == [4]
    status, out, err = run(capfdbinary, "show", log, "--request", "nobody")
    assert (status, out) == (1, b"")
    assert "nobody" in err
    assert run(capfdbinary, "show", log, "--from", 99)[:2] == (0, b"")
    a_log(state / "other", [b"\xffnot json", b"[1]"])
    _, out, _ = run(capfdbinary, "show", state / "other/audit")
    assert json.loads(out.splitlines()[0]) == {"index": 0, "entry": base64.b64encode(b"\xffnot json").decode()}


def test_show_follows(state):
    command = [sys.executable, "-m", "gateway", "audit", "show", "state/audit", "--from", "4", "--follow"]
    process = subprocess.Popen(
        command, cwd=state, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    try:
        assert json.loads(process.stdout.readline())["id"] == "request-4"
        record_all(state / "state", [a_record(7)], erasure=True)
        assert json.loads(process.stdout.readline())["id"] == "request-7"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_export(state, capfdbinary):
    log = state / "state/audit"
    status, out, _ = run(capfdbinary, "export", log, "--to", state / "x.jsonl", "--format", "json")
    assert (status, json.loads(out)["records"]) == (0, 5)
    lines = [json.loads(line) for line in (state / "x.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert run(capfdbinary, "export", log, "--to", state / "x.parquet")[0] == 0
    table = pq.read_table(state / "x.parquet")
    assert table.column("latency_us").to_pylist() == [0, 1, 2, 3, 4]
    assert table.column("id").to_pylist() == [line["id"] for line in lines]
    stamps = table.column("time_ns").cast("int64").to_pylist()
    assert [f"{stamp % 10**9:09d}Z" for stamp in stamps] == [line["time"].partition(".")[2] for line in lines]


def test_erase_and_holds(state, capfdbinary):
    config = ("--config", state / "tidegate.yaml", "--subject", "user:alice", "--format", "json")
    status, out, _ = run(capfdbinary, "hold", *config, "--reason", "case 7")
    pseudonym = json.loads(out)["subject"]
    assert status == 0
    assert pseudonym.startswith("person:")
    status, out, _ = run(capfdbinary, "erase", *config)
    assert (status, json.loads(out)) == (1, {"ok": False, "subject": pseudonym, "hold": "case 7"})
    assert run(capfdbinary, "release", *config)[0] == 0
    status, out, _ = run(capfdbinary, "erase", *config)
    assert (status, json.loads(out)) == (0, {"ok": True, "subject": pseudonym, "hold": None})
    status, out, _ = run(capfdbinary, "erase", *config)
    assert (status, json.loads(out)) == (1, {"ok": False, "subject": None, "hold": None})
    assert run(capfdbinary, "hold", *config, "--reason", "x")[0] == 1
    assert run(capfdbinary, "verify", state / "state/audit", "--key", state / "state/audit/log.vkey")[0] == 0


RETENTION = """state_dir: state
upstreams:
  triton: {http: 127.0.0.1:8000}
audit:
  retention:
    policy: records schedule 7
    days: 400
    classes:
      - {name: short, days: 184, models: [income]}
"""


@pytest.fixture
def old(tmp_path):
    an_old_log(tmp_path / "state")
    (tmp_path / "tidegate.yaml").write_text(RETENTION)
    return tmp_path


def test_prune(old, capfdbinary):
    config = ("--config", old / "tidegate.yaml")
    log, key = old / "state/audit", old / "state/audit/log.vkey"
    status, out, err = run(capfdbinary, "prune", *config)
    assert (status, "--yes" in err) == (0, True)
    assert b"512 of class 'short', kept for 184 days (ai-act-19)" in out
    assert b"would be pruned: entries 0 to 511" in out
    assert run(capfdbinary, "hold", *config, "--log", "--reason", "case 7")[:2] == (0, b"the log: held: case 7\n")
    status, out, _ = run(capfdbinary, "prune", *config, "--yes", "--format", "json")
    assert (status, json.loads(out)["refused"]) == (1, "legal hold on the log: case 7")
    assert run(capfdbinary, "release", *config, "--log")[:2] == (0, b"the log: released\n")
    status, out, _ = run(capfdbinary, "prune", *config, "--yes", "--format", "json")
    result = json.loads(out)
    assert status == 0
    assert result | {"bytes": 0, "classes": [], "stays": {}} == {
        "pruned": True,
        "begin": 0,
        "before": 512,
        "size": 903,
        "classes": [],
        "bytes": 0,
        "record": 903,
        "stays": {},
        "refused": None,
    }
    assert result["stays"]["index"] == 600
    status, out, err = run(capfdbinary, "verify", log, "--key", key, "--format", "json")
    stated = json.loads(out)["pruned"]
    assert (status, stated["before"], stated["index"], stated["policy"]) == (0, 512, 903, "records schedule 7")
    assert "entries 0 to 511 were pruned" in err
    assert run(capfdbinary, "verify", log, "--key", key)[1].endswith(b", pruned 512\n")
    status, out, err = run(capfdbinary, "show", log, "--to", "512")
    assert (status, json.loads(out)["index"], "entries 0 to 511 were pruned" in err) == (0, 512, True)
    status, out, err = run(capfdbinary, "show", log, "--from", "5", "--to", "5")
    assert (status, out, "records schedule 7" in err) == (2, b"", True)
    status, out, err = run(capfdbinary, "proof", log, "--index", "5")
    assert (status, out.splitlines()[1], "who has kept the entry" in err) == (0, b"index 5", True)
    status, out, err = run(capfdbinary, "export", log, "--to", old / "x.jsonl", "--format", "json")
    assert (status, json.loads(out)["records"], "were pruned" in err) == (0, 905 - 512, True)
    assert run(capfdbinary, "fsck", *config)[:2] == (0, b"ok\n")
    status, out, _ = run(capfdbinary, "prune", *config, "--yes")
    assert (status, out.splitlines()[-1]) == (0, b"nothing to prune")


def test_replay_of_a_pruned_log(old, capfdbinary):
    (old / "new.csv").write_text("p, user:bob, acme, model:income, infer, allow\n")
    assert run(capfdbinary, "prune", "--config", old / "tidegate.yaml", "--yes")[0] == 0
    words = ["policy", "replay", "--policy", str(old / "new.csv"), "--log", str(old / "state/audit")]
    assert main([*words, "--format", "json"]) == 0
    out, err = capfdbinary.readouterr()
    result = json.loads(out)
    assert (result["pruned"], result["replayed"], result["changed"][0]["index"]) == (512, 900 - 512, 512)
    assert b"could not be replayed" in err


BAD = [
    (["prune", "--config", "tidegate.yaml"], "audit.retention"),
    (["prune", "--config", "none"], "none"),
    (["prune", "--config", "empty.yaml"], "no log"),
    (["hold", "--config", "empty.yaml", "--log", "--reason", "x"], "no log"),
    (["verify", "none", "--key", "state/audit/log.vkey"], "none"),
    (["verify", "tidegate.yaml", "--key", "state/audit/log.vkey"], "tidegate.yaml"),
    (["verify", "state/audit", "--key", "none"], "none"),
    (["verify", "state/audit", "--key", "tidegate.yaml"], "tidegate.yaml:1"),
    (["verify", "state/audit", "--key", "state/audit"], "state/audit"),
    (["verify", "state/audit", "--key", "state/audit/log.vkey", "--remembered", "none"], "none"),
    (["verify", "state/audit", "--key", "state/audit/log.vkey", "--remembered", "tidegate.yaml"], "tidegate.yaml"),
    (["proof", "state/audit", "--index", "5"], "the last is 4"),
    (["proof", "none", "--index", "5"], "none"),
    (["verify-proof", "none", "--key", "state/audit/log.vkey", "--entry", "tidegate.yaml"], "none"),
    (["verify-proof", "tidegate.yaml", "--key", "state/audit/log.vkey", "--entry", "none"], "none"),
    (["show", "none"], "none"),
    (["export", "state/audit", "--to", "x.csv"], "x.csv"),
    (["export", "state/audit", "--to", "none/x.jsonl"], "none/x.jsonl"),
    (["export", "state/audit", "--to", "none/x.parquet"], "none/x.parquet"),
    (["erase", "--config", "none", "--subject", "user:alice"], "none"),
    (["erase", "--config", "tidegate.yaml", "--subject", "alice"], "user:NAME"),
    (["hold", "--config", "other.yaml", "--subject", "user:alice", "--reason", "x"], "audit.erasure"),
]


@pytest.mark.parametrize(("words", "named"), BAD, ids=lambda value: "-".join(value) if isinstance(value, list) else "")
def test_what_cannot_be_judged_is_said_in_one_line(state, capfdbinary, monkeypatch, words, named):
    monkeypatch.chdir(state)
    (state / "empty.yaml").write_text(RETENTION.replace("state_dir: state", "state_dir: empty"))
    (state / "other.yaml").write_text("state_dir: other\nupstreams:\n  triton: {http: 127.0.0.1:8000}\n")
    status, out, err = run(capfdbinary, *words)
    assert (status, out) == (2, b"")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize("index", ["-1", "x", "1.5", ""])
def test_indices_are_numbers(index, capfd):
    with pytest.raises(SystemExit) as error:
        main(["audit", "show", "state", "--from", index])
    assert error.value.code == 2


def test_the_independent_verifier_reads_it_too(state):
    program = CHECKOUT / "tests/audit/independent.py"
    words = [sys.executable, str(program), "state/audit", "state/audit/log.vkey"]
    assert subprocess.run(words, cwd=state, capture_output=True, text=True, check=True).stdout == "5\n"


def test_fsck(state, capfdbinary):
    config = ("--config", state / "tidegate.yaml", "--format", "json")
    status, out, _ = run(capfdbinary, "fsck", *config)
    assert (status, json.loads(out)) == (0, {"ok": True, "findings": [], "repaired": []})
    (state / "state/audit/checkpoint").unlink()
    status, out, _ = run(capfdbinary, "fsck", *config)
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "checkpoint")
    status, out, _ = run(capfdbinary, "fsck", *config, "--repair")
    assert (status, json.loads(out)["findings"], len(json.loads(out)["repaired"])) == (0, [], 1)
    (state / "state/audit-private/log.key").unlink()
    assert run(capfdbinary, "fsck", *config)[0] == 2
