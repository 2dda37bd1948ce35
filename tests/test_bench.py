"""The benchmark's own arithmetic: process trees, ratios, tables and the picture."""

import asyncio
import importlib
import os
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import msgspec
import pytest

from bench import __main__ as cli
from bench import cases_audit, clients, configs, load, page, proc, proxies, runs, svg
from bench.latency import Added
from bench.measure import Measured
from bench.section import Bar, Chart, Goal, Result, Section, Skipped, Table
from bench.sections import sections
from bench.upstream import Server
from gateway.settings.file import load as load_settings
from governance.audit.verify import read_keys, verify
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


PLAN = runs.Plan(("http",), False, 20_000, None, None, "abc", True)


@pytest.fixture
def folder(tmp_path):
    return runs.Folder.of(PLAN, tmp_path, "python -m bench")


def test_ratios_are_of_the_means_and_goals_are_judged():
    rounds = [
        [measured("direct", None), measured("Envoy", 80.0), measured(proxies.GOVERNED, 100.0)],
        [measured("direct", None), measured("Envoy", 100.0), measured(proxies.GOVERNED, 260.0, rss=180)],
    ]
    result = proxies.results(rounds, "http")
    row = result.data["summary"][proxies.GOVERNED]
    assert (row["cpu_us"], row["cpu_us_runs"], row["x_envoy"], row["x_nginx"]) == (180.0, [100.0, 260.0], 2.0, None)
    assert row["requests_a_second"] == 5000
    assert result.data["summary"]["direct"]["cpu_us"] is None
    assert result.data["latency"]["Envoy"]["added_p50"] == 60.0
    assert result.data["memory"][proxies.GOVERNED]["idle_worker_rss_mib"] == 140.0
    assert [(goal.got, goal.met) for goal in result.goals] == [
        (2.0, False),
        (60.0, True),
        (150.0, True),
        (140.0, False),
    ]
    assert [bar.name for bar in result.charts[0].bars] == ["Envoy", proxies.GOVERNED]


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, folder):
    found = runs.Stored(1.0, 0.5, Result(tables=[Table("t", ["a"], [["x"], [None], [1234]])]))
    folder.store("http", found)
    again = runs.Folder.of(PLAN, tmp_path, "another command")
    assert again.path == folder.path
    assert again.stored("http") == found
    assert again.stored("grpc") is None
    assert runs.Folder.of(PLAN, tmp_path, "", fresh=True).path.name == folder.path.name + "-2"
    other = runs.Folder.of(msgspec.structs.replace(PLAN, revision="def", whole=False), tmp_path, "")
    assert other.path != folder.path
    assert runs.newest(tmp_path) is None
    folder.finish()
    other.finish()
    assert runs.newest(tmp_path).path == folder.path  # the whole one, though the other is newer
    assert runs.Folder.of(PLAN, tmp_path, "").path.name == folder.path.name + "-2"


def test_the_page_shows_tables_pictures_goals_and_what_is_missing(folder):
    result = Result(
        tables=[Table("Costs", ["what", "us"], [["a|b", 1.5], ["c", None], ["d", 12345]], "A note.")],
        charts=[Chart("one", [Bar("a", [1.0, 2.0])]), Chart("two", [Bar("b", [3.0])])],
        goals=[Goal("small", 2.0, 1.0), Goal("large", 2.0, 1.0, at_least=True)],
        skipped=["nginx: not here"],
        versions={"Triton": "2"},
    )
    folder.store("http", runs.Stored(1.0, 0.5, result))
    page.write(folder)
    text = (folder.path / "README.md").read_text()
    assert "| a\\|b | 1.5 |\n| c | - |\n| d | 12,345 |" in text
    assert "| HTTP | small | 2 | at most 1 | **not met** |\n| HTTP | large | 2 | at least 1 | met |" in text
    assert "- left out: nginx: not here" in text
    assert "Versions: Triton 2, python " in text
    for name in ("http.svg", "http-1.svg"):
        assert f"]({name})" in text
        assert ET.fromstring((folder.path / name).read_text()).tag.endswith("svg")


def test_the_estimate_of_the_time_left_follows_the_pace():
    todo = [section for section in sections() if section.name in ("http", "grpc")]
    progress = cli.Progress(todo, quick=False)
    assert progress.left() == sum(section.seconds[0] for section in todo)
    progress.end(todo[0], 2 * todo[0].seconds[0])
    assert progress.left() == 2 * todo[1].seconds[0]


TRIES = []


def first(bench):
    TRIES.append("first")
    assert bench.folder.is_dir()
    if len(TRIES) < 3:
        raise RuntimeError("not yet")
    return Result(notes=[f"{bench.requests} requests"])


def second(_bench):
    TRIES.append("second")
    raise Skipped("nothing to measure with")


def test_what_failed_is_tried_again_and_what_is_done_is_not(monkeypatch, folder, capsys):
    mine = [Section(name, name, f"{__name__}:{name}", (1, 1), "") for name in ("first", "second")]
    monkeypatch.setattr(cli, "sections", lambda: mine)
    monkeypatch.setattr(page, "sections", lambda: mine)
    TRIES.clear()
    given = cli.arguments(["--requests", "500"])
    assert cli.run_all(given, folder) == ["first"]
    assert cli.run_all(given, folder) == []
    assert TRIES == ["first", "second", "first"]
    said = capsys.readouterr().out
    assert "==> [1/2] first; about 2 s left" in said
    assert "failed: not yet" in said
    found = page.body(folder)
    assert "500 requests" in found
    assert "- left out: the whole section: nothing to measure with" in found
    assert cli.run_all(given, folder) == []


@pytest.mark.parametrize(
    ("words", "chosen", "whole"),
    [
        ([], tuple(section.name for section in sections()), True),
        (["--quick"], tuple(section.name for section in sections()), True),
        (["--peers", "Envoy,governed"], ("http", "grpc"), False),
        (["--only", "grpc", "--requests", "500"], ("grpc",), False),
        (["--sections", "http"], ("http",), False),
    ],
)
def test_what_is_asked_for(words, chosen, whole):
    given = cli.arguments(words)
    assert given.sections == chosen
    assert cli.plan_of(given).whole is whole


@pytest.mark.parametrize(
    "words", [["--sections", "nothing"], ["--requests", "5"], ["--only", "http", "--sections", "grpc"]]
)
def test_what_cannot_be_asked_for(words):
    with pytest.raises(SystemExit, match="2"):
        cli.arguments(words)


@pytest.mark.parametrize("mode", ["async", "strict"])
def test_the_process_that_records_as_fast_as_it_can_leaves_them_all(tmp_path, mode):
    took = asyncio.run(cases_audit.write(tmp_path, 300, mode))
    assert took["cpu"] > 0
    report = verify(tmp_path / "audit", read_keys(tmp_path / "audit/log.vkey"))
    assert (report.ok, report.size) == (True, 300)


def test_every_section_can_be_found():
    for section in sections():
        module, _, function = section.run.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), section.name


def test_the_documentation_shows_the_newest_results():
    text = page.DOCS.read_text()
    assert text == page.documented(text), "run `python -m bench.page`"


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
            deadline = time.monotonic() + 60
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
