"""The registry decides what a running gateway serves: refusals, live versions, deprecation, a store that is away."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from driving import ask, channel, fp32, message, until

from gateway import cli

CARD = Path(__file__).parent.parent / "cards" / "complete_card.yaml"
SETTINGS = """\
upstreams: {triton: {http: $TRITON_HTTP, grpc: $TRITON_GRPC}}
workers: 2
registry: {enforce: ENFORCE, requirements: requirements.yaml}
routes:
  pinned: {variants: [{name: only, model: identity_fp32, version: "1"}]}
  open: {variants: [{name: current, model: identity_fp32}]}
  split:
    variants:
      - {name: good, model: identity_fp32, version: "1", weight: 1}
      - {name: unknown, model: identity_fp32, version: "7", weight: 0}
    match: [{headers: {x-variant: unknown}, variant: unknown}]
"""
REQUIREMENTS = "schema_version: tidegate.requirements/1\nclasses: {high: {approvals: []}}\n"
WITHIN = 40
"""Seconds for what is promised within 5, on a machine that others use too."""


def step(gateway, name: str, *words: str) -> None:
    command = ["registry", name, "--config", str(gateway.config), "identity_fp32", "1", "--as", "user:ann", *words]
    assert cli.main(command) == 0, name


def approve(gateway) -> None:
    files = Path(__file__).parent.parent / "models" / "identity_fp32" / "1"
    step(gateway, "register", "--files", str(files), "--card", str(CARD))
    step(gateway, "submit")


def infer(gateway, route: str, version: str = "", **headers: str):
    path = f"/v2/models/{route}" + (f"/versions/{version}" if version else "") + "/infer"
    return gateway.post(path, fp32(), headers)


def all_answer(gateway, route: str, status: int) -> bool:
    """Of both workers: connections are spread over them."""
    return all(infer(gateway, route).status == status for _ in range(8))


@pytest.fixture
def site(gateway):
    def start(enforce: str):
        text = SETTINGS.replace("ENFORCE", enforce)
        return gateway(text, files={"requirements.yaml": REQUIREMENTS})

    return start


def test_a_version_serves_when_it_is_approved_and_no_longer_when_it_is_retired(site):
    running = site("true")
    refused = infer(running, "pinned")
    assert (refused.status, refused.error) == (
        403,
        "the registry does not allow 'pinned' to serve: it is not registered",
    )
    request = message("pinned", fp32())
    with channel(running.grpc) as made:
        answer = ask(made, request)
        assert (answer.code, answer.details) == ("PERMISSION_DENIED", refused.error)
        assert "no version is live" in infer(running, "open").error
        approve(running)
        until(lambda: all_answer(running, "pinned", 200), WITHIN, "the approved version serves")
        assert infer(running, "open").status == 403  # approved is not live
        assert infer(running, "split").status == 200
        unknown = infer(running, "split", **{"x-variant": "unknown"})
        assert (unknown.status, "variant 'unknown' of 'split' to serve: it is not registered" in unknown.error) == (
            403, True,
        )  # fmt: skip
        assert infer(running, "open", "1").status == 200
        assert infer(running, "open", "7").status == 403
        step(running, "promote")
        until(lambda: all_answer(running, "open", 200), WITHIN, "the live version serves")
        answer = infer(running, "open")
        assert answer.json()["model_version"] == "1"
        assert not {"deprecation", "sunset", "link"} & answer.headers.keys()
        link = "https://models.example/identity"
        step(running, "deprecate", "--reason", "a better one", "--sunset", "2099-03-31", "--link", link)
        until(lambda: "deprecation" in infer(running, "pinned").headers, WITHIN, "answers say so")
        until(
            lambda: all("deprecation" in infer(running, "pinned").headers for _ in range(8)), WITHIN, "of all workers"
        )
        for path in ("/v2/models/pinned/infer", "/v2/models/pinned/versions/1/infer"):
            headers = running.post(path, fp32()).headers
            assert headers["deprecation"].startswith("@")
            assert parsedate_to_datetime(headers["sunset"]).date().isoformat() == "2099-03-31"
            assert headers["link"] == f'<{link}>; rel="deprecation"'
        metadata = ask(made, request).metadata
        assert metadata["deprecation"] == headers["deprecation"]
        assert metadata["sunset"] == headers["sunset"]
    page = running.get("/gateway/v1/registry/identity_fp32").json()["versions"]
    assert [(one["version"], one["state"], one["serves"], one["live"]) for one in page] == [
        ("1", "deprecated", True, False)
    ]
    assert running.get("/gateway/v1/registry").json() == {"versions": page}
    assert running.get("/gateway/v1/registry/nothing").status == 404
    step(running, "retire", "--reason", "replaced")
    until(lambda: all_answer(running, "pinned", 403), WITHIN, "the retired version serves no more")
    assert infer(running, "pinned").error.endswith("it is retired")
    running.stop()
    records = [json.loads(line) for line in shown(running)]
    steps = [record["details"]["step"] for record in records if record["kind"] in ("registry", "approval")]
    assert steps == ["registered", "submitted", "promoted", "deprecated", "retired"]
    barred = [one for one in records if one["kind"] == "inference" and one["variant"] == "unknown"]
    assert [(one["outcome"], one["status"], one["version"]) for one in barred] == [("refused", "403", "7")]
    # Not the first: requests came to different workers, whose records the log takes in by turns.
    barred = [one for one in records if one["kind"] == "inference" and one["model"] == "pinned"]
    assert {one["status"] for one in barred if one["outcome"] == "refused"} == {"403", "PERMISSION_DENIED"}


def shown(running) -> list[str]:
    import subprocess
    import sys

    command = [sys.executable, "-m", "gateway", "audit", "show", str(running.folder / "state" / "audit")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_store_that_is_away_changes_nothing(site):
    running = site("true")
    approve(running)
    until(lambda: all_answer(running, "pinned", 200), WITHIN, "the approved version serves")
    store = running.folder / "state" / "store"
    kept = {path.name: path.read_bytes() for path in store.iterdir()}
    for path in store.iterdir():
        path.write_bytes(b"no database" * 500)
    until(lambda: "cannot be followed" in running.log.read_text(), WITHIN, "the log says so")
    assert all_answer(running, "pinned", 200)
    for name, data in kept.items():
        (store / name).write_bytes(data)
    until(lambda: "is followed again" in running.log.read_text(), WITHIN, "and that it is back")
    assert all_answer(running, "pinned", 200)


def test_warn_serves_and_counts_and_the_setting_changes_while_it_runs(site):
    running = site("warn")
    assert [infer(running, route).status for route in ("pinned", "open")] == [200, 200]
    until(lambda: running.metric("tidegate_registry_unapproved_total", route="pinned", variant="only") == 1, WITHIN)
    assert running.metric("tidegate_registry_unapproved_total", route="open") == 1
    text = running.config.read_text()
    running.config.write_text(text.replace("enforce: warn", "enforce: true"))
    until(lambda: all_answer(running, "pinned", 403), WITHIN, "the registry is enforced")
    assert running.get("/gateway/v1/registry").json() == {"versions": []}
    running.config.write_text(text.replace("enforce: warn", "enforce: false"))
    until(lambda: all_answer(running, "pinned", 200), WITHIN, "nobody looks")
    running.config.write_text(text.replace("registry: {enforce: warn, requirements: requirements.yaml}\n", ""))
    until(lambda: "`registry` cannot change while the gateway runs" in running.log.read_text(), WITHIN)
