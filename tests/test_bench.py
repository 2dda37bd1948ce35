"""The benchmark's own arithmetic: process trees, ratios, tables and the picture."""

import json
import os
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from bench import clients, configs, load, proc, report, svg
from bench.latency import Added
from bench.measure import Measured
from bench.upstream import Server
from gateway.settings.file import load as load_settings
from governance.policy.snapshot import PolicySnapshot


def measured(peer, http, rss=100):
    memory = [proc.Memory(1, rss * 2**20, rss * 2**19, peer)]
    return Measured(
        peer,
        runs={"http": clients.Run(20_000, 4.0, 0, 900.0, 2000.0)},
        cpu_us={} if http is None else {"http": http},
        latency=None if http is None else Added(200.0, 300.0, 260.0, 450.0, 2000),
        idle=[] if http is None else memory,
        loaded=[] if http is None else memory,
    )


FACTS = {
    "date": "2026-01-01",
    "command": "python -m bench",
    "machine": {"cpu": "C", "cores": 2, "memory_gib": 8.0, "system": "S", "load_average_before": [0.1, 0.1, 0.1]},
    "versions": {"python": "3"},
    "load": "20,000 requests",
    "method": "M",
    "skipped": ["nginx: not here"],
}


def test_ratios_are_of_the_means_and_goals_are_judged():
    rounds = [
        [measured("direct", None), measured("Envoy", 80.0), measured(report.GOVERNED, 100.0)],
        [measured("direct", None), measured("Envoy", 100.0), measured(report.GOVERNED, 260.0, rss=180)],
    ]
    data = report.results(rounds, FACTS)
    row = data["summary"]["http"][report.GOVERNED]
    assert (row["cpu_us"], row["cpu_us_runs"], row["x_envoy"], row["x_nginx"]) == (180.0, [100.0, 260.0], 2.0, None)
    assert row["requests_a_second"] == 5000
    assert data["summary"]["http"]["direct"]["cpu_us"] is None
    assert data["latency"]["Envoy"]["added_p50"] == 60.0
    assert {goal["goal"].split(":")[0]: goal["met"] for goal in data["goals"]} == {
        "http": True,
        "MiB (RSS) of an idle worker": True,
    }
    assert data["memory"][report.GOVERNED]["idle_worker_rss_mib"] == 140.0
    page = report.markdown(data, "x.svg")
    assert "| Tidegate, governed | 180.0 | 100.0, 260.0 | 2.0 | - | 5,000 | 900 | 2,000 |" in page
    assert "skipped: nginx: not here" in page


def test_all_three_files_are_written(tmp_path):
    data = report.results([[measured("Envoy", 80.0)]], FACTS)
    paths = report.write(data, tmp_path / "results", "d")
    assert [path.name for path in paths] == ["d.json", "d.md", "d.svg"]
    assert json.loads(paths[0].read_text())["summary"]["http"]["Envoy"]["cpu_us"] == 80.0
    assert ET.fromstring(paths[2].read_text()).tag.endswith("svg")


def test_the_longest_bar_is_the_largest_mean():
    picture = ET.fromstring(svg.bars("t <&>", "s", [("HTTP", [("a", [10.0, 20.0]), ("b", [60.0])])]))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(r.get("width")) for r in picture.iter(f"{space}rect") if r.get("x")]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.2)
    assert len(list(picture.iter(f"{space}line"))) == 3


def test_cpu_and_memory_are_those_of_the_whole_tree():
    spin = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.4: pass\ntime.sleep(30)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            deadline = time.monotonic() + 20
            while proc.cpu_seconds(process.pid) < 0.4 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert proc.cpu_seconds(process.pid) >= 0.4
            found = proc.memory(process.pid)
            assert len(found) == 2
            assert all(0 < m.pss <= m.rss for m in found)
            assert all("python" in m.command for m in found)
        finally:
            for pid in reversed(proc.tree(process.pid)):
                os.kill(pid, 9)


def test_pieces_of_a_run_are_added_by_their_requests():
    run = clients.Run()
    run.add(clients.Run(100, 1.0, 0, 10.0, 20.0))
    run.add(clients.Run(300, 3.0, 1, 50.0, 60.0))
    assert run == clients.Run(400, 4.0, 1, 40.0, 50.0)


def test_the_governed_settings_are_valid_and_decide_as_said(tmp_path):
    (tmp_path / "policy.csv").write_text(configs.policy())
    upstream = Server("127.0.0.1:1", "127.0.0.1:2", "")
    for name, text in (
        ("plain", configs.tidegate_plain(upstream, "127.0.0.1:3", "127.0.0.1:4", tmp_path)),
        ("governed", configs.tidegate_governed(upstream, "127.0.0.1:3", "127.0.0.1:4", tmp_path, "http://127.0.0.1:5")),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        settings, findings = load_settings(path)
        assert settings is not None, findings
    assert len([line for line in configs.policy().splitlines() if line]) == configs.POLICY_RULES
    policy = PolicySnapshot.load(tmp_path / "policy.csv")
    decision = policy.decide("user:bench", "acme", f"model:{load.MODEL}", "infer")
    assert (decision.allow, decision.line) == (True, configs.POLICY_RULES)


def test_the_bodies_that_clients_send_are_whole(tmp_path):
    load.write_files(tmp_path)
    assert (tmp_path / "body.http").read_bytes() == load.HTTP_BODY
    assert len(load.HTTP_BODY) == len(load.JSON) + 128
    framed = (tmp_path / "body.grpc").read_bytes()
    assert struct.unpack(">BI", framed[:5]) == (0, len(framed) - 5)
    assert framed[5:] == load.grpc_message()
