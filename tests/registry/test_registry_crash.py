"""Killed at every call that reaches the disk: a step is made or not, and what was made is recorded in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry_site import KEYS, Site

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def killing(tmp_path_factory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the extensions could not have been built")
    library = tmp_path_factory.mktemp("killing") / "killing.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "killing.c"), "-ldl"], check=True
    )
    return library


@pytest.fixture
def site(tmp_path, monkeypatch, capsys) -> Site:
    return Site(tmp_path / "site", monkeypatch, capsys)


def kill(site: Site, killing: Path, how: str, which: str, by: str, step: str) -> dict:
    base = site.folder.parent / "before"
    if site.state.exists():
        shutil.copytree(site.state, base)
    f = site.folder
    words = ["registry", step, "--config", str(site.config), "income", "2"]
    if step == "register":
        words += ["--files", str(f / "income/2"), "--card", str(f / "card.yaml")]
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_child.py"), str(f), str(base), str(f.parent / "copies"), how, which, *words],
        env={**os.environ, "LD_PRELOAD": str(killing), "TIDEGATE_API_KEY": KEYS[by]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(how, step, done.stdout)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("how", "which"), [("before", "2:23"), ("after", "9:23")])
def test_an_approval_that_is_killed(site, killing, how, which):
    """Some of the calls; all of them in the slow tier."""
    site.to_review()
    found = kill(site, killing, how, which, "bob", "approve")
    assert found["kills"] >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize(("by", "step"), [("ann", "register"), ("bob", "approve")])
def test_killed_at_every_call(site, killing, how, by, step):
    """The first step of all makes the database, its tables and the log; an approval finds them there."""
    if step == "approve":
        site.to_review()
    found = kill(site, killing, how, "1:1", by, step)
    assert found["kills"] > 0.9 * found["calls"]
    assert 0 < found["made"] < found["kills"]  # the store's commit is among them
