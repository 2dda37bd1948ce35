"""What was live at a time and why, from the steps alone, on both databases."""

from __future__ import annotations

import json

import pytest
from registry_site import Site

from gateway import cli


def at(site: Site, time: str, *words: str) -> tuple[int, dict]:
    site._capsys.readouterr()
    status = cli.main(["registry", "at", time, "--config", str(site.config), "--format", "json", *words])
    out = site._capsys.readouterr().out
    return status, json.loads(out) if out else {}


def test_what_was_live_and_who_made_it_so(tmp_path, monkeypatch, capsys, store_url):
    site = Site(tmp_path, monkeypatch, capsys, store_url)
    assert at(site, "2026-05-01")[1]["models"] == []
    site.to_live()
    (site.folder / "income" / "3").mkdir()
    assert site.register(version="3")[0] == 0
    before = {step["step"]: step["time"] for step in site.run("show")[1]["history"]}
    status, found = at(site, "2099-01-01T00:00:00+01:00")
    (one,) = found["models"]
    assert (status, one["model"], one["version"]) == (0, "income", "2")
    assert one["since"] == before["promoted"]
    assert one["serves"] is False  # a year was agreed to
    assert at(site, before["promoted"])[1]["models"][0]["serves"] is True
    assert [(step["step"], step["by"], step["roles"]) for step in one["why"]] == [
        ("registered", "user:ann", []), ("submitted", "user:ann", []), ("approved", "user:bob", ["role:validator"]),
        ("approved", "user:cem", ["role:officer"]), ("promoted", "user:dee", []),
    ]  # fmt: skip
    records = {record["id"]: record for record in site.records() if record["kind"] in ("registry", "approval")}
    assert all(records[step["record"]]["details"]["step"] == step["step"] for step in one["why"])
    assert one["digests"]["binding"] == records[one["why"][2]["record"]]["details"]["binding"]
    assert at(site, before["submitted"])[1]["models"] == [{"model": "income", "version": None, "serving": []}]
    retired = site.run("retire", "--reason", "over", by="dee")
    assert retired[0] == 0
    assert at(site, "2099-01-01")[1]["models"][0]["version"] is None
    assert at(site, before["promoted"])[1]["models"][0]["version"] == "2"  # the past does not change
    assert at(site, "2099-01-01", "--model", "another")[1]["models"] == []


def test_a_time_that_is_none(tmp_path, monkeypatch, capsys):
    site = Site(tmp_path, monkeypatch, capsys)
    with pytest.raises(SystemExit) as ended:
        at(site, "yesterday")
    assert ended.value.code == 2
